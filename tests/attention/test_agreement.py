"""naive, grid_sample and an oracle written from the formula alone give the same numbers."""

import oracle
import pytest
import torch
from inputs import KINDS, SHAPES, D, M, N, draw

from ddetr_edu import ms_deform_attn


@pytest.mark.parametrize("kind", KINDS)
def test_naive_and_grid_sample_agree_with_the_formula_in_fp64(kind):
    arguments = draw(kind)
    expected = oracle.ms_deform_attn(*arguments)
    for backend in ("naive", "grid_sample"):
        result = ms_deform_attn(*arguments, backend=backend)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_they_agree_in_fp32(kind):
    arguments = draw(kind, torch.float32)
    naive = ms_deform_attn(*arguments, backend="naive")
    fast = ms_deform_attn(*arguments, backend="grid_sample")
    torch.testing.assert_close(fast, naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["inside", "border", "outside"])  # at whole pixels slopes jump
def test_gradients_agree_in_fp64(kind):
    value, shapes, locations, weights = draw(kind)
    upstream = torch.randn(N, 3, M * D, dtype=torch.float64, generator=torch.manual_seed(1))
    gradients = []
    for backend in ("naive", "grid_sample"):
        leaves = [t.clone().requires_grad_() for t in (value, locations, weights)]
        output = ms_deform_attn(leaves[0], shapes, leaves[1], leaves[2], backend=backend)
        gradients.append(torch.autograd.grad(output, leaves, upstream))
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["naive", "grid_sample"])
def test_gradcheck(backend):
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, 3), (1, 2)]
    value = torch.randn(1, 8, 2, 3, generator=generator, dtype=torch.float64)
    # Keep a margin of a tenth of a pixel from pixel centres, where the slope jumps.
    locations = torch.empty(1, 2, 2, 2, 2, 2, dtype=torch.float64)
    for level, (h, w) in enumerate(shapes):
        size = torch.tensor([w, h])
        whole = torch.randint(-1, 3, (1, 2, 2, 2, 2), generator=generator)
        part = 0.1 + 0.8 * torch.rand(1, 2, 2, 2, 2, generator=generator, dtype=torch.float64)
        locations[:, :, :, level] = (whole + part + 0.5) / size
    weights = torch.rand(1, 2, 2, 2, 2, generator=generator, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, l, w: ms_deform_attn(v, shapes, l, w, backend=backend), leaves
    )


@pytest.mark.parametrize("backend", ["naive", "grid_sample"])
@pytest.mark.parametrize(
    "coordinate", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, -0.5, 2]
)
def test_locations_far_away_or_not_finite_read_zeros(backend, coordinate):
    value, shapes, locations, weights = draw("inside")
    locations[0, 1, 2, 0, 3, 0] = coordinate
    without = weights.clone()
    without[0, 1, 2, 0, 3] = 0
    locations.requires_grad_()
    result = ms_deform_attn(value, shapes, locations, weights, backend=backend)
    clean = torch.where(locations.isfinite() & (locations.abs() < 1e3), locations, 0.5)
    expected = ms_deform_attn(value, shapes, clean.detach(), without, backend=backend)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    assert locations.grad.isfinite().all()
    assert locations.grad[0, 1, 2, 0, 3].abs().sum() == 0


@pytest.mark.parametrize("backend", ["auto", "naive", "grid_sample"])
def test_zero_queries_one_pixel_levels_and_strided_inputs(backend):
    value, shapes, locations, weights = draw("inside")
    none = ms_deform_attn(value, shapes, locations[:, :0], weights[:, :0], backend=backend)
    assert none.shape == (N, 0, M * D)

    one = [(1, 1), (1, 1)]
    result = ms_deform_attn(value[:, :2], one, locations * 0 + 0.5, weights, backend=backend)
    expected = torch.einsum("nlmd,nqmlp->nqmd", value[:, :2], weights).flatten(2)
    torch.testing.assert_close(result, expected)

    strided = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in (value, locations, weights)]
    result = ms_deform_attn(strided[0], shapes, strided[1], strided[2], backend=backend)
    torch.testing.assert_close(result, ms_deform_attn(value, shapes, locations, weights))


def test_sixteen_bit_values_keep_exact_coordinates():
    value, shapes, locations, weights = draw("inside", torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        low = value.to(dtype)
        result = ms_deform_attn(low, SHAPES, locations, weights, backend="grid_sample")
        exact = ms_deform_attn(low.float(), SHAPES, locations, weights, backend="naive")
        assert result.dtype == dtype
        torch.testing.assert_close(result, exact.to(dtype))
