"""The CUDA kernel on a real GPU, in every way that torch can call it. Skipped without a GPU.

The tests that need no GPU are in the other test_cuda_*.py. These need torch, pytest and cuda-core:
    python -m pytest -o addopts="" tests/attention/test_cuda_gpu.py
"""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ddetr_edu.attention import MSDeformAttn, backends, ms_deform_attn
from ddetr_edu.attention.kernels import cuda
from ddetr_edu.attention.kernels.torch_library import flatten_shapes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ENCODER = [(25, 38), (13, 19), (7, 10), (4, 5)]


@pytest.fixture(autouse=True)
def kernel_is_available():
    """With a GPU the kernel must run; only a missing cuda-core skips the tests."""
    problem = cuda.unavailable_reason() if torch.cuda.is_available() else None
    if problem is not None and "cuda-core" in str(problem):
        pytest.skip(str(problem))
    assert problem is None, f"{problem}\n{problem.output}"


def on_gpu(inputs, device="cuda"):
    return [x.to(device) if isinstance(x, torch.Tensor) else x for x in inputs]


def run(backend, value, levels, locations, weights):
    """The output, and the gradients of the three inputs."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(inputs[0], levels, inputs[1], inputs[2], backend=backend)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def assert_close(results, exact, tolerance):
    names = ("output", "gradient of value", "gradient of locations", "gradient of weights")
    for name, result, reference in zip(names, results, exact, strict=True):
        result, reference = result.double().cpu(), reference.double().cpu()
        error = (result - reference).abs().max() / reference.abs().max().clamp_min(1e-30)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


def test_auto_is_the_kernel():
    assert cuda.unavailable_reason() is None and backends()["cuda"].available
    assert "NVRTC" in str(backends()["cuda"])


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_agrees_with_the_definition(problem, dtype, tolerance):
    inputs = problem(dtype)
    assert_close(run("cuda", *on_gpu(inputs)), run("naive", *inputs), tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 16, 32, 64, 71])
@pytest.mark.parametrize("queries", [67, "tokens"])
def test_every_width(problem, channels, dtype, tolerance, queries):
    n_queries = sum(h * w for h, w in ENCODER) if queries == "tokens" else queries
    inputs = problem(dtype, channels=channels, levels=ENCODER, n_queries=n_queries, n_points=4)
    assert_close(run("cuda", *on_gpu(inputs)), run("grid_sample", *inputs), tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [7, 16, 32, 64])
def test_16_bit_values_are_summed_in_32_bits(problem, dtype, channels):
    value, levels, locations, weights = problem(torch.float32, channels=channels)
    value = value.to(dtype)
    results = run("cuda", *on_gpu((value, levels, locations, weights)))
    assert results[0].dtype == results[1].dtype == dtype
    assert results[2].dtype == results[3].dtype == torch.float32
    inputs = [t.double().requires_grad_() for t in (value, locations, weights)]
    exact = ms_deform_attn(inputs[0], levels, *inputs[1:], backend="grid_sample")
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(dtype).double()
    expected = [exact.detach(), *torch.autograd.grad(exact, inputs, grad)]
    rounding = torch.finfo(dtype).eps / 2
    for result, reference in zip(results[:2], expected[:2], strict=True):
        error = (result.double().cpu() - reference).abs()
        assert (error <= rounding * reference.abs() + 1e-6).all()
    for result, reference in zip(results[2:], expected[2:], strict=True):
        assert (result.cpu() - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_is_read_and_written_exactly(dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16, device="cuda")
    value = bits.view(dtype).view(2**15, 1, 2, 1)  # two heads of one number in each image
    centre = torch.full((2**15, 1, 2, 1, 1, 2), 0.5, device="cuda")
    output = ms_deform_attn(value, [(1, 1)], centre, centre[..., 0] * 2, "cuda")
    torch.testing.assert_close(output.flatten(), value.flatten(), rtol=0, atol=0, equal_nan=True)


def test_gradcheck(problem):
    value, levels, locations, weights = on_gpu(
        problem(n_images=1, n_queries=2, n_heads=2, channels=4, n_points=2, levels=[(3, 2), (1, 4)])
    )
    assert torch.autograd.gradcheck(
        lambda v, x, w: ms_deform_attn(v, levels, x, w, backend="cuda"),
        tuple(tensor.requires_grad_() for tensor in (value, locations, weights)),
        nondet_tol=1e-12,  # atomics add in any order
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(problem, dtype):
    coordinates = torch.float64 if dtype == torch.float64 else torch.float32
    value, levels, locations, weights = on_gpu(problem(dtype, coordinates))
    flat_spatial_shapes = flatten_shapes(levels)
    inputs = (
        value.requires_grad_(),
        flat_spatial_shapes,
        locations.requires_grad_(),
        weights.requires_grad_(),
    )
    torch.library.opcheck(torch.ops.ddetr_edu.ms_deform_attn.default, inputs)


@pytest.mark.parametrize("coordinate", [math.nan, math.inf, -math.inf, 1e30, -1e30, 3.0, -2.0])
def test_a_location_out_of_reach_reads_zero_and_gives_no_gradient(problem, coordinate):
    value, levels, locations, weights = on_gpu(problem(torch.float32, channels=32))
    value = torch.full_like(value, math.nan)
    for x, y in ((coordinate, 0.5), (0.5, coordinate), (coordinate, coordinate)):
        everywhere = torch.tensor([x, y], device="cuda").expand_as(locations)
        for result in run("cuda", value, levels, everywhere, weights):
            assert not result.any()  # NaN would count as true


@pytest.mark.parametrize("axis", ["n_images", "n_queries"])
def test_nothing_to_do(problem, axis):
    output, grad_value, *others = run("cuda", *on_gpu(problem(**{axis: 0})))
    assert not output.numel() and not grad_value.any() and not any(o.numel() for o in others)


def test_inputs_in_any_memory_order(problem):
    value, levels, locations, weights = on_gpu(problem(torch.float32, channels=8))
    odd = torch.empty(value.numel() + 1, device="cuda")[1:].view_as(value).copy_(value)
    reference = ms_deform_attn(value, levels, locations, weights, "cuda")
    for unusual in (value.transpose(1, 2).contiguous().transpose(1, 2), odd):
        output = ms_deform_attn(unusual, levels, locations, weights, "cuda")
        assert torch.equal(output, reference)


def test_another_stream(problem):
    """The kernel runs on the current stream, after the work that was queued there before."""
    value, levels, locations, weights = on_gpu(problem(torch.float32, channels=32))
    reference = ms_deform_attn(2 * value, levels, locations, weights, "cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = value.clone()
        torch.cuda._sleep(50_000_000)  # tens of milliseconds
        late.mul_(2)
        output = ms_deform_attn(late, levels, locations, weights, "cuda")
    stream.synchronize()
    assert torch.equal(output, reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_replays_forward_and_backward(problem, dtype):
    value, levels, locations, weights = on_gpu(problem(dtype, torch.float32, channels=32))
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    rounding = 1e-5 if dtype == torch.float32 else 2e-2  # atomics add in any order

    def step():
        output = ms_deform_attn(inputs[0], levels, inputs[1], inputs[2], "cuda")
        return output, *torch.autograd.grad(output, inputs, torch.ones_like(output))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    with torch.no_grad():
        for tensor in inputs:
            tensor.copy_(tensor.flip(0))
    for result in recorded:
        result.detach().fill_(math.nan)
    graph.replay()
    torch.cuda.synchronize()
    for result, reference in zip(recorded, step(), strict=True):
        torch.testing.assert_close(result, reference, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_keeps_one_graph_and_the_same_numbers(problem, backend):
    value, levels, locations, weights = on_gpu(problem(torch.float32, channels=32))

    def loss(value, locations, weights):
        return ms_deform_attn(value, levels, locations, weights).sin().sum()

    inputs = [t.requires_grad_() for t in (value, locations, weights)]
    eager = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for got, reference in zip(torch.autograd.grad(compiled(*inputs), inputs), eager, strict=True):
        torch.testing.assert_close(got, reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_keeps_coordinates_in_32_bits(dtype):
    """bfloat16 loses half a pixel in 150; the module must not."""
    torch.manual_seed(0)
    attention = MSDeformAttn(32, 4, 1, 4, backend="cuda").cuda()
    levels = [(3, 150)]
    query, value = torch.randn(1, 6, 32, device="cuda"), torch.randn(1, 450, 32, device="cuda")
    reference = torch.rand(1, 6, 1, 2, device="cuda")
    exact = attention(query, reference, value, levels)
    with torch.autocast("cuda", dtype=dtype):
        rough = attention(query, reference, value, levels)
    assert rough.dtype == dtype
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_new_thread(problem):
    """It has not used the GPU before, and its tensors come from another thread."""
    inputs = on_gpu(problem(torch.float32, channels=32))
    reference = ms_deform_attn(*inputs, "cuda")
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(ms_deform_attn, *inputs, "cuda").result(), reference)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one(problem):
    inputs = problem(torch.float32, channels=32)
    assert_close(run("cuda", *on_gpu(inputs, "cuda:1")), run("grid_sample", *inputs), 1e-5)


def test_tensors_on_the_cpu_are_refused(problem):
    with pytest.raises(ValueError, match="on a GPU.*cpu"):
        ms_deform_attn(*problem(), backend="cuda")


def test_the_limits_hold_where_the_operation_is_called():
    value = torch.rand(1, 17, 1, 8, device="cuda")
    locations = torch.rand(1, 1, 1, 17, 1, 2, device="cuda")
    with pytest.raises(ValueError, match="levels"):
        ms_deform_attn(value, [(1, 1)] * 17, locations, locations[..., 0], "cuda")
