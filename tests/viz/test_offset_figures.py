"""The figures of sampling offsets: what is returned is what is true and what is drawn."""

import numpy as np
import pytest
import torch

from ddetr_edu import viz

SHAPES = [(6, 11), (3, 5)]
SIZES = np.array([(11, 6), (5, 3)])  # (W, H)
LQ, M, P = 2, 3, 4


@pytest.fixture
def locations():
    return np.random.default_rng(0).uniform(-0.3, 1.2, (LQ, M, 2, P, 2))


# points_on_levels


@pytest.mark.parametrize("references", [[[0.2, 0.4], [0.7, 0.1]], [[0.2, 0.4, 0.3, 0.5]] * 2])
def test_points_are_drawn_in_pixels_of_each_level(locations, references):
    sets = {"first": locations, "second": locations[::-1]}
    figure, drawn = viz.plot_points_on_levels(sets, references, SHAPES, intended=locations)
    assert [a.get_title() for a in figure.axes] == [
        f"{name}, level {l}: {h} x {w}" for name in sets for l, (h, w) in enumerate(SHAPES)
    ]
    for k, (name, points) in enumerate(sets.items()):
        for level in range(2):
            expected = points[:, :, level] * SIZES[level]
            np.testing.assert_allclose(drawn[name][level], expected)
            axis = figure.axes[2 * k + level]
            lines = [line.get_xydata() for line in axis.lines]
            for head in expected.reshape(-1, P, 2):
                assert any(line.shape == head.shape and np.allclose(line, head) for line in lines)
            rings = (locations[:, :, level] * SIZES[level]).reshape(-1, 2)
            assert any(l.shape == rings.shape and np.allclose(l, rings) for l in lines)
            assert axis.yaxis_inverted()  # y counts downwards, as in an image
            (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
            x, y = expected.reshape(-1, 2).T
            assert left < x.min() and x.max() < right and top < y.min() and y.max() < bottom
            frame, *boxes = axis.patches
            assert (frame.get_width(), frame.get_height()) == tuple(SIZES[level])
            assert len(boxes) == (LQ if len(references[0]) == 4 else 0)
            if boxes:
                bounds = np.array([0.05, 0.15, 0.3, 0.5]) * np.tile(SIZES[level], 2)
                np.testing.assert_allclose(boxes[0].get_bbox().bounds, bounds)


def test_one_level_puts_three_sets_in_a_row(locations):
    sets = {name: locations[:, :, :1] for name in "abcd"}
    figure, _ = viz.plot_points_on_levels(sets, [[0.5, 0.5]] * 2, SHAPES[:1])
    assert [axis.get_title() for axis in figure.axes] == list("abcd")
    rows = [axis.get_subplotspec().rowspan.start for axis in figure.axes]
    assert rows == [0, 0, 0, 1]


def test_an_image_lies_under_the_grid_of_each_level(locations):
    image = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    figure, _ = viz.plot_points_on_levels({"a": locations}, [[0.5, 0.5]] * LQ, SHAPES, image=image)
    for axis, (width, height) in zip(figure.axes, SIZES, strict=True):
        (drawn,) = axis.images
        np.testing.assert_allclose(drawn.get_array(), (image / 1.0 + 255) / 2, atol=0.5)
        assert list(drawn.get_extent()) == [0, width, height, 0]


def test_points_that_do_not_fit_are_named(locations):
    with pytest.raises(ValueError, match='"mine" have shape .* 3 reference points and 2 levels'):
        viz.plot_points_on_levels({"mine": locations}, [[0.5, 0.5]] * 3, SHAPES)


# outside_by_level


def test_shares_outside_are_counted_for_each_token():
    rng = np.random.default_rng(1)
    outside = rng.random((4, 7, M, 2, P)) < 0.3
    locations = torch.rand(M, 2, P, 2) * 1.5
    figure, drawn = viz.plot_outside_by_level(outside, SHAPES, locations, [0.25, 0.5])
    np.testing.assert_allclose(drawn["shares"][1, 2, 5], outside[2, 5, :, 1].mean())
    np.testing.assert_allclose(drawn["means"], outside.mean((0, 1, 2, 4)))
    for level, axis in enumerate(figure.axes[:2]):
        np.testing.assert_allclose(axis.images[0].get_array(), drawn["shares"][level])
        here = locations[:, level].reshape(-1, 2).numpy()
        is_out = (here > 1).any(-1)
        dots, crosses, reference = (line.get_xydata() for line in axis.lines)
        np.testing.assert_allclose(dots, here[~is_out] * [7, 4], rtol=1e-6)
        np.testing.assert_allclose(crosses, here[is_out] * [7, 4], rtol=1e-6)
        np.testing.assert_allclose(reference, [[0.25 * 7, 0.5 * 4]])
        assert f"{drawn['means'][level]:.0%} outside" in axis.get_title()
    with pytest.raises(ValueError, match="give as many of each"):
        viz.plot_outside_by_level(outside, SHAPES[:1], locations, [0.25, 0.5])


# along_row


def test_a_row_is_sampled_as_bilinear_sampling_does():
    row = torch.tensor([2.0, 5, 1], dtype=torch.float64)
    positions = {"some": [0, 0.25, 1.5, 2.75], "outside": [-0.5, -3, 2.5]}
    figure, drawn = viz.plot_along_row(row, positions)
    np.testing.assert_allclose(drawn["some"], [2, 2.75, 3, 0.25])
    np.testing.assert_allclose(drawn["outside"], [1, 0, 0.5])
    _, some, outside = (line.get_xydata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(some, np.stack([positions["some"], drawn["some"]], -1))
    np.testing.assert_allclose(outside, np.stack([positions["outside"], drawn["outside"]], -1))
