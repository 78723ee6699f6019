"""The sine embedding against slow loops over its formula."""

import math

import pytest
import torch

from ddetr_edu.models.position import sine_position

C, H, W = 12, 5, 7
IMAGES = ((5, 7), (3, 4), (2, 7))  # (height, width) of the image in each padded mask


def mask_of(images, height, width):
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for n, (h, w) in enumerate(images):
        mask[n, :h, :w] = False
    return mask


def slow(images, height, width, channels):
    """The formula in loops: y fills the first half of the channels, sine comes before cosine."""
    out = torch.full((len(images), channels, height, width), math.nan, dtype=torch.float64)
    half = channels // 2
    for n, (h, w) in enumerate(images):
        for row in range(h):
            for column in range(w):
                phases = ((row + 0.5) / h * 2 * math.pi, (column + 0.5) / w * 2 * math.pi)
                for axis, phase in enumerate(phases):
                    for k in range(half):
                        angle = phase / 10000 ** (2 * (k // 2) / half)
                        value = math.sin(angle) if k % 2 == 0 else math.cos(angle)
                        out[n, axis * half + k, row, column] = value
    return out


def test_agrees_with_the_formula_inside_every_image():
    expected = slow(IMAGES, H, W, C)
    found = sine_position(mask_of(IMAGES, H, W), C).double()
    assert found.shape == (3, C, H, W)
    inside = ~expected.isnan()
    assert inside[1].sum() == C * 3 * 4
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=2e-5)


@pytest.mark.parametrize("mistake", ["x first", "no half pixel", "padded"])
def test_the_comparison_would_notice(mistake):
    expected = slow(IMAGES, H, W, C)
    inside = ~expected.isnan()
    found = sine_position(mask_of(IMAGES, H, W), C).double()
    if mistake == "x first":
        found = found.roll(C // 2, dims=1)
    elif mistake == "padded":
        found = sine_position(torch.zeros(3, H, W, dtype=torch.bool), C).double()
    else:  # DETR's own embedding counts 1, 2, 3 ...
        found = torch.stack(
            [
                sine_position(torch.zeros(1, 2 * H, 2 * W, dtype=torch.bool), C)[0, :, 1::2, 1::2]
                for _ in IMAGES
            ]
        ).double()
    assert (found - expected)[inside].abs().max() > 0.05


def test_it_does_not_depend_on_how_much_padding_there_is():
    alone = sine_position(mask_of([(3, 4)], 3, 4), C)
    padded = sine_position(mask_of([(3, 4)], H, W), C)[:, :, :3, :4]
    torch.testing.assert_close(alone, padded, rtol=0, atol=1e-6)
