"""How fast the implementations of the attention are, side by side, and how accurate.

Times depend on where a model samples: neighbouring queries that read the same pixels find them in
the cache. So there are three kinds of sampling locations: "initial" is the star that training
starts from, "gaussian" a cloud of two pixels around the reference point as in a trained model, and
"uniform" locations all over the image, which no model asks for, but which most published figures
are measured with.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddetr_edu.attention import backends, encoder_reference_points, initial_offsets, ms_deform_attn
from ddetr_edu.attention.kernels.build import processor
from ddetr_edu.attention.locations import SpatialShapes, sampling_locations

LEVELS = [(100, 150), (50, 75), (25, 38), (13, 19)]  # an image of 800 x 1200, finest level first
HEADS, CHANNELS, POINTS = 8, 32, 4  # M, D, P
QUERIES = {"encoder": sum(height * width for height, width in LEVELS), "decoder": 300}
LOCATIONS = ("initial", "gaussian", "uniform")
DIRECTIONS = ("forward", "backward", "both")

Inputs = tuple[Tensor, SpatialShapes, Tensor, Tensor]  # value, shapes, locations, weights
T = TypeVar("T")


def time_case(
    names: tuple[str, ...], shape: str, locations: str, n_images: int, rounds: int
) -> list[dict[str, Any]]:
    """Measure the times of several backends on one input, and their errors.

    The backends take turns, so that a change of the machine's load affects all of them.

    Args:
        names: The backends; the first is the baseline of the ratios.
        shape: "encoder" or "decoder", which sets Lq.
        locations: "initial", "gaussian" or "uniform".
        n_images: N.
        rounds: How often each is timed.

    Returns:
        One row for each backend and direction: median, smallest and largest time in milliseconds,
        the ratio of the baseline's median to this one, and the largest relative error.
    """
    inputs = make_inputs(n_images, QUERIES[shape], locations)
    errors = {name: max_errors(name, inputs) for name in names}
    times: dict[tuple[str, str], list[float]] = {
        (name, direction): [] for name in names for direction in DIRECTIONS
    }
    for turn in range(rounds + 1):
        for name in names:
            measured = time_once(name, inputs)
            if turn > 0:  # the first round warms up
                for direction, milliseconds in measured.items():
                    times[name, direction].append(milliseconds)
    medians = {key: statistics.median(of_key) for key, of_key in times.items()}
    return [
        {
            "backend": name,
            "direction": direction,
            "median_ms": round(medians[name, direction], 3),
            "min_ms": round(min(times[name, direction]), 3),
            "max_ms": round(max(times[name, direction]), 3),
            "ratio": round(medians[names[0], direction] / medians[name, direction], 2),
            "max_error": errors[name]["forward" if direction == "forward" else "backward"],
        }
        for name, direction in times
    ]


def make_inputs(n_images: int, n_queries: int, locations: str) -> Inputs:
    """The inputs of a benchmark, the same at every call.

    Args:
        n_images: N.
        n_queries: Lq; if it is S, the queries are the tokens, as in an encoder.
        locations: "initial", "gaussian" or "uniform".

    Returns:
        value, spatial_shapes, sampling_locations and attention_weights, fp32.
    """
    generator = torch.Generator().manual_seed(0)
    n_levels = len(LEVELS)
    n_tokens = sum(height * width for height, width in LEVELS)
    per_point = (n_images, n_queries, HEADS, n_levels, POINTS)
    value = torch.randn(n_images, n_tokens, HEADS, CHANNELS, generator=generator)
    weights = torch.randn(per_point, generator=generator).flatten(-2).softmax(-1).view(per_point)
    if locations == "uniform":
        return value, LEVELS, torch.rand(*per_point, 2, generator=generator), weights
    reference = encoder_reference_points(LEVELS, torch.ones(n_images, n_levels, 2))  # (N, S, L, 2)
    if n_queries != n_tokens:
        reference = torch.rand(n_images, n_queries, 1, 2, generator=generator)
        reference = reference.expand(-1, -1, n_levels, -1)
    if locations == "initial":
        offsets = initial_offsets(HEADS, n_levels, POINTS).expand(*per_point, 2)
    else:
        offsets = 2 * torch.randn(*per_point, 2, generator=generator)
    return value, LEVELS, sampling_locations(reference, offsets, LEVELS), weights


def time_once(backend: str, inputs: Inputs) -> dict[str, float]:
    """Time one forward pass without gradients, one backward pass, and one of both.

    Args:
        backend: The backend.
        inputs: From `make_inputs`.

    Returns:
        Milliseconds for each of `DIRECTIONS`.
    """
    value, levels, locations, weights = inputs
    with torch.no_grad():
        forward, _ = time_call(lambda: ms_deform_attn(value, levels, locations, weights, backend))
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    with_graph, output = time_call(
        lambda: ms_deform_attn(leaves[0], levels, leaves[1], leaves[2], backend)
    )
    grad_output = torch.ones_like(output)
    backward, _ = time_call(lambda: torch.autograd.grad(output, leaves, grad_output))
    return {"forward": forward, "backward": backward, "both": with_graph + backward}


def time_call(function: Callable[[], T]) -> tuple[float, T]:
    """Call a function and time it.

    Args:
        function: Takes no arguments.

    Returns:
        The milliseconds that it took, and its result.
    """
    started = time.perf_counter()
    result = function()
    return (time.perf_counter() - started) * 1000, result


def max_errors(backend: str, inputs: Inputs) -> dict[str, float]:
    """The largest errors of the output and of the gradients, compared with fp64.

    Only about 100 queries, evenly spaced, are compared, because fp64 takes long. Gradients of
    locations close to a row or column of pixel centres are left out: the slope jumps there, and
    rounding decides on which side of it a location lies.

    Args:
        backend: The backend.
        inputs: From `make_inputs`.

    Returns:
        Errors of "forward" and "backward", relative to the largest number of each tensor.
    """
    value, levels, locations, weights = inputs
    step = max(1, locations.shape[1] // 100)
    locations, weights = locations[:, ::step], weights[:, ::step]
    sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
    pixels = locations.double() * sizes - 0.5
    smooth = ((pixels - pixels.round()).abs() > 1e-3).all(-1, keepdim=True)
    results = []
    for name, dtype in ((backend, torch.float32), ("grid_sample", torch.float64)):
        leaves = [t.to(dtype).detach().requires_grad_() for t in (value, locations, weights)]
        output = ms_deform_attn(leaves[0], levels, leaves[1], leaves[2], name)
        grads = torch.autograd.grad(output, leaves, torch.ones_like(output))
        results.append([output.detach(), grads[0], grads[1] * smooth, grads[2]])
    errors = [relative_error(result, exact) for result, exact in zip(*results, strict=True)]
    return {"forward": errors[0], "backward": max(errors[1:])}


def relative_error(result: Tensor, exact: Tensor) -> float:
    """The largest error of a tensor, relative to the largest number of the exact one.

    Args:
        result: Any shape.
        exact: The same shape.

    Returns:
        The error, rounded to two digits.
    """
    largest = exact.abs().max().clamp_min(1e-30)
    return float(f"{((result - exact).abs().max() / largest).item():.1e}")


def machine() -> dict[str, Any]:
    """What measurements depend on besides the code: the processor, its load and the versions."""
    kernel = backends()["cpu"]
    model = next(
        (
            line.split(":")[1].strip()
            for line in processor().splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    return {
        "date": date.today().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "torch": torch.__version__.split("+")[0],
        "kernel": kernel.note,
        "load_before": load_average(),
    }


def load_average() -> float | None:
    """The load of the machine in the last minute, in cores; None on systems that do not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
