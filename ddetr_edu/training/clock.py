"""How far a run has come, and how long it will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ddetr_edu.training import distributed


class Clock:
    """Counts the steps of a run and its minutes of training, without those in `paused`.

    It is read once a step, by all processes together, so that they agree when to end.

    minutes, steps: how long the run is; one of the two is None
    """

    def __init__(self, minutes: float | None, steps: int | None):
        self.step, self.minutes = 0, 0.0
        self.most_minutes, self.most_steps = minutes, steps
        self._started = time.monotonic()

    def start(self, step: int = 0, minutes: float = 0.0) -> None:
        """Count from here, and from now."""
        self.step, self.minutes = step, minutes
        self._started = time.monotonic() - 60 * minutes

    def tick(self, device: torch.device) -> None:
        """A step is done."""
        self.step += 1
        passed = (time.monotonic() - self._started) / 60
        (self.minutes,) = distributed.largest([passed], device)

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end of the run."""
        if self.most_minutes is not None:
            return min(1.0, self.minutes / self.most_minutes)
        return min(1.0, self.step / self.most_steps)

    def minutes_left(self, seconds_per_step: float) -> float:
        """Minutes to the end of the run, at this speed."""
        if self.most_minutes is not None:
            return max(0.0, self.most_minutes - self.minutes)
        return (self.most_steps - self.step) * seconds_per_step / 60

    @contextmanager
    def paused(self) -> Iterator[None]:
        stopped = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - stopped
