"""The comparisons of test_cuda_host.py would notice a broken CUDA kernel.

Each mistake is put into a copy of csrc/, compiled for the CPU without optimisation, and must change
a result. Unchanged sources must not. Mistakes that cannot be made in the kernel are in
test_broken_kernels.py.
"""

import pytest
from host_cuda import HostLaunch, attention, build_host_library, output_and_gradients

from ddetr_edu.attention.kernels import cuda

pytestmark = pytest.mark.usefixtures("compiler")

HEADER, KERNEL = "ms_deform_attn.h", "ms_deform_attn.cu"
OUTPUT, GRAD_VALUE, GRAD_LOCATIONS, GRAD_WEIGHTS = range(4)
CASES = [(direction, "double", 2, 8) for direction in ("forward", "backward")]

# name: the first result that must be wrong, the file, and (text, replacement) pairs
BROKEN = {
    "x and y swapped": (
        OUTPUT,
        KERNEL,
        [
            ("locate_on_axis(location[0], width)", "locate_on_axis(location[1], width)"),
            ("locate_on_axis(location[1], a.height", "locate_on_axis(location[0], a.height"),
        ],
    ),
    "corners aligned": (
        OUTPUT,
        HEADER,
        [("location * T(size) - T(0.5)", "location * T(size - 1)")],
    ),
    "border repeated": (
        OUTPUT,
        HEADER,
        [
            ("pixel > T(-1) ? pixel : T(-2)", "pixel > T(0) ? pixel : T(0)"),
            ("pixel < T(size) ? pixel : T(size)", "pixel < T(size - 1) ? pixel : T(size - 1)"),
        ],
    ),
    "width and height swapped": (
        OUTPUT,
        KERNEL,
        [
            ("width = a.width[level];", "width = a.height[level];"),
            ("locate_on_axis(location[1], a.height", "locate_on_axis(location[1], a.width"),
        ],
    ),
    "every head reads the first": (
        OUTPUT,
        KERNEL,
        [("+ task.head * a.channels;", "+ 0 * a.channels;")],
    ),
    "every image reads the first": (OUTPUT, KERNEL, [("task.image * a.tokens", "0 * a.tokens")]),
    "weights ignored": (
        OUTPUT,
        KERNEL,
        [("return weight * ((corner & BOTTOM_BIT)", "return 1 * ((corner & BOTTOM_BIT)")],
    ),
    "the right and bottom border left out": (
        OUTPUT,
        HEADER,
        [("first < size - 1", "first < size - 2")],
    ),
    "every level begins at the first token": (
        OUTPUT,
        KERNEL,
        [("return {a.start[level] +", "return {0 +")],
    ),
    "the other lane's weight": (
        OUTPUT,
        KERNEL,
        [("own.weight, from, LANES", "own.weight, from ^ 1, LANES")],
    ),
    "the last points left out": (
        OUTPUT,
        KERNEL,
        [("point >= a.levels * a.points", "point >= a.levels * a.points - 1")],
    ),
    "only the first channels": (
        OUTPUT,
        KERNEL,
        [("first_channel += LANES * VECTOR", "first_channel += a.channels")],
    ),
    "tiles that overlap": (
        GRAD_VALUE,
        KERNEL,
        [("tile / tiles_across * tile_height", "tile / tiles_across * (tile_height - 1)")],
    ),
    "locations in pixels": (GRAD_LOCATIONS, HEADER, [("T(width) * weight", "weight")]),
    "slopes reversed": (
        GRAD_LOCATIONS,
        HEADER,
        [("(dot_right - dot_left)", "(dot_left - dot_right)")],
    ),
    "value's gradient without its bilinear weight": (
        GRAD_VALUE,
        KERNEL,
        [("grad_contrib[i] = point.coef(corner)", "grad_contrib[i] = point.weight")],
    ),
    "stored instead of added": (
        GRAD_VALUE,
        KERNEL,
        [("atomicAdd(to + i, numbers[i])", "to[i] = numbers[i]")],
    ),
    "weight's gradient times weight": (
        GRAD_WEIGHTS,
        HEADER,
        [("return {weight_top * dot_top", "return {weight * weight_top * dot_top")],
    ),
    "sums returned to the neighbouring lane": (
        GRAD_LOCATIONS,
        KERNEL,
        [("const bool upper = lane & half;", "const bool upper = ~lane & half;")],
    ),
    "half of the lanes not summed": (
        GRAD_LOCATIONS,
        KERNEL,
        [("terms[i] = kept + __shfl_xor_sync", "terms[i] = kept + 0 * __shfl_xor_sync")],
    ),
}


def wrong_results(problem, monkeypatch, folder, edits=()):
    """Which of output and gradients differ from grid_sample's, by number, on two inputs."""
    library = build_host_library(folder, CASES, ("-O0",), edits)
    monkeypatch.setattr(cuda, "launch", HostLaunch(library))
    wrong = set()
    tall = [(17, 3), (2, 1)]
    for inputs in (
        problem(channels=18, n_heads=2, n_points=3),
        problem(channels=18, n_heads=1, n_points=1, n_images=1, levels=tall, n_queries=53),
    ):
        pairs = zip(
            output_and_gradients(attention, *inputs),
            output_and_gradients("grid_sample", *inputs),
            strict=True,
        )
        wrong |= {
            i for i, (a, b) in enumerate(pairs) if not (a - b).abs().max() <= 1e-12 * b.abs().max()
        }
    return wrong


def test_an_unchanged_kernel_is_right(problem, monkeypatch, tmp_path):
    assert wrong_results(problem, monkeypatch, tmp_path) == set()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_caught(problem, monkeypatch, tmp_path, name):
    first_wrong, file, replacements = BROKEN[name]
    edits = [(file, *replacement) for replacement in replacements]
    wrong = wrong_results(problem, monkeypatch, tmp_path, edits)
    assert first_wrong in wrong and not {i for i in wrong if i < first_wrong}


def test_a_shuffle_that_some_lanes_miss_is_caught(problem, monkeypatch, tmp_path):
    """Groups of lanes without a query must not return early."""
    edits = [
        (
            KERNEL,
            "  const int lane = threadIdx.x % LANES;",
            "  if (!task.exists) return;\n  const int lane = threadIdx.x % LANES;",
        )
    ]
    with pytest.raises(RuntimeError, match="waits in __shfl_sync.*has ended"):
        wrong_results(problem, monkeypatch, tmp_path, edits)
