"""What other programs that use the processor cost a training, and what is done about it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ddetr_edu import distributed
from ddetr_edu.processor import (
    ProcessorTimes,
    ProcessorUse,
    describe_threads,
    read_times,
    share_processor,
    use_between,
)
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.logging import log0

WINDOW = 5.0  # seconds over which the use of the processor is measured


def has_fixed_threads(config: TrainConfig) -> bool:
    """Whether the user has chosen the number of threads."""
    return config.threads is not None or "OMP_NUM_THREADS" in os.environ


@contextmanager
def chosen_threads(config: TrainConfig, device: torch.device) -> Iterator[int]:
    """During a run, compute with the number of threads that the config asks for.

    Without one, that is a thread for each core that other programs leave free, and the log says so.

    Args:
        config: The settings of the run.
        device: Where the model computes.

    Yields:
        How many threads to use at most.
    """
    before = torch.get_num_threads()
    try:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        elif device.type == "cpu" and distributed.world_size() == 1:
            sentence = share_processor(read_times())
            if sentence is not None:
                log0(f"threads  {sentence}")
        yield config.threads or before
    finally:
        torch.set_num_threads(before)


def describe_slowdown(use: ProcessorUse, threads: int, steps_per_second: float) -> str | None:
    """What other programs cost a training, if it is much.

    Alone, the training would have a core for each thread, or at least those that others use now.

    Args:
        use: Of the processor, during some steps.
        threads: That the training computes with.
        steps_per_second: Its speed meanwhile.

    Returns:
        One line, or None.
    """
    wanted = min(threads, use.cores)
    factor = min(wanted / max(use.own, 0.01), use.cores / max(use.cores - use.others, 0.01))
    if not use.is_contended or factor < 1.25:
        return None
    if threads > use.free_cores:  # how often they wait for each other cannot be told from outside
        fewer = f"{use.free_cores} thread{'s' * (use.free_cores > 1)}"
        return (
            f"slow     {steps_per_second:.2g} steps per second: other programs use "
            f"{use.others:.1f} of the {use.cores} cores, and the {threads} threads of this run "
            "wait for each other, often for ten times as long as they compute; end those "
            f"programs, or resume with {fewer} (--threads or OMP_NUM_THREADS)"
        )
    return (
        f"slow     {steps_per_second:.2g} steps per second, where about "
        f"{factor * steps_per_second:.2g} could be expected: other programs use {use.others:.1f} "
        f"of the {use.cores} cores; end them, or this run takes about {factor:.1f} times as long"
    )


class ThreadWatch:
    """Looks every five seconds how many cores other programs leave, and computes with so many.

    Two looks in a row must agree before the number of threads changes, so that a moment's work of
    another program changes nothing.

    Args:
        max_threads: How many threads to use at most.
        is_fixed: Whether the number must not be changed; what other programs cost is then said,
            once.
    """

    def __init__(self, max_threads: int, is_fixed: bool = False):
        self.max_threads, self.is_fixed = max_threads, is_fixed
        self.is_over = max_threads == 0
        self._times: ProcessorTimes | None = None
        self._step, self._minutes, self._last_wish = 0, 0.0, 0

    def check(self, step: int, minutes: float) -> str | None:
        """Call this after each step.

        Args:
            step: Its number.
            minutes: Of training so far.

        Returns:
            A line for the log, usually None.
        """
        seconds = 60 * (minutes - self._minutes)
        if self.is_over or (self._times is not None and seconds < WINDOW):
            return None
        before, self._times = self._times, read_times()
        line = None
        if self._times is None:
            self.is_over = True  # this system does not tell
        elif before is not None:
            use = use_between(before, self._times)
            line = self._react(use, (step - self._step) / seconds)
        self._step, self._minutes = step, minutes
        return line

    def _react(self, use: ProcessorUse, steps_per_second: float) -> str | None:
        threads = torch.get_num_threads()
        if self.is_fixed or self.max_threads == 1:
            line = describe_slowdown(use, threads, steps_per_second)
            self.is_over = line is not None
            return line
        wish = min(use.free_cores, self.max_threads)
        agreed, self._last_wish = wish == self._last_wish, wish
        if wish == threads or not agreed:
            return None
        torch.set_num_threads(wish)
        if wish < threads:
            return f"threads  {threads} -> {wish}: {describe_threads(use, wish)}"
        return f"threads  {threads} -> {wish}: other programs leave {use.free_cores} cores again"
