"""What attention costs: the time of a call, and the memory that training keeps for its gradient.

Dense and deformable attention are compared on the same tokens, those of all four levels of an
image, with equal channels and heads. Each of them comes in two implementations, because it matters
how a thing is computed, too:

- "dense, stored" computes all attention weights, stores them, and multiplies them by the values,
  as DETR did in 2020;
- "dense, fused" is the same function computed tile by tile (FlashAttention): no weight is kept;
- "deformable, grid_sample" samples with torch's own function, one call for each level;
- "deformable, kernel" samples and adds up in one pass, in this library's compiled kernel.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ddetr_edu.attention import MSDeformAttn, backends, encoder_reference_points

CHANNELS, HEADS, STRIDES, POINTS = 256, 8, (8, 16, 32, 64), 4  # the paper's C, M, strides and P
BACKEND = {"deformable, grid_sample": "grid_sample", "deformable, kernel": "cpu"}
MAX_STORED_TOKENS = 1500  # beyond, the stored weights take too long and too much memory
MIN_SECONDS = 0.01  # a call that is shorter is repeated, and its shortest time counts


class Layer(NamedTuple):
    """One attention layer with its input."""

    module: nn.Module
    run: Callable[[], Tensor]  # one forward pass
    n_tokens: int


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of the four levels of an image.

    Args:
        height: Of the image, in pixels.
        width: The same.

    Returns:
        [(H, W), ...], finest first; strides round up.
    """
    return [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]


def implementations() -> list[str]:
    """The implementations that run on this machine; the kernel needs a compiler."""
    names = ["dense, stored", "dense, fused", *BACKEND]
    return [n for n in names if n not in BACKEND or backends()[BACKEND[n]].available]


def attention_layer(name: str, height: int, width: int, device: str = "cpu") -> Layer:
    """Make self-attention over all tokens of an image, as a layer of an encoder calls it.

    Args:
        name: One of `implementations()`.
        height: Of the image, in pixels.
        width: The same.
        device: "cpu", or "meta" for shapes without numbers ("dense, stored" only).

    Returns:
        The layer; its parameters and tokens are random.
    """
    shapes = level_shapes(height, width)
    n_tokens = sum(h * w for h, w in shapes)
    with torch.device(device):
        tokens = torch.randn(1, n_tokens, CHANNELS)
        query = (tokens + torch.randn(1, n_tokens, CHANNELS)).requires_grad_()  # plus position
        if name in BACKEND:
            deformable = MSDeformAttn(CHANNELS, HEADS, len(STRIDES), POINTS, backend=BACKEND[name])
            reference = encoder_reference_points(shapes, torch.ones(1, len(shapes), 2))
            return Layer(deformable, lambda: deformable(query, reference, tokens, shapes), n_tokens)
        dense = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
        stored = name == "dense, stored"
        return Layer(dense, lambda: dense(query, query, tokens, need_weights=stored)[0], n_tokens)


def kept_bytes(name: str, height: int, width: int) -> int:
    """Count the memory that a forward pass in training keeps until the backward pass.

    Autograd hands every tensor that it saves to the hook below. Tensors that share their memory
    count once, and the layer's parameters, which are there anyway, do not count. The number is
    exact and the same on every machine, unlike the peak that an operating system reports.

    Args:
        name: One of `implementations()`.
        height: Of the image, in pixels.
        width: The same.

    Returns:
        Bytes, for one layer and one image.
    """
    # Stored weights may be larger than the machine; only their shapes are needed.
    layer = attention_layer(name, height, width, "meta" if name == "dense, stored" else "cpu")
    own = {id_of(parameter) for parameter in layer.module.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        if id_of(tensor) not in own:
            kept[id_of(tensor)] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layer.run()
    return sum(storage.nbytes() for storage in kept.values())


def id_of(tensor: Tensor) -> int:
    """What tells the memory of a tensor from all other memory, on the device "meta" too."""
    return tensor.untyped_storage()._cdata


@torch.no_grad()
def time_attention(
    image_sizes: Sequence[tuple[int, int]], rounds: int = 3
) -> tuple[Tensor, dict[str, Tensor]]:
    """Time a forward pass of every implementation on images of several sizes.

    In each round all implementations and sizes take turns, so that another program that is busy for
    a while disturbs all of them.

    Args:
        image_sizes: (height, width) of each image, in pixels.
        rounds: R, how often each is timed.

    Returns:
        The numbers of tokens (n,), and for each implementation milliseconds (R, n); NaN where the
        stored weights would take too much memory.
    """
    layers = {
        name: [attention_layer(name, *size) for size in image_sizes] for name in implementations()
    }
    tokens = torch.tensor([layer.n_tokens for layer in layers["dense, fused"]], dtype=torch.float64)
    times = {
        name: torch.full((rounds, len(tokens)), torch.nan, dtype=torch.float64) for name in layers
    }
    for turn in range(-1, rounds):  # the first turn warms up
        for k in range(len(tokens)):
            for name in layers:
                if name != "dense, stored" or tokens[k] <= MAX_STORED_TOKENS:
                    milliseconds = shortest_time(layers[name][k].run)
                    if turn >= 0:
                        times[name][turn, k] = milliseconds
    return tokens, times


def shortest_time(function: Callable[[], object]) -> float:
    """The time of a call in milliseconds: of several calls if they are short, the shortest."""
    now = clock()
    shortest, started = math.inf, now()
    while True:
        before = now()
        function()
        after = now()
        shortest = min(shortest, after - before)
        if after - started >= MIN_SECONDS:
            return 1000 * shortest


def clock() -> Callable[[], float]:
    """The clock to measure with, in seconds.

    If torch computes with one thread, that is the time for which this process had a processor: the
    time of other programs does not count. Windows counts it too coarsely.
    """
    one_thread = torch.get_num_threads() == 1 and os.name != "nt"
    return time.process_time if one_thread else time.perf_counter


def crossing(tokens: Tensor, dense: Tensor, deformable: Tensor) -> float:
    """Find the number of tokens from which on deformable attention stays faster than dense.

    Of the rounds the shortest time counts: other programs only ever make it longer. Between two
    sizes both curves are straight lines on logarithmic axes.

    Args:
        tokens: (n,), the sizes, in any order.
        dense: (R, n), times in R rounds.
        deformable: (R, n), in the same unit.

    Returns:
        A number of tokens; 0 if dense attention is faster at no size, and infinity if it is at the
        largest.
    """
    tokens, order = tokens.sort()
    lead = (deformable.amin(0) / dense.amin(0)).log()[order].tolist()  # > 0: dense is faster
    last = max((k for k, value in enumerate(lead) if value > 0), default=None)
    if last is None:
        return 0.0
    if last + 1 == len(lead):
        return math.inf
    share = lead[last] / (lead[last] - lead[last + 1])  # of the way from one size to the next
    return math.exp(torch.lerp(tokens[last].log(), tokens[last + 1].log(), share).item())
