"""The traced run of the CUDA kernel that lesson 15 looks at: its inputs, and what was recorded.

Where the kernel cannot be compiled, a recording of the same run takes its place.
"""

import json
from typing import NamedTuple

import torch
from torch import Tensor

from ddetr_edu.attention import encoder_reference_points, initial_offsets, sampling_locations
from ddetr_edu.attention.kernels.build import BuildError
from ddetr_edu.course.kernel_trace import (
    Inputs,
    Step,
    additions_to_tokens,
    run_kernel_on_cpu,
    steps_of_warp,
)
from ddetr_edu.course.warp import LANES
from ddetr_edu.files import shipped_path

RECORDING = "lessons/logs/15_warp.json"


def example_inputs() -> Inputs:
    """An encoder layer that has just been initialised, on two levels of 8 x 16 and 4 x 8 tokens.

    Returns:
        One image, 160 queries, 2 heads of 32 channels, 2 levels, 4 points.
    """
    shapes = [(8, 16), (4, 8)]
    n_heads, channels, n_points = 2, 32, 4
    generator = torch.Generator().manual_seed(0)
    references = encoder_reference_points(shapes, torch.ones(1, len(shapes), 2))
    n_queries = references.shape[1]
    offsets = initial_offsets(n_heads, len(shapes), n_points) - 0.125  # not on pixel centres
    offsets = offsets.expand(1, n_queries, *offsets.shape)
    locations = sampling_locations(references, offsets, shapes)
    value = torch.randint(-8, 9, (1, n_queries, n_heads, channels), generator=generator).float()
    grad = torch.randint(-8, 9, (1, n_queries, n_heads * channels), generator=generator).float()
    weights = torch.full(locations.shape[:-1], 1 / (len(shapes) * n_points))
    return Inputs(value, shapes, locations.contiguous(), weights, grad)


def corners_on_tokens(inputs: Inputs) -> Tensor:
    """How many sampling points have a token for one of their four pixels.

    Args:
        inputs: Of one image.

    Returns:
        (S, M).
    """
    _, n_tokens, n_heads, _ = inputs.value.shape
    counts = torch.zeros(n_tokens, n_heads, dtype=torch.long)
    start = 0
    for level, (height, width) in enumerate(inputs.spatial_shapes):
        pixels = inputs.locations[0, :, :, level] * torch.tensor([width, height]) - 0.5
        first = pixels.floor().long()  # (Lq, M, P, 2), x before y
        for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
            x, y = (first + torch.tensor(step)).unbind(-1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            tokens = start + y * width + x
            for head in range(n_heads):
                of_head = tokens[:, head][inside[:, head]]
                counts[:, head] += of_head.bincount(minlength=n_tokens)
        start += height * width
    return counts


class Recording(NamedTuple):
    """What lesson 15 looks at."""

    steps: list[Step]  # of one warp of the forward pass
    sectors_asked: int  # that the reads of value of its whole block touch, one by one
    sectors_distinct: int  # of these
    additions: Tensor  # (S, M), of the backward pass
    source: str  # where it comes from


BLOCK, WARP = 5, 3  # four queries: tokens 4 to 7 of row 1, and head 1


def trace_example() -> Recording:
    """The run of the kernels on `example_inputs`: here and now, or else as it was recorded.

    Returns:
        The same in both cases, except for the source.

    Raises:
        FileNotFoundError: If the recording is missing as well.
    """
    try:
        return traced_now()
    except (BuildError, OSError) as reason:
        return read_recording(f"a recording, because the kernel does not compile here: {reason}")


def traced_now() -> Recording:
    """Run the kernels on `example_inputs`.

    Returns:
        What they do.

    Raises:
        BuildError: If they cannot be compiled here.
    """
    inputs = example_inputs()
    _, forward = run_kernel_on_cpu("forward", inputs)
    _, backward = run_kernel_on_cpu("backward", inputs)
    n_threads = int(forward.rows[:, 2].max()) + 1
    reads = [
        step
        for warp in range(n_threads // LANES)
        for step in steps_of_warp(forward, BLOCK, warp)
        if step.array == "value"
    ]
    return Recording(
        steps_of_warp(forward, BLOCK, WARP),
        sum(len(step.sectors()) for step in reads),
        len(set().union(*(step.sectors() for step in reads))),
        additions_to_tokens(backward, inputs.value),
        "the kernel's own source, run on this processor",
    )


def read_recording(source: str) -> Recording:
    """The recording that comes with the lessons; benchmarks/warp_trace.py made it.

    Args:
        source: What to say about it.

    Returns:
        What `traced_now` returned on another machine.

    Raises:
        FileNotFoundError: If it is missing.
    """
    path = shipped_path(RECORDING)
    recorded = json.loads(path.read_text(encoding="utf-8"))
    steps = [Step(*step) for step in recorded.pop("steps")]
    additions = torch.tensor(recorded.pop("additions"))
    return Recording(steps=steps, additions=additions, source=source, **recorded)
