"""The time of each part of a model, in a forward pass."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ddetr_edu.analysis.attention_cost import clock
from ddetr_edu.analysis.parts import share_out


def seconds_by_part(
    parts: Mapping[nn.Module, str],
    run: Callable[[], object],
    rounds: int = 3,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Time the parts of a model.

    A pass to warm up comes first: it allocates memory and loads what is loaded only once. Of the
    others the shortest counts as a whole, so that its parts add up to a pass that took place.

    Args:
        parts: {module: part}, such as `main_parts(model)`.
        run: A forward pass of that model, without gradients if it is to be timed without.
        rounds: How many passes are timed.
        device: Where the model runs.

    Returns:
        {part: seconds}.
    """
    now = device_clock(torch.device(device))
    run()
    passes = [share_out(parts, run, now) for _ in range(rounds)]
    return min(passes, key=lambda seconds: sum(seconds.values()))


def device_clock(device: torch.device) -> Callable[[], float]:
    """A clock that waits for the device.

    A GPU is told what to do, and does it later. A clock that does not wait measures how long the
    telling takes, and gives the time of the work to whoever asks for a result first.

    Args:
        device: Where the model runs.

    Returns:
        A function that gives the time in seconds.
    """
    if device.type != "cuda":
        return clock()

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
