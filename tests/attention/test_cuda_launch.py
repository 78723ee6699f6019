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
):
    return cuda_plan.plan(direction, dtype, shape, n_queries, flat_spatial_shapes, 4)


@pytest.mark.parametrize(
    "channels, lanes, vector, backward",
    [(32, 8, 4, 4), (64, 8, 4, 4), (16, 4, 4, 4), (4, 4, 4, 4), (7, 8, 1, 1), (3, 4, 1, 1)],
)
def test_the_width_of_one_load(channels, lanes, vector, backward):
    shape = (2, 30, 5, channels)
    assert plan(shape=shape).kernel == cuda_plan.Kernel("forward", torch.float32, vector, lanes)
    assert plan(shape=shape, direction="backward").kernel.vector == backward


def test_eight_16_bit_numbers_are_read_and_four_gradients_added_at_once():
    """The gradient of value has 32 bits until the sum is complete."""
    half, double = torch.float16, torch.float64
    assert plan(half).kernel == cuda_plan.Kernel("forward", half, 8, 4)
    assert plan(half, direction="backward").kernel == cuda_plan.Kernel("backward", half, 4, 8)
    assert plan(double).kernel.vector == plan(double, direction="backward").kernel.vector == 2


def test_grids():
    assert plan(n_queries=0).blocks == 0
    few = plan(n_queries=17)
    assert few.blocks == 2 * 5 * 2 and few.threads == 16 * 8
    tokens = plan(n_queries=30)  # rectangles of 8 x 8: one for each level
    assert tokens.blocks == 2 * 5 * 3 and tokens.threads == 64 * 8
    tall = plan(
        shape=(1, 33 * 9, 1, 32),
        n_queries=33 * 9,
        flat_spatial_shapes=(33, 9),
        direction="backward",
    )
    assert tall.blocks == 9 * 2 and tall.threads == 32 * 8  # of 4 x 8


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"flat_spatial_shapes": (1, 1) * 30}, "17 levels"),
        (
            {"shape": (2, 2**26, 5, 32), "flat_spatial_shapes": (2**13, 2**13)},
            "numbers in one image's value",
        ),
        ({"shape": (2**27, 30, 5, 32), "n_queries": 99}, "blocks of threads"),
    ],
)
def test_sizes_beyond_the_limits_are_refused(wrong, named):
    with pytest.raises(
        ValueError, match=f"fewer than \\d+ {named.removeprefix('17 ')}.*grid_sample"
    ):
        plan(**wrong)


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
        *grid, shared, stream, parameters, extra = call
        direction, device = function
        assert shared == 0 and extra == 0 and device == current["device"]
        address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        arguments = cuda_plan.Arguments.from_address(address)
        calls.append((direction, device, stream, grid))
        assert grid[1:3] == [1, 1] and grid[4:] == [1, 1]
        kernel = cuda_plan.Kernel(direction, torch.float32, 4, 4)
        host.run_plan(cuda_plan.Plan(kernel, grid[0], grid[3], b""), arguments)
        return (0,)

    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current["device"])
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda: types.SimpleNamespace(cuda_stream=1000 + current["device"]),
    )
    monkeypatch.setattr(
        cuda, "load", lambda kernel, device: cuda.LoadedKernel((kernel.direction, device), None)
    )
    monkeypatch.setattr(cuda, "driver", lambda: types.SimpleNamespace(cuLaunchKernel=launch))
    return calls


def test_what_the_driver_is_given(driver, problem):
    """Function, device, stream, grid, and a struct from which the CPU gets the right results."""
    value, levels, locations, weights = problem(torch.float32, channels=16)
    flat_spatial_shapes = flatten_shapes(levels)
    output = cuda.forward(value, flat_spatial_shapes, locations, weights)
    grads = cuda.backward(torch.ones_like(output), value, flat_spatial_shapes, locations, weights)
    assert driver == [
        (direction, 1, 1001, [2 * 5 * 1, 1, 1, 16 * 4, 1, 1])
        for direction in ("forward", "backward")
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
