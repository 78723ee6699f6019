"""Sampling points over an image: what is returned is what was asked for and what was drawn."""

import numpy as np
import pytest
import torch

from ddetr_edu.viz import plot_sampling_points

M, L, P = 5, 3, 7
H, W = 13, 31
SHAPES = [(11, 7), (5, 3), (2, 1)]


@pytest.fixture
def points():
    """Locations, some outside [0, 1], and weights that sum to 1 for each head."""
    rng = np.random.default_rng(1)
    weights = rng.random((M, L, P))
    return rng.uniform(-0.4, 1.4, (M, L, P, 2)), weights / weights.sum((1, 2), keepdims=True)


def dots(axis):
    (scatter,) = axis.collections
    return np.asarray(scatter.get_offsets()), np.asarray(scatter.get_array()), scatter.get_sizes()


@pytest.mark.parametrize("by, count", [("level", L), ("head", M)])
def test_a_panel_holds_its_own_points_and_all_of_them(image, points, by, count):
    locations, weights = points
    figure, drawn = plot_sampling_points(image, [0.25, 0.5], locations, weights, by=by)
    assert len(drawn) == count
    for number, panel in enumerate(drawn):
        expected = {}
        for m in range(M):
            for l in range(L):
                for p in range(P):
                    if number == (l if by == "level" else m):
                        x, y = locations[m, l, p]
                        expected[weights[m, l, p]] = (x * W, y * H)
        assert list(panel["weights"]) == sorted(expected)  # the heaviest last, on top
        np.testing.assert_allclose(panel["locations"], [expected[w] for w in sorted(expected)])
        np.testing.assert_allclose(panel["reference"], [0.25 * W, 0.5 * H])
    outside = sum(((p["locations"] < 0) | (p["locations"] > [W, H])).any(1).sum() for p in drawn)
    assert outside == ((locations < 0) | (locations > 1)).any(-1).sum() > 10


@pytest.mark.parametrize("by", ["level", "head"])
def test_what_is_returned_is_what_was_drawn(image, points, by):
    figure, drawn = plot_sampling_points(image, [0.25, 0.5], *points, by=by)
    figure.draw_without_rendering()
    for axis, panel in zip(figure.axes, drawn, strict=False):
        positions, colours, sizes = dots(axis)
        np.testing.assert_allclose(positions, panel["locations"])
        np.testing.assert_allclose(colours, panel["weights"])
        assert (np.diff(sizes) > 0).all()  # the larger, the more it counts
        for cross in axis.lines[-2:]:
            np.testing.assert_allclose(np.ravel(cross.get_data()), panel["reference"])
        left, right = axis.get_xlim()
        bottom, top = axis.get_ylim()
        assert left < positions[:, 0].min() and positions[:, 0].max() < right
        assert top < positions[:, 1].min() and positions[:, 1].max() < bottom  # y runs down
        assert axis.images[0].get_extent() == [0, W, H, 0]


def test_all_panels_share_one_scale_of_weights(image, points):
    figure, _ = plot_sampling_points(image, [0.5, 0.5], *points, by="head")
    limits = {axis.collections[0].get_clim() for axis in figure.axes[:M]}
    assert limits == {(0, points[1].max())}


@pytest.mark.parametrize("n_levels", [1, 2, 4, 5, 6, 7, 8])
def test_no_empty_panel_is_left(image, n_levels):
    rng = np.random.default_rng(2)
    figure, drawn = plot_sampling_points(
        image, [0.5, 0.5], rng.random((3, n_levels, 2, 2)), rng.random((3, n_levels, 2))
    )
    assert len(drawn) == n_levels and len(figure.axes) == n_levels + 1  # and the colour bar


def test_each_level_may_have_its_own_reference(image, points):
    references = np.random.default_rng(3).random((L, 4))  # boxes: their centres are drawn
    _, drawn = plot_sampling_points(image, references, *points)
    for level, panel in enumerate(drawn):
        np.testing.assert_allclose(panel["reference"], references[level, :2] * [W, H])
    _, drawn = plot_sampling_points(image, references[1], *points)
    for panel in drawn:
        np.testing.assert_allclose(panel["reference"], references[1, :2] * [W, H])


def test_titles_tell_the_level_its_grid_and_its_share(image, points):
    figure, drawn = plot_sampling_points(
        image, [0.5, 0.5], *points, spatial_shapes=SHAPES, title="query 3"
    )
    for level, (axis, (rows, columns)) in enumerate(zip(figure.axes, SHAPES, strict=False)):
        share = points[1][:, level].sum() / points[1].sum()
        title = f"level {level}: {rows} x {columns}\n{share:.0%} of the weight"
        assert axis.get_title() == title
        assert len(axis.lines) == (rows - 1) + (columns - 1) + 2  # grid lines and the cross
    assert figure.get_suptitle() == "query 3"


def test_a_box_is_drawn_in_pixels(image, points):
    figure, _ = plot_sampling_points(image, [0.5, 0.5], *points, box=[2, 3, 20, 11])
    for axis in figure.axes[:L]:
        assert [2, 3, 18, 8] in [
            [*patch.get_xy(), patch.get_width(), patch.get_height()] for patch in axis.patches
        ]


def test_tensors_that_need_gradients_are_drawn_and_not_changed(image, points, tmp_path):
    locations, weights = (torch.tensor(x).requires_grad_() for x in points)
    before = locations.clone()
    tensor = torch.tensor(image).permute(2, 0, 1)
    figure, drawn = plot_sampling_points(tensor, torch.tensor([0.25, 0.5]), locations, weights)
    _, expected = plot_sampling_points(image, [0.25, 0.5], *points)
    for a, b in zip(drawn, expected, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in b)
    assert torch.equal(locations, before)
    figure.savefig(tmp_path / "a.png")


@pytest.mark.parametrize(
    "locations, weights, more, message",
    [
        ((2, M, L, P, 2), (2, M, L, P), {}, "pick an image and a query first"),
        ((M, L, P, 2), (M, P, L), {}, r"\(5, 3, 7, 2\) and weights \(5, 7, 3\)"),
        ((M, L, P, 3), (M, L, P), {}, r"\(5, 3, 7, 3\)"),
        ((M, L, P), (M, L, P), {}, r"they are \(M, L, P, 2\)"),
        ((M, L, P, 2), (M, L, P), dict(by="point"), 'by="point" is not known'),
        ((M, L, P, 2), (M, L, P), dict(spatial_shapes=SHAPES[:2]), "names 2 levels"),
    ],
)
def test_shapes_that_do_not_fit_are_named(image, locations, weights, more, message):
    with pytest.raises(ValueError, match=message):
        plot_sampling_points(image, [0.5, 0.5], np.ones(locations), np.ones(weights), **more)
