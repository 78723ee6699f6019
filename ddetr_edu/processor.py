"""How much of the processor other programs use, and how many threads that leaves for us.

The threads of a parallel loop wait for each other at its end, and a step of training has hundreds
of such loops. Where another program has a core half of the time, all threads wait for the one on
that core, each time for some milliseconds: two threads on two shared cores can be twenty times
slower than one. So a program should have no more threads than there are free cores.

Where the system does not tell (it must have /proc/stat, as Linux has), nothing is changed.
"""

import multiprocessing
import os
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")  # https://man7.org/linux/man-pages/man5/proc_stat.5.html
# Columns of /proc/stat: idle, iowait, and guest and guest_nice, which are in user and nice, too.
IDLE = (3, 4, 8, 9)
NOTABLE = 0.25  # of the cores in use by others
MIN_SECONDS = 0.3  # over which the use of the processor is measured


class ProcessorTimes(NamedTuple):
    """What the cores that this process may use have done so far."""

    at: float  # the moment, in seconds
    cores: int
    own: float  # seconds of processor time of this process and its workers
    all: float  # of all programs


class ProcessorUse(NamedTuple):
    """How many cores were in use between two moments, on average."""

    cores: int  # that there are
    own: float  # in use by this process and its workers
    others: float  # in use by other programs

    @property
    def is_contended(self) -> bool:
        """Whether other programs use so much that this one is slower for it."""
        return self.others >= NOTABLE * self.cores

    @property
    def free_cores(self) -> int:
        """How many threads can compute without waiting for other programs, at least one."""
        return max(1, round(self.cores - self.others)) if self.is_contended else self.cores


def read_times() -> ProcessorTimes | None:
    """The times up to now, or None where the system does not tell."""
    try:
        cores = os.sched_getaffinity(0)
        per_second = os.sysconf("SC_CLK_TCK")
        ticks = 0
        for line in (PROC / "stat").read_text().splitlines():
            name, *columns = line.split()
            if name.removeprefix("cpu").isdecimal() and int(name.removeprefix("cpu")) in cores:
                ticks += sum(int(n) for i, n in enumerate(columns) if i not in IDLE)
        own = time.process_time()
        for worker in multiprocessing.active_children():
            after_name = (PROC / str(worker.pid) / "stat").read_text().rpartition(")")[2].split()
            own += (int(after_name[11]) + int(after_name[12])) / per_second  # utime, stime
        return ProcessorTimes(time.monotonic(), len(cores), own, ticks / per_second)
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def use_between(before: ProcessorTimes, after: ProcessorTimes) -> ProcessorUse:
    """The use of the processor between two moments.

    Args:
        before: The earlier one.
        after: The later one.

    Returns:
        Averages, none below 0.
    """
    seconds = max(after.at - before.at, 1e-9)
    own = max(after.own - before.own, 0.0) / seconds
    others = max((after.all - before.all) / seconds - own, 0.0)
    return ProcessorUse(after.cores, own, min(others, after.cores))


def measure_use(start: ProcessorTimes | None) -> ProcessorUse | None:
    """The use of the processor since some moment, at least `MIN_SECONDS` ago.

    Args:
        start: The times at that moment, from `read_times`.

    Returns:
        The use, or None where the system does not tell.
    """
    if start is None:
        return None
    time.sleep(max(0.0, start.at + MIN_SECONDS - time.monotonic()))
    now = read_times()
    return use_between(start, now) if now is not None else None


def share_processor(start: ProcessorTimes | None) -> str | None:
    """Let torch compute with no more threads than there are free cores.

    A number that the user has set (OMP_NUM_THREADS) is kept.

    Args:
        start: The times at an earlier moment, from `read_times`.

    Returns:
        A sentence that says so, or None if nothing was changed.
    """
    use = None if "OMP_NUM_THREADS" in os.environ else measure_use(start)
    if use is None or not use.is_contended:
        return None
    import torch  # here, because commands without torch need the rest of this module

    if use.free_cores >= torch.get_num_threads():
        return None
    torch.set_num_threads(use.free_cores)
    return describe_threads(use, use.free_cores)


def use_free_cores() -> None:
    """The same for a notebook's first cell: measure, and let torch have the free cores.

    It prints nothing, so that the output of the cell does not depend on other programs.
    """
    share_processor(read_times())


def describe_threads(use: ProcessorUse, threads: int) -> str:
    """A sentence about how many threads are used because of other programs."""
    return (
        f"other programs use {use.others:.1f} of the {use.cores} cores: computing with "
        f"{threads} thread{'s' * (threads > 1)}"
    )
