"""Single operations of the r50 model with their FLOPs, their bytes and their time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddetr_edu.analysis.flops import count_flops
from ddetr_edu.analysis.machine_limits import fastest
from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.benchmark import QUERIES, make_inputs
from ddetr_edu.models.encoder import FeedForward

CHANNELS, D_FFN = 256, 1024  # C, and the hidden channels of the feed-forward network
STEM_CHANNELS, STEM_SHAPE = 64, (200, 300)  # of ResNet-50's first stage, at 800 x 1200 pixels


@dataclass(frozen=True)
class Measured:
    """What one operation needs, and how long it took."""

    flops: int
    nbytes: int  # every input, parameter and result once
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.nbytes

    @property
    def gflops(self) -> float:
        """Billions of FLOPs per second that were attained."""
        return self.flops / self.seconds / 1e9


@torch.no_grad()
def measure_operations(rounds: int = 3) -> dict[str, Measured]:
    """Measure operations of the r50 model on one image of 800 x 1200 pixels, on the CPU.

    Args:
        rounds: How often each is timed; the fastest counts.

    Returns:
        {operation: what was measured}.
    """
    value, levels, locations, weights = make_inputs(1, QUERIES["encoder"], "gaussian")
    tokens, position = torch.randn(2, 1, QUERIES["encoder"], CHANNELS).unbind()  # (1, S, C) each
    image = torch.randn(1, STEM_CHANNELS, *STEM_SHAPE)
    tasks: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "3x3 convolution": (nn.Conv2d(STEM_CHANNELS, STEM_CHANNELS, 3, padding=1), (image,)),
        "feed-forward network": (FeedForward(CHANNELS, D_FFN, dropout=0), (tokens,)),
        "value projection": (nn.Linear(CHANNELS, CHANNELS), (tokens,)),
        "sampling": (lambda v, x, w: ms_deform_attn(v, levels, x, w), (value, locations, weights)),
        "addition": (torch.add, (tokens, position)),
    }
    return {name: measure(*task, rounds) for name, task in tasks.items()}


def measure(
    operation: Callable[..., Tensor], inputs: tuple[Tensor, ...], rounds: int = 3
) -> Measured:
    """Measure one operation.

    Args:
        operation: A module, or a function without parameters of its own.
        inputs: What it takes, on the CPU.
        rounds: How often it is timed.

    Returns:
        Its FLOPs, counted on the device "meta", with one for each number of the result where torch
        counts none; its bytes; and its time.
    """
    result = operation(*inputs)
    parameters = list(operation.parameters()) if isinstance(operation, nn.Module) else []
    seconds = fastest(lambda: operation(*inputs), rounds)
    without_numbers = operation
    if isinstance(operation, nn.Module):
        without_numbers = operation.to("meta")
    on_meta = [tensor.to("meta") for tensor in inputs]
    flops = count_flops(lambda: without_numbers(*on_meta)) or result.numel()
    nbytes = sum(tensor.nbytes for tensor in [*inputs, *parameters, result])
    return Measured(flops, nbytes, seconds)
