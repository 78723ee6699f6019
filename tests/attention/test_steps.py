"""The five steps, each with numbers that can be checked by hand."""

import math

import pytest
import torch

from ddetr_edu.attention import (
    aggregate,
    attention_weights,
    bilinear_sample,
    bilinear_sample_backward,
    encoder_reference_points,
    initial_offsets,
    sampling_locations,
    valid_ratios,
)

# --- offsets


def test_the_star_is_a_square_with_one_ray_per_head():
    star = initial_offsets(n_heads=8, n_levels=3, n_points=4)
    assert star.shape == (8, 3, 4, 2)
    east, south_east, south = star[0, 0], star[1, 0], star[2, 0]
    for p in range(4):
        torch.testing.assert_close(east[p], torch.tensor([p + 1.0, 0.0]))
        torch.testing.assert_close(south_east[p], torch.tensor([p + 1.0, p + 1.0]))
        torch.testing.assert_close(south[p], torch.tensor([0.0, p + 1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(star.abs().amax(-1), torch.arange(1.0, 5).expand(8, 3, 4))
    assert torch.equal(star[:, 0], star[:, 2])  # the same on every level


def test_five_heads_point_in_five_directions():
    star = initial_offsets(5, 1, 1)[:, 0, 0]
    angles = torch.atan2(star[:, 1], star[:, 0]) % (2 * math.pi)
    torch.testing.assert_close(angles, torch.arange(5) * 2 * math.pi / 5)


# --- weights


def test_the_softmax_runs_over_levels_and_points_of_one_head():
    scores = torch.randn(2, 3, 5, 2, 11, generator=torch.manual_seed(0), dtype=torch.float64)
    weights = attention_weights(scores)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 3, 5, dtype=torch.float64))
    for m in range(5):
        total = scores[1, 2, m].exp().sum()
        torch.testing.assert_close(weights[1, 2, m], scores[1, 2, m].exp() / total)


def test_the_softmax_survives_large_scores():
    weights = attention_weights(torch.tensor([1e4, 1e4 - 1]).view(1, 1, 1, 1, 2))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.731059, 0.268941]))


# --- locations


def test_an_offset_of_one_pixel_moves_by_one_pixel_of_its_level():
    shapes = [(100, 150), (50, 75)]
    reference = torch.full((1, 1, 2, 2), 0.5)
    offsets = torch.tensor([1.0, -1.0]).expand(1, 1, 1, 2, 1, 2)
    result = sampling_locations(reference, offsets, shapes)
    expected = torch.tensor([[0.5 + 1 / 150, 0.5 - 1 / 100], [0.5 + 1 / 75, 0.5 - 1 / 50]])
    torch.testing.assert_close(result[0, 0, 0, :, 0], expected)


def test_with_a_box_the_last_point_reaches_its_border():
    box = torch.tensor([0.3, 0.6, 0.2, 0.4]).expand(1, 1, 1, 4)
    star = initial_offsets(8, 1, 4)[None, None]
    result = sampling_locations(box, star, [(13, 17)])
    torch.testing.assert_close(result[0, 0, 0, 0, 3], torch.tensor([0.4, 0.6]))  # east side
    torch.testing.assert_close(result[0, 0, 6, 0, 3], torch.tensor([0.3, 0.4]))  # north side


def test_references_of_three_numbers_are_refused():
    with pytest.raises(ValueError, match="axis of 3"):
        sampling_locations(torch.rand(1, 1, 1, 3), torch.rand(1, 1, 1, 1, 1, 2), [(2, 3)])


def test_valid_ratios_and_reference_points_of_a_padded_image():
    wide, narrow = torch.ones(2, 4, 10, dtype=bool), torch.ones(2, 2, 5, dtype=bool)
    wide[0, :, :] = narrow[0, :, :] = False
    wide[1, :3, :6] = narrow[1, :2, :3] = False  # the second image fills a part
    ratios = valid_ratios([wide, narrow])
    expected = torch.tensor([[[1, 1], [1, 1]], [[0.6, 0.75], [0.6, 1.0]]])
    torch.testing.assert_close(ratios, expected)

    centres = encoder_reference_points([(4, 10), (2, 5)], ratios)
    assert centres.shape == (2, 50, 2, 2)
    token = 2 * 10 + 3  # row 2, column 3 of the fine level
    own = torch.tensor([3.5 / 10, 2.5 / 4])
    torch.testing.assert_close(centres[0, token, 0], own)
    torch.testing.assert_close(centres[1, token, 0], own)  # on its own level ratios cancel
    across = own / ratios[1, 0] * ratios[1, 1]
    torch.testing.assert_close(centres[1, token, 1], across)


# --- interpolation

MAP = torch.tensor([[10.0, 20.0], [30.0, 40.0]], dtype=torch.float64)[..., None]  # (2, 2, 1)


def at(x, y):
    return torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.25, 10.0),  # a pixel centre
        (0.75, 0.75, 40.0),
        (0.5, 0.5, 25.0),  # the middle of all four
        (0.3, 0.7, 29.0),
        (0.4, 0.6, 27.0),  # 0.3 of a pixel right, 0.7 down
        (0.0, 0.0, 2.5),  # the corner: a quarter of a pixel, zeros around it
        (-0.25, 0.25, 0.0),  # a pixel outside
    ],
)
def test_reading_between_pixels(x, y, expected):
    assert bilinear_sample(MAP, *at(x, y)).item() == pytest.approx(expected, abs=1e-12)


def test_the_backward_by_hand_is_autograds():
    generator = torch.Generator().manual_seed(4)
    for height, width in [(3, 5), (1, 1), (2, 7)]:
        feature_map = torch.randn(height, width, 4, generator=generator, dtype=torch.float64)
        for x, y in torch.rand(40, 2, generator=generator, dtype=torch.float64) * 1.8 - 0.4:
            upstream = torch.randn(4, generator=generator, dtype=torch.float64)
            leaves = [t.clone().requires_grad_() for t in (feature_map, x, y)]
            output = bilinear_sample(*leaves)
            expected = (
                torch.autograd.grad(output, leaves, upstream)
                if output.requires_grad
                else [torch.zeros_like(leaf) for leaf in leaves]
            )
            for by_hand, auto in zip(
                bilinear_sample_backward(feature_map, x, y, upstream), expected, strict=True
            ):
                torch.testing.assert_close(by_hand, auto, rtol=0, atol=1e-12)


def test_the_backward_at_a_pixel_centre_is_that_to_the_right_and_below():
    _, grad_x, grad_y = bilinear_sample_backward(MAP, *at(0.25, 0.25), torch.ones(1).double())
    assert grad_x.item() == pytest.approx(2 * 10)  # W * (20 - 10)
    assert grad_y.item() == pytest.approx(2 * 20)


# --- aggregation


def test_aggregation_sums_levels_and_points_and_keeps_heads_apart():
    generator = torch.Generator().manual_seed(5)
    samples = torch.randn(2, 3, 5, 2, 11, 7, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 3, 5, 2, 11, generator=generator, dtype=torch.float64)
    result = aggregate(samples, weights)
    assert result.shape == (2, 3, 35)
    by_hand = sum(
        weights[1, 2, 4, l, p] * samples[1, 2, 4, l, p, 6] for l in range(2) for p in range(11)
    )
    torch.testing.assert_close(result[1, 2, 4 * 7 + 6], by_hand)
