"""Eight common mistakes in deformable attention; the comparison must notice each."""

import oracle
import pytest
import torch
import torch.nn.functional as F
from inputs import SHAPES, M, N, S

import ddetr_edu.attention.grid_sample as grid_sample_module
import ddetr_edu.attention.module as attention_module
from ddetr_edu import MSDeformAttn

C = M * 7


def compare_with_oracle() -> None:
    """Fails unless MSDeformAttn agrees with plain loops, for 2-d and 4-d reference points."""
    generator = torch.Generator().manual_seed(3)
    attention = MSDeformAttn(C, n_heads=M, n_levels=2, n_points=3).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    query = torch.randn(N, 4, C, generator=generator, dtype=torch.float64)
    value = torch.randn(N, S, C, generator=generator, dtype=torch.float64)
    mask = torch.rand(N, S, generator=generator) < 0.2
    for axes in (2, 4):
        reference = torch.rand(N, 4, 2, axes, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            result = attention(query, reference, value, SHAPES, mask)
            expected = oracle.module(attention, query, reference, value, SHAPES, mask)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


def test_the_module_is_right():
    compare_with_oracle()


def swap_xy(patch):
    real = attention_module.sampling_locations
    patch.setattr(attention_module, "sampling_locations", lambda *a: real(*a).flip(-1))


def align_corners(patch):
    real = F.grid_sample
    patch.setattr(
        grid_sample_module.F,
        "grid_sample",
        lambda *a, **k: real(*a, **{**k, "align_corners": True}),
    )


def border_padding(patch):
    real = F.grid_sample
    patch.setattr(
        grid_sample_module.F,
        "grid_sample",
        lambda *a, **k: real(*a, **{**k, "padding_mode": "border"}),
    )


def softmax_over_points_only(patch):
    patch.setattr(attention_module, "attention_weights", lambda scores: scores.softmax(-1))


def swap_width_and_height(patch):
    real = attention_module.sampling_locations
    patch.setattr(
        attention_module,
        "sampling_locations",
        lambda reference, offsets, shapes: real(reference, offsets, [(w, h) for h, w in shapes]),
    )


def sum_the_heads(patch):
    real = attention_module.run_backend

    def summed(*arguments):
        output = real(*arguments).unflatten(-1, (M, -1))
        return output.sum(2, keepdim=True).expand_as(output).flatten(2)

    patch.setattr(attention_module, "run_backend", summed)


def offsets_not_normalised(patch):
    patch.setattr(
        attention_module,
        "sampling_locations",
        lambda reference, offsets, shapes: reference[:, :, None, :, None, :2] + offsets,
    )


def weights_ignored(patch):
    real = attention_module.attention_weights
    patch.setattr(
        attention_module,
        "attention_weights",
        lambda scores: torch.ones_like(real(scores)) / scores[0, 0, 0].numel(),
    )


@pytest.mark.parametrize(
    "breakage",
    [
        swap_xy,
        align_corners,
        border_padding,
        softmax_over_points_only,
        swap_width_and_height,
        sum_the_heads,
        offsets_not_normalised,
        weights_ignored,
    ],
    ids=lambda breakage: breakage.__name__,
)
def test_each_mistake_is_noticed(breakage, monkeypatch):
    monkeypatch.setenv("DDETR_BACKEND", "grid_sample")
    breakage(monkeypatch)
    with pytest.raises(AssertionError):
        compare_with_oracle()
