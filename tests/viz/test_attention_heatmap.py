"""The heatmap of a query: every weight is accounted for, and lies where bilinear sampling reads."""

import numpy as np
import pytest
import torch

from ddetr_edu.attention.grid_sample import ms_deform_attn_grid_sample
from ddetr_edu.viz import plot_attention_heatmap, splat

LAYERS, M, L, P = 2, 5, 3, 7
SHAPES = [(11, 7), (5, 3), (2, 1)]


@pytest.fixture
def points():
    """Locations, many outside [0, 1], and weights that sum to 1 for each head."""
    rng = np.random.default_rng(1)
    weights = rng.random((LAYERS, M, L, P))
    weights /= weights.sum((2, 3), keepdims=True)
    return rng.uniform(-0.4, 1.4, (LAYERS, M, L, P, 2)), weights


def test_inside_and_outside_add_up_to_the_weights(points):
    locations, weights = points
    maps, outside = splat(locations, weights, SHAPES)
    assert [counted.shape for counted in maps] == SHAPES
    by_level = np.array([counted.sum() for counted in maps])
    np.testing.assert_allclose(by_level + outside, weights.sum((0, 1, 3)))
    assert (outside > 0.1).all() and (by_level > 0.1).all()


def test_maps_are_what_the_attention_multiplies_values_with(points):
    """Sampling a value that is 1 at one token and 0 elsewhere gives that token's weight."""
    locations, weights = (torch.tensor(x)[0, None, None] for x in points)  # (1, 1, M, L, P, ...)
    tokens = sum(h * w for h, w in SHAPES)
    one_at_each = torch.eye(tokens, dtype=torch.float64)[None, :, None].repeat(1, 1, M, 1)
    read = ms_deform_attn_grid_sample(one_at_each, SHAPES, locations, weights)
    expected = read.view(M, tokens).sum(0)
    maps, _ = splat(locations, weights, SHAPES)
    np.testing.assert_allclose(np.concatenate([m.ravel() for m in maps]), expected, atol=1e-12)


def test_a_point_at_a_pixels_centre_counts_there_alone():
    maps, outside = splat([[[[1.5 / 7, 10.5 / 11]]]], [[[0.25]]], [(11, 7)])
    assert maps[0][10, 1] == pytest.approx(0.25) and maps[0].sum() == pytest.approx(0.25)
    maps, outside = splat([[[[0.0, 0.0]]]], [[[1.0]]], [(11, 7)])  # a quarter is on the image
    assert maps[0][0, 0] == pytest.approx(0.25) and outside == pytest.approx(0.75)


def test_the_figure_returns_each_layer_and_their_sum(image, points, tmp_path):
    locations, weights = points
    box = [0.5, 0.5, 0.2, 0.4]
    figure, drawn = plot_attention_heatmap(
        image, locations, weights, SHAPES, [box, box], title="query 3"
    )
    assert len(drawn) == LAYERS + 1
    for layer in range(LAYERS):
        maps, outside = splat(locations[layer], weights[layer], SHAPES)
        for mine, expected in zip(drawn[layer]["maps"], maps, strict=True):
            np.testing.assert_allclose(mine, expected)
        np.testing.assert_allclose(drawn[layer]["inside"] + outside, weights[layer].sum((0, 2)))
    for part in ("inside", "outside"):
        np.testing.assert_allclose(drawn[2][part], drawn[0][part] + drawn[1][part])
    assert "all layers" in figure.axes[2].get_title()
    figure.savefig(tmp_path / "a.png")


def test_one_layer_has_no_sum_and_nothing_inside_is_drawn_dark(image):
    far = np.full((1, 2, 1, 3, 2), 7.0)
    figure, drawn = plot_attention_heatmap(image, far, np.full((1, 2, 1, 3), 1 / 3), [(5, 3)])
    assert len(drawn) == 1 and drawn[0]["inside"] == 0 and drawn[0]["outside"] == pytest.approx(2)
    assert "outside 100%" in figure.axes[0].get_title()


@pytest.mark.parametrize("locations", [(M, L, P), (M, L, P, 3), (M, P, L, 2)])
def test_shapes_that_do_not_fit_are_named(locations):
    with pytest.raises(ValueError, match="they are"):
        splat(np.ones(locations), np.ones((M, L, P)), SHAPES)
    with pytest.raises(ValueError, match="2 levels"):
        splat(np.ones((M, L, P, 2)), np.ones((M, L, P)), SHAPES[:2])
