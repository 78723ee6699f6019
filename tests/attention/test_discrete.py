"""Discrete sampling: compared with its definition, and with bilinear sampling where they meet."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from inputs import LQ, SHAPES, D, M, N, P, draw

from ddetr_edu import MSDeformAttn, ms_deform_attn


def by_definition(value, shapes, locations, weights):
    """One point after another, in Python floats."""
    output = torch.zeros(N, locations.shape[1], M, D, dtype=torch.float64)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    sizes = range(N), range(locations.shape[1]), range(M), range(len(shapes)), range(P)
    for n, q, m, level, p in itertools.product(*sizes):
        height, width = shapes[level]
        x, y = locations[n, q, m, level, p].tolist()
        column, row = math.floor(x * width), math.floor(y * height)
        if 0 <= column < width and 0 <= row < height:
            token = starts[level] + row * width + column
            output[n, q, m] += weights[n, q, m, level, p] * value[n, token, m]
    return output.flatten(2)


@pytest.mark.parametrize("kind", ["inside", "border", "outside"])
def test_it_agrees_with_the_definition(kind):
    arguments = draw(kind)
    found = ms_deform_attn(*arguments, backend="discrete")
    torch.testing.assert_close(found, by_definition(*arguments), rtol=0, atol=1e-12)


def test_at_pixel_centres_it_is_bilinear_sampling():
    arguments = draw("whole")
    found = ms_deform_attn(*arguments, backend="discrete")
    expected = ms_deform_attn(*arguments, backend="naive")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    arguments = draw("inside")
    assert not torch.allclose(
        ms_deform_attn(*arguments, backend="discrete"), ms_deform_attn(*arguments, backend="naive")
    )


@pytest.mark.parametrize("kind", ["inside", "border", "outside"])
def test_it_agrees_with_torch_in_its_nearest_mode(kind):
    value, shapes, locations, weights = draw(kind)
    expected = 0
    for level, tokens in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        maps = tokens.permute(0, 2, 3, 1).reshape(N * M, D, *shapes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples = F.grid_sample(maps, grid, "nearest", "zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(N * M, 1, LQ, P)
        expected = expected + (samples * weight).sum(-1)
    expected = expected.view(N, M * D, LQ).transpose(1, 2)
    found = ms_deform_attn(value, shapes, locations, weights, backend="discrete")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_values_and_weights_have_a_gradient_and_locations_have_none():
    value, shapes, locations, weights = draw("border")
    leaves = [value.requires_grad_(), weights.requires_grad_()]
    locations.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, w: ms_deform_attn(v, shapes, locations, w, backend="discrete"), leaves
    )
    ms_deform_attn(value, shapes, locations, weights, backend="discrete").sum().backward()
    assert locations.grad is None


def test_a_module_cannot_learn_where_to_look():
    torch.manual_seed(0)
    attention = MSDeformAttn(8, n_heads=2, n_levels=2, n_points=3, backend="discrete")
    torch.nn.init.normal_(attention.attention_weights.weight)
    tokens = sum(h * w for h, w in SHAPES)
    query, reference = torch.randn(1, 5, 8), torch.rand(1, 5, 2, 2)
    output = attention(query, reference, torch.randn(1, tokens, 8), SHAPES)
    (output * torch.randn_like(output)).sum().backward()
    assert attention.sampling_offsets.weight.grad is None
    for layer in (attention.attention_weights, attention.value_proj, attention.output_proj):
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_locations_far_away_or_not_finite_read_zeros(coordinate):
    value, shapes, locations, weights = draw("inside")
    locations[0, 1, 2, 0, 3, 0] = coordinate
    found = ms_deform_attn(value, shapes, locations, weights, backend="discrete")
    weights[0, 1, 2, 0, 3], locations[0, 1, 2, 0, 3] = 0, 0.5
    expected = ms_deform_attn(value, shapes, locations, weights, backend="discrete")
    torch.testing.assert_close(found, expected)


def test_the_border_belongs_to_the_pixel_on_its_right():
    value = torch.arange(1.0, 4).view(1, 3, 1, 1)
    for x, expected in ((0.0, 1), (0.99, 3), (1.0, 0), (-1e-6, 0)):
        location = torch.tensor([x, 0.5]).view(1, 1, 1, 1, 1, 2)
        ones = torch.ones(1, 1, 1, 1, 1)
        assert ms_deform_attn(value, [(1, 3)], location, ones, backend="discrete") == expected


def test_zero_queries_and_sixteen_bit_values():
    value, shapes, locations, weights = draw("inside", torch.float32)
    none = ms_deform_attn(value, shapes, locations[:, :0], weights[:, :0], backend="discrete")
    assert none.shape == (N, 0, M * D)
    low = value.bfloat16()
    found = ms_deform_attn(low, shapes, locations, weights, backend="discrete")
    expected = ms_deform_attn(low.float(), shapes, locations, weights, backend="discrete")
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16())
