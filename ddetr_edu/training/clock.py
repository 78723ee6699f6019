"""How far a run has come, and how long the rest will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ddetr_edu import distributed


class Clock:
    """Counts the steps of a run and its minutes of training, without the time in `paused`.

    Once a step all processes agree on the minutes, so that they end at the same step.

    Args:
        max_minutes: The length of the run in minutes, or None.
        max_steps: Its length in steps, or None; exactly one of the two is given.
    """

    def __init__(self, max_minutes: float | None, max_steps: int | None):
        self.step, self.minutes = 0, 0.0
        self.max_minutes, self.max_steps = max_minutes, max_steps
        self._started = time.monotonic()

    def start(self, step: int = 0, minutes: float = 0.0) -> None:
        """Count on from here.

        Args:
            step: The steps so far.
            minutes: The minutes of training so far.
        """
        self.step, self.minutes = step, minutes
        self._started = time.monotonic() - 60 * minutes

    def tick(self, device: torch.device) -> None:
        """Count one step. Every process must call this.

        Args:
            device: Where the processes exchange their times.
        """
        self.step += 1
        elapsed = (time.monotonic() - self._started) / 60
        (self.minutes,) = distributed.all_reduce_max([elapsed], device)

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end of the run."""
        if self.max_minutes is not None:
            return min(1.0, self.minutes / self.max_minutes)
        assert self.max_steps is not None
        return min(1.0, self.step / self.max_steps)

    def minutes_left(self, seconds_per_step: float) -> float:
        """Minutes to the end of the run.

        Args:
            seconds_per_step: The speed of the steps to come.

        Returns:
            Minutes of training, at least 0.
        """
        if self.max_minutes is not None:
            return max(0.0, self.max_minutes - self.minutes)
        assert self.max_steps is not None
        return (self.max_steps - self.step) * seconds_per_step / 60

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it lasts, time does not count as training."""
        paused_at = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - paused_at
