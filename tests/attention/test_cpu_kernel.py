"""The C++ kernel agrees with the definition, in every way that torch can call it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ddetr_edu.attention import MSDeformAttn, backends, ms_deform_attn
from ddetr_edu.attention.kernels.cpu import ms_deform_attn_cpu
from ddetr_edu.attention.kernels.torch_library import flatten_shapes

pytestmark = pytest.mark.usefixtures("kernel")


def output_and_gradients(backend, value, levels, locations, weights):
    """The output of the operation, and the gradients of its three inputs."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(inputs[0], levels, inputs[1], inputs[2], backend=backend)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def assert_close(results, expected, tolerance):
    names = ("output", "gradient of value", "gradient of locations", "gradient of weights")
    for name, result, reference in zip(names, results, expected, strict=True):
        assert result.dtype == reference.dtype and result.shape == reference.shape, name
        error = (result - reference).abs().max() / reference.abs().max().clamp_min(1e-30)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("peer", ["naive", "grid_sample"])
def test_agrees_with_the_other_implementations(problem, peer, dtype, tolerance):
    inputs = problem(dtype)
    assert_close(
        output_and_gradients("cpu", *inputs), output_and_gradients(peer, *inputs), tolerance
    )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels", [1, 8, 16, 32, 64, 107])  # 107 = 64 + 32 + 8 + 1 + 1 + 1
def test_every_width(problem, channels, dtype, tolerance):
    inputs = problem(dtype, channels=channels)
    assert_close(
        output_and_gradients("cpu", *inputs),
        output_and_gradients("grid_sample", *inputs),
        tolerance,
    )


@pytest.mark.parametrize("n_points", [1, 4, 5, 8, 16])  # 4 levels: blocks of 16 full, ragged, both
def test_every_number_of_points(problem, n_points):
    levels = [(7, 5), (2, 3), (1, 1), (3, 1)]
    inputs = problem(n_points=n_points, levels=levels, channels=8)
    assert_close(
        output_and_gradients("cpu", *inputs), output_and_gradients("grid_sample", *inputs), 1e-12
    )


@pytest.mark.parametrize("n_queries", [1, 97])
def test_few_queries_read_in_place_and_many_read_packed_heads(problem, n_queries):
    """1 x 3 levels x 11 points are fewer than the 263 tokens, 97 x 3 x 11 are more."""
    inputs = problem(n_queries=n_queries, levels=[(23, 11), (3, 3), (1, 1)], channels=41)
    assert_close(
        output_and_gradients("cpu", *inputs), output_and_gradients("grid_sample", *inputs), 1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [7, 32])
def test_16_bit_values_are_summed_in_32_bits(problem, dtype, channels):
    """The only error is that of rounding the result once."""
    value, levels, locations, weights = problem(torch.float32, channels=channels)
    value = value.to(dtype)
    results = output_and_gradients("cpu", value, levels, locations, weights)
    # The same numbers in 64 bits; the incoming gradient has been rounded to 16 bits there too.
    inputs = [t.double().requires_grad_() for t in (value, locations, weights)]
    exact = ms_deform_attn(inputs[0], levels, *inputs[1:], backend="grid_sample")
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(dtype).double()
    expected = [exact.detach(), *torch.autograd.grad(exact, inputs, grad)]
    rounding = torch.finfo(dtype).eps / 2
    for result, reference in zip(results[:2], expected[:2], strict=True):
        assert result.dtype == dtype
        assert ((result.double() - reference).abs() <= rounding * reference.abs() + 1e-6).all()
    for result, reference in zip(results[2:], expected[2:], strict=True):
        assert result.dtype == torch.float32
        assert (result - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_is_read_and_written_exactly(dtype):
    """A 1x1 level read at its centre with weight 1 gives the number back: all 65536 of them."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    value = bits.view(dtype)[:, None, None, None]  # one number per image
    locations = torch.full((2**16, 1, 1, 1, 1, 2), 0.5)
    output = ms_deform_attn(value, [(1, 1)], locations, torch.ones(2**16, 1, 1, 1, 1), "cpu")
    torch.testing.assert_close(output.flatten(), value.flatten(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_16_bits_is_torchs_rounding(dtype):
    """Halfway between two numbers, near the largest and below the smallest normal one."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4096, generator=generator) * 10 ** torch.linspace(-8, 5, 4096)
    one = torch.ones(len(numbers), 1, 1, 1, dtype=dtype)
    centre = torch.full((len(numbers), 1, 1, 1, 1, 2), 0.5)
    output = ms_deform_attn(one, [(1, 1)], centre, numbers.view(-1, 1, 1, 1, 1), "cpu")
    torch.testing.assert_close(output.flatten(), numbers.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("value_grad, others_grad", [(True, True), (True, False), (False, True)])
def test_gradcheck(problem, value_grad, others_grad):
    value, levels, locations, weights = problem(
        n_images=1, n_queries=2, n_heads=2, channels=3, n_points=2, levels=[(3, 2), (1, 4)]
    )
    value.requires_grad_(value_grad)
    locations.requires_grad_(others_grad)
    weights.requires_grad_(others_grad)
    assert torch.autograd.gradcheck(
        lambda v, x, w: ms_deform_attn(v, levels, x, w, backend="cpu"), (value, locations, weights)
    )


def test_second_derivative_is_refused(problem):
    value, levels, locations, weights = problem()
    output = ms_deform_attn(
        value.requires_grad_(), levels, locations.requires_grad_(), weights, backend="cpu"
    )
    (grad,) = torch.autograd.grad(output.square().sum(), locations, create_graph=True)
    with pytest.raises(NotImplementedError, match="naive"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(problem, dtype):
    coordinates = torch.float64 if dtype == torch.float64 else torch.float32
    value, levels, locations, weights = problem(dtype, coordinates)
    flat_spatial_shapes = flatten_shapes(levels)
    for inputs in (
        (value, flat_spatial_shapes, locations, weights),
        tuple(
            t.requires_grad_() if isinstance(t, torch.Tensor) else t
            for t in (value, flat_spatial_shapes, locations, weights)
        ),
    ):
        torch.library.opcheck(torch.ops.ddetr_edu.ms_deform_attn.default, inputs)


def test_compile_keeps_one_graph_and_the_same_numbers(problem):
    value, levels, locations, weights = problem(torch.float32)

    def loss(value, locations, weights):
        return ms_deform_attn(value, levels, locations, weights).sin().sum()

    inputs = [t.requires_grad_() for t in (value, locations, weights)]
    eager = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = torch.autograd.grad(compiled(*inputs), inputs)
    for got, expected in zip(grads, eager, strict=True):
        torch.testing.assert_close(got, expected)


def test_autocast_keeps_coordinates_in_32_bits():
    """bfloat16 loses half a pixel in 150; the module must not."""
    torch.manual_seed(0)
    attention = MSDeformAttn(32, 4, 1, 4, backend="cpu")
    levels = [(3, 150)]
    query, value = torch.randn(1, 6, 32), torch.randn(1, 450, 32)
    reference = torch.rand(1, 6, 1, 2)
    exact = attention(query, reference, value, levels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = attention(query, reference, value, levels)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max()


def test_no_grad_and_checkpoint(problem):
    value, levels, locations, weights = problem()
    expected = output_and_gradients("cpu", value, levels, locations, weights)
    with torch.no_grad():
        output = ms_deform_attn(value.requires_grad_(), levels, locations, weights, "cpu")
    assert not output.requires_grad
    assert torch.equal(output, expected[0])
    again = checkpoint(
        ms_deform_attn, value, levels, locations, weights, "cpu", use_reentrant=False
    )
    (grad,) = torch.autograd.grad(
        again,
        value,
        torch.randn(again.shape, generator=torch.Generator().manual_seed(1), dtype=again.dtype),
    )
    assert torch.equal(grad, expected[1])


def test_inputs_in_any_memory_order(problem):
    """Transposed, sliced and expanded tensors, and an expanded incoming gradient."""
    value, levels, locations, weights = problem()
    unusual = (
        value.transpose(1, 2).contiguous().transpose(1, 2),
        levels,
        torch.stack([locations, locations], dim=-1)[..., 0],
        weights.flip(1).contiguous().flip(1).expand_as(weights),
    )
    assert not unusual[0].is_contiguous() and not unusual[2].is_contiguous()
    for got, expected in zip(
        output_and_gradients("cpu", *unusual),
        output_and_gradients("cpu", value, levels, locations, weights),
        strict=True,
    ):
        assert torch.equal(got, expected)
    value = value.requires_grad_()
    ms_deform_attn(value, levels, locations, weights, "cpu").sum().backward()  # expanded ones
    expected = value.grad.clone()
    value.grad = None
    ms_deform_attn(value, levels, locations, weights, "grid_sample").sum().backward()
    torch.testing.assert_close(value.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", ["n_images", "n_queries"])
def test_nothing_to_do(problem, axis):
    inputs = problem(**{axis: 0})
    output, grad_value, *others = output_and_gradients("cpu", *inputs)
    assert output.shape == (inputs[2].shape[0], inputs[2].shape[1], 35)
    assert grad_value.shape == inputs[0].shape and not grad_value.any()
    assert all(other.numel() == 0 for other in others)


HOSTILE = [math.nan, math.inf, -math.inf, 1e30, -1e30, 3.0, -2.0]


@pytest.mark.parametrize("coordinate", HOSTILE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_location_out_of_reach_reads_zero_and_gives_no_gradient(problem, coordinate, dtype):
    """Even if the map itself holds NaN: nothing of it is read."""
    value, levels, locations, weights = problem(dtype, channels=33)
    value = torch.full_like(value, math.nan)
    for x, y in ((coordinate, 0.5), (0.5, coordinate), (coordinate, coordinate)):
        everywhere = torch.tensor([x, y], dtype=dtype).expand_as(locations)
        for result in output_and_gradients("cpu", value, levels, everywhere, weights):
            assert not result.any()  # NaN would count as true


def test_a_hostile_location_does_not_affect_the_others(problem):
    value, levels, locations, weights = problem()
    hostile = locations.clone()
    hostile[:, :, :, :, 3] = math.nan
    hostile[:, :, :, :, 7, 0] = math.inf
    harmless = locations.clone()
    harmless[:, :, :, :, (3, 7)] = 5.0
    for got, expected in zip(
        output_and_gradients("cpu", value, levels, hostile, weights),
        output_and_gradients("cpu", value, levels, harmless, weights),
        strict=True,
    ):
        assert torch.equal(got, expected)


def test_a_pixel_of_nan_is_read_only_by_its_neighbours():
    """Corners outside the level are not read from elsewhere in memory."""
    value = torch.arange(1.0, 13.0).view(1, 12, 1, 1).clone()  # 3 rows of 4
    value[0, 0], value[0, 11] = math.nan, math.nan
    location = torch.tensor([3.9, 0.1]) / torch.tensor([4.0, 3.0])  # beyond the top right corner
    output = ms_deform_attn(
        value, [(3, 4)], location.view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1), "cpu"
    )
    torch.testing.assert_close(output.item(), 4 * 0.6 * 0.6)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_exactly_on_pixel_centres(problem):
    """The slope jumps there; all our implementations take the one to the right and below."""
    levels = [(2, 8), (4, 4)]  # sizes that floats divide exactly
    value, _, locations, weights = problem(levels=levels)
    sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
    on_centres = (locations * sizes).floor().add(0.5) / sizes
    assert_close(
        output_and_gradients("cpu", value, levels, on_centres, weights),
        output_and_gradients("naive", value, levels, on_centres, weights),
        1e-12,
    )


@pytest.mark.parametrize("channels, n_queries", [(7, 101), (32, 101), (32, 2)])
def test_the_same_bits_with_any_number_of_threads(problem, channels, n_queries):
    inputs = problem(
        torch.float32, channels=channels, n_queries=n_queries, levels=[(23, 31), (7, 5)]
    )
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            results.append(output_and_gradients("cpu", *inputs))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_auto_takes_the_kernel_unless_another_is_named(problem, monkeypatch):
    inputs = problem(torch.float32)
    kernel, portable = (ms_deform_attn(*inputs, backend=b) for b in ("cpu", "grid_sample"))
    assert not torch.equal(kernel, portable)  # they round differently, which tells them apart
    monkeypatch.delenv("DDETR_BACKEND", raising=False)
    assert torch.equal(ms_deform_attn(*inputs), kernel)
    monkeypatch.setenv("DDETR_BACKEND", "grid_sample")
    assert torch.equal(ms_deform_attn(*inputs), portable)
    assert torch.equal(ms_deform_attn(*inputs, backend="cpu"), kernel)
    monkeypatch.setenv("DDETR_BACKEND", "gpu")
    with pytest.raises(ValueError, match="DDETR_BACKEND"):
        ms_deform_attn(*inputs)


def test_a_wrong_device_is_named(problem):
    value, levels, locations, weights = problem(torch.float32)
    with pytest.raises(ValueError, match="meta"):
        ms_deform_attn_cpu(value.to("meta"), levels, locations.to("meta"), weights.to("meta"))


def test_backends_says_what_the_kernel_was_compiled_for():
    assert backends()["cpu"].available
    assert "C++" in str(backends()["cpu"])


def test_the_module_trains_through_the_kernel():
    """One step of gradient descent lowers the loss, and is the step grid_sample would take."""
    losses = {}
    for backend in ("cpu", "grid_sample"):
        torch.manual_seed(0)
        attention = MSDeformAttn(32, 4, 2, 3, backend=backend)
        query, value = torch.randn(2, 5, 32), torch.randn(2, 23, 32)
        reference, target = torch.rand(2, 5, 2, 2), torch.randn(2, 5, 32)
        optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
        losses[backend] = []
        for _ in range(3):
            loss = F.mse_loss(attention(query, reference, value, [(5, 3), (2, 4)]), target)
            losses[backend].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses["cpu"][2] < losses["cpu"][0]
    assert losses["cpu"] == pytest.approx(losses["grid_sample"], rel=1e-5)
