"""The comparisons of test_cuda_host.py would notice a broken CUDA kernel.

Each mistake is put into a copy of csrc/, compiled for the CPU without optimisation, and must change
a result. Unchanged sources must not. Mistakes that cannot be made in the kernel are in
test_broken_kernels.py.
"""

import pytest
from host_cuda import attention, build_host_library, output_and_gradients, run_on_the_host

pytestmark = pytest.mark.usefixtures("compiler")

HEADER, POINT = "ms_deform_attn.h", "cuda_point.h"
FORWARD, BACKWARD = "cuda_forward.h", "cuda_backward.h"
NEXT_PIXEL = "&& pixel >= 0) add_atomically(grad_value + max(entries[k].pixel, 0)"
OUTPUT, GRAD_VALUE, GRAD_LOCATIONS, GRAD_WEIGHTS = range(4)
# Three rounds of 4 lanes, of 2 channels each; the forward pass takes two heads at once.
CHANNELS, N_HEADS = 24, 4
CASES = [
    ("forward", "double", 2, 4, 8, 2, 4),
    ("forward", "double", 2, 4, 32, 1, 2),
    ("backward", "double", 2, 4, 8, 1, 4),
    ("backward", "double", 2, 4, 32, 1, 2),
]

# name: the first result that must be wrong, the file, and (text, replacement) pairs
BROKEN = {
    "x and y swapped": (
        OUTPUT,
        POINT,
        [
            ("locate_on_axis(location[0], a.width", "locate_on_axis(location[1], a.width"),
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
        POINT,
        [
            ("locate_on_axis(location[0], a.width", "locate_on_axis(location[0], a.height"),
            ("locate_on_axis(location[1], a.height", "locate_on_axis(location[1], a.width"),
            ("row_of(corner) * a.width", "row_of(corner) * a.height"),
        ],
    ),
    "every head reads the first": (
        OUTPUT,
        FORWARD,
        [("a.tokens * step + first_number", "a.tokens * step + lane * VECTOR")],
    ),
    "every image reads the first": (OUTPUT, FORWARD, [("task.image * a.tokens", "0 * a.tokens")]),
    "heads paired wrongly": (
        OUTPUT,
        POINT,
        [("int(blockIdx.y) * HEADS + group", "int(blockIdx.y) + group")],
    ),
    "both heads of a pair on one query": (
        OUTPUT,
        POINT,
        [
            (
                "query_in_tile<QUERIES>(a, group / HEADS)",
                "query_in_tile<QUERIES>(a, group % QUERIES)",
            )
        ],
    ),
    "weights ignored": (
        OUTPUT,
        POINT,
        [("return weight * ((corner & BOTTOM_BIT)", "return 1 * ((corner & BOTTOM_BIT)")],
    ),
    "the right and bottom border left out": (
        OUTPUT,
        HEADER,
        [("first < size - 1", "first < size - 2")],
    ),
    "every level begins at the first token": (
        OUTPUT,
        POINT,
        [("return a.start[level] + row_of", "return 0 + row_of")],
    ),
    "levels as if P were a power of two": (
        OUTPUT,
        POINT,
        [("__umulhi(2 * point + 1, a.inverse_points)", "point >> (31 - __builtin_clz(a.points))")],
    ),
    "a level's last point counted to the next": (
        OUTPUT,
        POINT,
        [("2 * point + 1", "2 * point + 2")],
    ),
    "another lane's pixels": (
        OUTPUT,
        FORWARD,
        [("all_offsets[group][lane] = ", "all_offsets[group][lane ^ 1] = ")],
    ),
    "points read before they are there": (
        OUTPUT,
        FORWARD,
        [("= corners.coefs;\n      __syncwarp();", "= corners.coefs;")],
    ),
    "points replaced before all have read them": (
        OUTPUT,
        FORWARD,
        [("__syncwarp();  // the points of the round before", "//")],
    ),
    "the last points left out": (
        OUTPUT,
        POINT,
        [("point >= a.levels * a.points", "point >= a.levels * a.points - 1")],
    ),
    "only the first channels": (
        OUTPUT,
        FORWARD,
        [("channel += LANES * VECTOR) {", "channel += a.channels) {")],
    ),
    "tiles that overlap": (
        OUTPUT,
        POINT,
        [("tile / tiles_across * TILE_HEIGHT", "tile / tiles_across * (TILE_HEIGHT - 1)")],
    ),
    "locations in pixels": (GRAD_LOCATIONS, HEADER, [("T(width) * weight", "weight")]),
    "slopes reversed": (
        GRAD_LOCATIONS,
        HEADER,
        [("(dot_right - dot_left)", "(dot_left - dot_right)")],
    ),
    "weight's gradient times weight": (
        GRAD_WEIGHTS,
        HEADER,
        [("return {weight_top * dot_top", "return {weight * weight_top * dot_top")],
    ),
    # ---- The sorted list ----
    "another corner's coefficient": (
        GRAD_VALUE,
        BACKWARD,
        [("own.coef(corner), 0}", "own.coef(0), 0}")],
    ),
    "every query has the first one's gradient": (
        GRAD_VALUE,
        BACKWARD,
        [("task.query * step, own", "0 * step, own")],
    ),
    "slots that begin where they end": (
        GRAD_VALUE,
        BACKWARD,
        [("begin + end - count", "begin + end")],
    ),
    "half of a warp's slots not counted": (
        GRAD_VALUE,
        BACKWARD,
        [("distance < 32", "distance < 16")],
    ),
    "one place for all entries of a slot": (
        GRAD_VALUE,
        BACKWARD,
        [("place[corner] += slots", "place[corner] = slots")],
    ),
    "a counter not cleared": (GRAD_VALUE, BACKWARD, [("slots[i] = 0;", "slots[i] = i == 0;")]),
    "the total not cleared": (
        GRAD_VALUE,
        BACKWARD,
        [("if (threadIdx.x == 0) total", "if (threadIdx.x == 0 && first == 0) total")],
    ),
    "the list not filled up": (GRAD_VALUE, BACKWARD, [("list[i] = {-1, 0, 0, 0};", ";")]),
    "counted before the counters are cleared": (
        GRAD_VALUE,
        BACKWARD,
        [("total = 0;\n    __syncthreads();", "total = 0;")],
    ),
    "slots placed before all is counted": (
        GRAD_VALUE,
        BACKWARD,
        [("__syncthreads();\n    begin_of_each_slot", "begin_of_each_slot")],
    ),
    "entries placed before the slots are": (
        GRAD_VALUE,
        BACKWARD,
        [("(slots, total);\n    __syncthreads();", "(slots, total);")],
    ),
    "the list read before it is complete": (
        GRAD_VALUE,
        BACKWARD,
        [("{-1, 0, 0, 0};\n    __syncthreads();", "{-1, 0, 0, 0};")],
    ),
    # ---- The walk along it ----
    "the last entries not visited": (
        GRAD_VALUE,
        BACKWARD,
        [("share = rounds * TERMS", "share = (rounds - 1) * TERMS")],
    ),
    "the last sum not added": (
        GRAD_VALUE,
        BACKWARD,
        [("      if (pixel >= 0) add_atomically(grad_value + pixel, sum);", "")],
    ),
    "the sum not begun anew": (GRAD_VALUE, BACKWARD, [("(is_new ? 0 : sum[v])", "sum[v]")]),
    "the sum added after every entry": (
        GRAD_VALUE,
        BACKWARD,
        [("if (is_new && pixel >= 0)", "if (pixel >= 0)")],
    ),
    "the sum added to the next pixel": (
        GRAD_VALUE,
        BACKWARD,
        [("&& pixel >= 0) add_atomically(grad_value + pixel", NEXT_PIXEL)],
    ),
    "stored instead of added": (
        GRAD_VALUE,
        BACKWARD,
        [("atomicAdd(to + i, numbers[i])", "to[i] = numbers[i]")],
    ),
    "every image adds to the first": (
        GRAD_VALUE,
        BACKWARD,
        [("a.grad_value, task.image * a.tokens", "a.grad_value, 0 * a.tokens")],
    ),
    "every image's gradient is the first one's": (
        GRAD_VALUE,
        BACKWARD,
        [("task.image * a.queries * step", "0 * a.queries * step")],
    ),
    "only the first channels' gradient": (
        GRAD_VALUE,
        BACKWARD,
        [("first_channel += LANES * VECTOR", "first_channel += a.channels")],
    ),
    "only the last channels' dot product": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("grad_dot_value += dot", "grad_dot_value = dot")],
    ),
    "dot products returned to the neighbouring lane": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("const bool upper = lane & distance;", "const bool upper = ~lane & distance;")],
    ),
    "half of the lanes not summed": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("terms[i] = kept + __shfl_xor_sync", "terms[i] = kept + 0 * __shfl_xor_sync")],
    ),
    "the last round of a sum left out": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("terms[0] += __shfl_xor_sync", "terms[0] += 0 * __shfl_xor_sync")],
    ),
    "dot products left at another entry": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("list[i + lane / (LANES / TERMS)]", "list[i + lane % TERMS]")],
    ),
    "the dot product of another corner": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("list[place[corner]].grad_dot", "list[place[corner ^ 1]].grad_dot")],
    ),
    "dot products read before they are there": (
        GRAD_LOCATIONS,
        BACKWARD,
        [("    __syncthreads();\n\n    // Each lane finishes", "\n    // Each lane finishes")],
    ),
}


def wrong_results(problem, monkeypatch, folder, edits=()):
    """Which of output and gradients differ from grid_sample's, by number, on two inputs."""
    library = build_host_library(folder, CASES, ("-O0",), edits)
    run_on_the_host(monkeypatch, library)
    wrong = set()
    tall = [(17, 3), (2, 1)]  # whose tokens are the queries
    for inputs in (
        problem(channels=CHANNELS, n_heads=N_HEADS, n_points=3, n_queries=11),
        problem(channels=CHANNELS, n_heads=1, n_points=1, n_images=1, levels=tall, n_queries=53),
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


@pytest.mark.parametrize(
    "file, message",
    [
        (FORWARD, "waits in __syncwarp.*has ended"),
        (BACKWARD, "waits in __s(yncthreads|hfl).*has ended"),
    ],
)
def test_waiting_for_lanes_that_have_returned_is_caught(
    problem, monkeypatch, tmp_path, file, message
):
    """Groups of lanes without a query must not return early."""
    task = "const Task task = task_of<QUERIES, HEADS>(a, group);"
    edits = [(file, task, f"{task}\n  if (!task.exists()) return;")]
    with pytest.raises(RuntimeError, match=message):
        wrong_results(problem, monkeypatch, tmp_path, edits)
