"""What bounds the C++ kernel: its times beside the least that the memory alone would take.

    uv run python benchmarks/bounds.py

Each line is one task on the benchmark's inputs (two pictures of 800 x 1200, 2 px around the
reference). Caches are emptied before every call, as between the layers of a model. "in hand" means
that the results are written to memory which the process already has; "new" memory comes from the
system page by page, as it does for every large tensor that torch makes.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention import native
from ddetr_edu.bench import LEVELS, QUERIES, machine, make_inputs

ROUNDS = 15
_larger_than_any_cache = torch.empty(64 * 2**20)


def milliseconds(work: Callable[[], object]) -> float:
    """Median over some rounds, each with cold caches; the first warms up."""
    times = []
    for turn in range(ROUNDS + 1):
        _larger_than_any_cache.fill_(turn)
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times[1:]), 2)


def corner_rows(locations: Tensor) -> Tensor:
    """Which rows of value.view(N*S*M, D) the points read: one index for each corner inside."""
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
    value, levels, locations, weights = make_inputs(2, QUERIES[shape], "near")
    sides = [side for level in levels for side in level]
    incoming = torch.ones(*locations.shape[:2], value.shape[2] * value.shape[3])
    output = torch.empty_like(incoming)
    gradients = [torch.zeros_like(t) for t in (value, locations, weights)]
    sizes = native._arguments(value, sides, locations)

    def forward(output: Tensor) -> None:
        inputs = (value, locations, weights)
        native.kernel().forward[value.dtype](*sizes, *addresses(*inputs, output))

    def backward(gradients: list[Tensor]) -> None:
        inputs = (incoming, value, locations, weights)
        native.kernel().backward[value.dtype](*sizes, *addresses(*inputs, *gradients))

    def fresh() -> list[Tensor]:
        return [torch.empty_like(t) for t in (value, locations, weights)]

    times = {
        "forward, in hand": milliseconds(lambda: forward(output)),
        "forward, new": milliseconds(lambda: forward(torch.empty_like(incoming))),
        "backward, in hand": milliseconds(lambda: backward(gradients)),
        "backward, new": milliseconds(lambda: backward(fresh())),
        "zeros into grad_value, in hand": milliseconds(gradients[0].zero_),
        "zeros into grad_value, new": milliseconds(lambda: torch.zeros_like(value)),
    }
    if shape == "decoder":
        rows, index = value.view(-1, value.shape[-1]), corner_rows(locations)
        gathered = torch.empty(len(index), value.shape[-1])
        times["copying the rows it reads (index_select)"] = milliseconds(
            lambda: torch.index_select(rows, 0, index, out=gathered)
        )
        times["reading all of value once, in order"] = milliseconds(value.sum)
    return times


def addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


if __name__ == "__main__":
    native.require()
    results = {"machine": machine()}
    for shape in QUERIES:
        results[shape] = measure(shape)
        for task, time_ms in results[shape].items():
            print(f"{shape:8} {task:42} {time_ms:7.2f} ms")
    Path("benchmarks/results/bounds.json").write_text(json.dumps(results, indent=1) + "\n")
