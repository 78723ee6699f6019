"""What the library passes to the GPU's driver, and what it does without one."""

import ctypes
import sys
import types

import pytest
import torch
from host_cuda import HostLaunch

from ddetr_edu.attention import backends, ms_deform_attn, op
from ddetr_edu.attention.kernels import build, cuda, cuda_build, cuda_plan
from ddetr_edu.attention.kernels.torch_library import flatten_shapes

FLAT_SPATIAL_SHAPES = (5, 3, 2, 7, 1, 1)


def plan(
    dtype=torch.float32,
    shape=(2, 30, 5, 32),
    n_queries=3,
    flat_spatial_shapes=FLAT_SPATIAL_SHAPES,
    direction="forward",
    n_points=4,
):
    return cuda_plan.plan(direction, dtype, shape, n_queries, flat_spatial_shapes, n_points)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    "channels, lanes, vector",
    [(32, 8, 4), (64, 8, 4), (128, 8, 4), (16, 4, 4), (8, 2, 4), (4, 1, 4), (40, 2, 4)]
    + [(7, 1, 1), (3, 1, 1), (30, 2, 1)],
)
def test_a_lane_reads_16_bytes_at_once_if_it_can(channels, lanes, vector, direction):
    kernel = plan(shape=(2, 30, 5, channels), direction=direction).kernel
    assert (kernel.lanes, kernel.vector) == (lanes, vector)


def test_eight_16_bit_numbers_are_read_and_four_gradients_added_at_once():
    """The gradient of value has 32 bits until the sum is complete."""
    half, double = torch.float16, torch.float64
    forward, backward = plan(half).kernel, plan(half, direction="backward").kernel
    assert (forward.vector, forward.lanes) == (8, 4)
    assert (backward.vector, backward.lanes) == (4, 8)
    assert plan(double).kernel.vector == plan(double, direction="backward").kernel.vector == 2


def test_rows_of_64_bytes_are_read_for_two_heads_at_once():
    """If there is an even number of heads."""
    for dtype, channels, n_heads, heads in (
        (torch.float16, 32, 8, 2),
        (torch.bfloat16, 32, 2, 2),
        (torch.float16, 32, 5, 1),
        (torch.float16, 64, 8, 1),
        (torch.float16, 16, 8, 1),
        (torch.float16, 96, 8, 2),  # rows of 192 bytes begin at multiples of 64 as well
        (torch.float32, 16, 8, 2),
        (torch.float32, 32, 8, 1),
    ):
        work = plan(dtype, (2, 30, n_heads, channels))
        assert work.kernel.heads == heads and work.grid == (1, n_heads // heads, 2)
        backward = plan(dtype, (2, 30, n_heads, channels), direction="backward")
        assert backward.kernel.heads == 1 and backward.grid == (1, n_heads, 2)


@pytest.mark.parametrize("dtype", cuda_build.TYPES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("queries_are_tokens", [False, True])
def test_every_kernel_is_possible(direction, dtype, queries_are_tokens):
    """Whole warps, no idle lanes, whole rows of a tile, and not too many threads or registers."""
    for channels in range(1, 257):
        for n_heads in (1, 2, 8):
            kernel = cuda_plan.choose_kernel(
                direction, dtype, n_heads, channels, queries_are_tokens
            )
            assert kernel.threads % 32 == 0 and kernel.threads <= 1024
            assert channels % (kernel.lanes * kernel.vector) == 0 and n_heads % kernel.heads == 0
            assert kernel.queries % cuda_plan.TILE_WIDTH == 0
            assert kernel.vector * dtype.itemsize <= 16
            assert 1 <= kernel.blocks <= 2048 // kernel.threads


def test_grids():
    """Tiles of queries, heads, images."""
    assert plan(n_queries=0).grid == (0, 5, 2)
    few = plan(n_queries=17)  # 8 to a block
    assert few.grid == (3, 5, 2) and few.kernel.threads == 8 * 8
    tokens = plan(n_queries=30)  # rectangles of 4 x 8: levels of 5 x 3, 2 x 7 and 1 x 1
    assert tokens.grid == (2 + 1 + 1, 5, 2) and tokens.kernel.threads == 32 * 8
    tall = plan(
        shape=(1, 33 * 9, 1, 32),
        n_queries=33 * 9,
        flat_spatial_shapes=(33, 9),
        direction="backward",
    )
    assert tall.grid == (9 * 2, 1, 1) and tall.kernel.threads == 32 * 8
    pairs = plan(torch.float16, (2, 30, 6, 32), n_queries=30)
    assert pairs.grid == (4, 3, 2) and pairs.kernel.threads == 32 * 2 * 4


@pytest.mark.parametrize("n_points", [*range(1, 130), 1000, 4095, 4096, 8191])
def test_points_are_divided_by_a_multiplication(n_points):
    """point / P as cuda_point.h computes it: the upper half of a product of two 32-bit numbers."""
    inverse = plan(n_points=n_points).arguments({}).inverse_points
    last = cuda_plan.MAX_LEVELS * n_points
    points = {n * n_points + i for n in range(cuda_plan.MAX_LEVELS) for i in (0, 1, n_points - 1)}
    for point in points if n_points > 200 else range(last):
        assert ((2 * point + 1) * inverse) >> 32 == point // n_points
    assert inverse < 2**32 and 2 * last + 1 < 2**32


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"flat_spatial_shapes": (1, 1) * 30}, "levels, but there are 30;"),
        (
            {"shape": (2, 2**26, 5, 32), "flat_spatial_shapes": (2**13, 2**13)},
            "numbers in one image's value",
        ),
        ({"n_queries": 2**23}, "numbers in one image's output"),
        ({"n_points": 2**13}, "points"),
        ({"shape": (2, 30, 2**16, 1)}, "heads"),
        ({"shape": (2**16, 30, 5, 32)}, "images"),
    ],
)
def test_sizes_beyond_the_limits_are_refused(wrong, named):
    with pytest.raises(ValueError, match=f"fewer than \\d+ {named}.*grid_sample"):
        plan(**wrong)


def test_sizes_at_the_limits_are_not_refused():
    """A GPU's grid has at most 65535 blocks along its second and third axis."""
    assert plan(shape=(65535, 30, 5, 32)).grid[2] == 65535
    assert plan(shape=(1, 30, 65535, 1)).grid[1] == 65535
    pairs = plan(torch.float16, (1, 30, 2 * 65535, 32))
    assert pairs.grid[1] == 65535
    assert plan(flat_spatial_shapes=(1, 1) * 16).arguments({}).levels == 16
    assert plan(n_points=0).arguments({}).points == 0
    assert plan(n_queries=2**29 // (5 * 32)).grid[0] == 2**29 // (5 * 32 * 8) + 1


@pytest.fixture
def driver(monkeypatch, host_library):
    """A driver that records its calls and runs the kernel on the CPU."""
    calls, host = [], HostLaunch(host_library)
    current = {"device": 0}

    class Guard:
        def __init__(self, device):
            self.device = 1 if device.type == "cpu" else device.index

        def __enter__(self):
            current["device"] = self.device

        def __exit__(self, *_):
            current["device"] = 0

    def launch(function, *call):
        grid, block, (shared, stream, parameters, extra) = call[:3], call[3:6], call[6:]
        kernel, device = function
        assert shared == 0 and extra == 0 and device == current["device"]
        address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        arguments = cuda_plan.Arguments.from_address(address)
        calls.append((kernel.direction, device, stream, grid, block))
        host.run_plan(cuda_plan.Plan(kernel, grid, b""), arguments)
        return (0,)

    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current["device"])
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda: types.SimpleNamespace(cuda_stream=1000 + current["device"]),
    )
    monkeypatch.setattr(
        cuda, "load", lambda kernel, device: cuda.LoadedKernel((kernel, device), None)
    )
    monkeypatch.setattr(cuda, "driver", lambda: types.SimpleNamespace(cuLaunchKernel=launch))
    return calls


def test_what_the_driver_is_given(driver, problem):
    """Function, device, stream, grid, and a struct from which the CPU gets the right results."""
    value, levels, locations, weights = problem(torch.float32, channels=16, n_queries=11)
    flat_spatial_shapes = flatten_shapes(levels)
    output = cuda.forward(value, flat_spatial_shapes, locations, weights)
    grads = cuda.backward(torch.ones_like(output), value, flat_spatial_shapes, locations, weights)
    assert driver == [
        (direction, 1, 1001, (2, 5, 2), (8 * 4, 1, 1)) for direction in ("forward", "backward")
    ]
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    reference = ms_deform_attn(inputs[0], levels, *inputs[1:], backend="grid_sample")
    torch.testing.assert_close(output, reference.detach())
    for got, expected in zip(grads, torch.autograd.grad(reference.sum(), inputs), strict=True):
        torch.testing.assert_close(got, expected)


def test_an_error_of_the_driver_is_reported(driver, problem, monkeypatch):
    refuse = types.SimpleNamespace(cuLaunchKernel=lambda *_: (701,))
    monkeypatch.setattr(cuda, "driver", lambda: refuse)
    value, levels, locations, weights = problem(torch.float32, channels=16)
    with pytest.raises(RuntimeError, match="701"):
        cuda.forward(value, flatten_shapes(levels), locations, weights)


def test_a_thread_that_is_new_to_the_gpu_gets_a_context(driver, problem, monkeypatch):
    answers = [(0,), (201,)]
    monkeypatch.setattr(
        cuda, "driver", lambda: types.SimpleNamespace(cuLaunchKernel=lambda *_: answers.pop())
    )
    value, levels, locations, weights = problem(torch.float32, channels=16)
    cuda.forward(value, flatten_shapes(levels), locations, weights)
    assert not answers


# ---- Where there is no GPU, or no compiler for it ----


@pytest.fixture
def no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")


def test_without_a_gpu_the_reason_is_named(no_gpu, problem):
    assert str(backends()["cuda"]) == "not here: there is no NVIDIA GPU that torch can use"
    with pytest.raises(build.BuildError, match="no NVIDIA GPU that torch can use"):
        ms_deform_attn(*problem(), backend="cuda")


def test_auto_on_a_gpu_falls_back_and_says_so_once(monkeypatch):
    monkeypatch.delenv("DDETR_BACKEND", raising=False)
    problem = build.BuildError("NVRTC is missing")
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: problem)
    op._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="grid_sample.*NVRTC is missing.*doctor"):
        assert op._best_backend("cuda") == "grid_sample"
    assert op._best_backend("cuda") == "grid_sample"  # a second warning would be an error here
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
    assert op._best_backend("cuda") == "cuda" and op._best_backend("mps") == "grid_sample"
    op._warn_once.cache_clear()


@pytest.mark.parametrize("module", ["cuda.core", "cuda.bindings"])
def test_a_missing_package_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    cuda_build.nvrtc_version.cache_clear()
    with pytest.raises(build.BuildError, match=r"pip install 'cuda-core\[cu1\d\]'"):
        cuda_build.nvrtc_version()
    cuda_build.nvrtc_version.cache_clear()
