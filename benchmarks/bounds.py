"""What limits the C++ kernel: its times compared with those of plain memory traffic.

    uv run python benchmarks/bounds.py

Each line is one task on the benchmark's inputs (two images of 800 x 1200, locations with a standard
deviation of 2 px around the reference point). Caches are emptied before every call, as they are
between the layers of a model. "preallocated" means that results are written to memory which the
process already has; "newly allocated" memory comes from the system page by page, as it does for
every large tensor that torch creates. Prints a table; writes benchmarks/results/bounds.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention.benchmark import LEVELS, QUERIES, machine, make_inputs
from ddetr_edu.attention.kernels import cpu

ROUNDS = 15
_larger_than_any_cache = torch.empty(64 * 2**20)


def milliseconds(work: Callable[[], object]) -> float:
    """The median over ROUNDS calls, each with cold caches, after one call to warm up."""
    times = []
    for turn in range(ROUNDS + 1):
        _larger_than_any_cache.fill_(turn)
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times[1:]), 2)


def corner_rows(locations: Tensor) -> Tensor:
    """The rows that bilinear sampling reads: one for each corner that lies inside its level.

    Args:
        locations: (N, Lq, M, L, P, 2), sampling locations.

    Returns:
        Indices into value.view(N*S*M, D), in the order of levels and corners.
    """
    n_images, _, n_heads = locations.shape[:3]
    n_tokens = QUERIES["encoder"]
    image = torch.arange(n_images)[:, None, None, None]
    head = torch.arange(n_heads)[None, None, :, None]
    rows, start = [], 0
    for level, (height, width) in enumerate(LEVELS):
        x, y = (locations[:, :, :, level] * torch.tensor([width, height]) - 0.5).unbind(-1)
        for row in (y.floor().long(), y.floor().long() + 1):
            for column in (x.floor().long(), x.floor().long() + 1):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                token = image * n_tokens + start + row * width + column
                rows.append((token * n_heads + head)[inside])
        start += height * width
    return torch.cat(rows)


def measure(shape: str) -> dict[str, float]:
    """The milliseconds of each task on one shape, "encoder" or "decoder"."""
    value, levels, locations, weights = make_inputs(2, QUERIES[shape], "gaussian")
    flat_spatial_shapes = [side for level in levels for side in level]
    grad_output = torch.ones(*locations.shape[:2], value.shape[2] * value.shape[3])
    output = torch.empty_like(grad_output)
    gradients = [torch.zeros_like(t) for t in (value, locations, weights)]
    sizes = cpu.size_arguments(value, flat_spatial_shapes, locations)

    def forward(output: Tensor) -> None:
        inputs = (value, locations, weights)
        cpu.loaded_library().forward[value.dtype](*sizes, *addresses(*inputs, output))

    def backward(gradients: list[Tensor]) -> None:
        inputs = (grad_output, value, locations, weights)
        cpu.loaded_library().backward[value.dtype](*sizes, *addresses(*inputs, *gradients))

    def new_gradients() -> list[Tensor]:
        return [torch.empty_like(t) for t in (value, locations, weights)]

    times = {
        "forward, preallocated": milliseconds(lambda: forward(output)),
        "forward, newly allocated": milliseconds(lambda: forward(torch.empty_like(grad_output))),
        "backward, preallocated": milliseconds(lambda: backward(gradients)),
        "backward, newly allocated": milliseconds(lambda: backward(new_gradients())),
        "zeroing grad_value, preallocated": milliseconds(gradients[0].zero_),
        "zeroing grad_value, newly allocated": milliseconds(lambda: torch.zeros_like(value)),
    }
    if shape == "decoder":
        rows, index = value.view(-1, value.shape[-1]), corner_rows(locations)
        gathered = torch.empty(len(index), value.shape[-1])
        times["gathering the sampled rows (index_select)"] = milliseconds(
            lambda: torch.index_select(rows, 0, index, out=gathered)
        )
        times["reading all of value once, sequentially"] = milliseconds(value.sum)
    return times


def addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    cpu.require()
    results: dict[str, dict] = {"machine": machine()}
    for shape in QUERIES:
        results[shape] = measure(shape)
        for task, time_ms in results[shape].items():
            print(f"{shape:8} {task:42} {time_ms:7.2f} ms")
    Path("benchmarks/results/bounds.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
