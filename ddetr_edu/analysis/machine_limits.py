"""What this machine can do at best: the two ceilings of a roofline, measured in a second.

No computation can be faster than the arithmetic units, nor faster than its numbers arrive from
memory. Both limits are taken from a task that does almost nothing else: the product of two large
matrices, and the copy of a large tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ddetr_edu.analysis.attention_cost import clock

SIDE = 1024  # of the matrices
COPIED = 2**25  # numbers in the copied tensor, 128 MiB: more than most caches hold
ROUNDS = 5  # of which the fastest counts: other programs only ever make a task slower


@dataclass(frozen=True)
class MachineLimits:
    """The ceilings of one machine, with the threads that torch uses."""

    gflops: float  # billions of FLOPs per second, in fp32
    gigabytes: float  # billions of bytes per second, read and written

    @property
    def ridge(self) -> float:
        """The FLOPs per byte from which on arithmetic is the limit, not memory."""
        return self.gflops / self.gigabytes

    def attainable(self, intensity: float) -> float:
        """The roof over an arithmetic intensity.

        Args:
            intensity: FLOPs for each byte that is read or written.

        Returns:
            Billions of FLOPs per second at best.
        """
        return min(self.gflops, self.gigabytes * intensity)


def measure_limits() -> MachineLimits:
    """Measure both ceilings on the CPU, in fp32."""
    one, other = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    product = torch.empty(SIDE, SIDE)
    source, target = torch.ones(COPIED), torch.ones(COPIED)
    return MachineLimits(
        2 * SIDE**3 / 1e9 / fastest(lambda: torch.mm(one, other, out=product)),
        2 * source.nbytes / 1e9 / fastest(lambda: target.copy_(source)),
    )


def fastest(task: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The time of a task, the shortest of several.

    Args:
        task: Takes no arguments.
        rounds: How often it is timed, after once to warm up.

    Returns:
        Seconds.
    """
    now, times = clock(), []
    for _ in range(rounds + 1):
        started = now()
        task()
        times.append(now() - started)
    return max(min(times[1:]), 1e-9)  # a clock may be too coarse to see it
