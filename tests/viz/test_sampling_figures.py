"""The figures of a trace: what is returned is what is true and what is drawn."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Wedge

from ddetr_edu import viz
from ddetr_edu.attention import initial_offsets

LAYERS, M, L, P = 2, 5, 3, 4
H, W = 13, 31  # of the image
SHAPES = [(11, 7), (5, 3), (2, 1)]
SIZE = np.array([W, H])


@pytest.fixture
def points():
    rng = np.random.default_rng(1)
    weights = rng.random((LAYERS, M, L, P))
    weights /= weights.sum((2, 3), keepdims=True)
    return rng.uniform(-0.4, 1.4, (LAYERS, M, L, P, 2)), weights


# layers


@pytest.mark.parametrize("entering", [[0.25, 0.5], [0.25, 0.5, 0.2, 0.4]])
def test_layers_hold_all_points_with_level_and_weight(image, points, entering):
    locations, weights = points
    leaving = [[0.3, 0.5, 0.2, 0.4], [0.4, 0.6, 0.1, 0.2]]
    figure, drawn = viz.plot_layers(image, [entering] * 2, leaving, locations, weights)
    for layer, (panel, axis) in enumerate(zip(drawn, figure.axes, strict=False)):
        expected = {
            weights[layer, m, l, p]: (*locations[layer, m, l, p] * SIZE, l)
            for m in range(M)
            for l in range(L)
            for p in range(P)
        }
        assert list(panel["weights"]) == sorted(expected)  # the heaviest last, on top
        rows = np.array([expected[w] for w in sorted(expected)])
        np.testing.assert_allclose(panel["locations"], rows[:, :2])
        np.testing.assert_array_equal(panel["levels"], rows[:, 2])
        cx, cy, w, h = leaving[layer]
        corners = [(cx - w / 2) * W, (cy - h / 2) * H, (cx + w / 2) * W, (cy + h / 2) * H]
        np.testing.assert_allclose(panel["leaving"], corners)
        np.testing.assert_allclose(
            panel["entering"][:2],
            [0.25 * W, 0.5 * H] if len(entering) == 2 else [0.15 * W, 0.3 * H],
        )
        for level, dots in enumerate(axis.collections):  # one marker for each level
            of = panel["levels"] == level
            np.testing.assert_allclose(dots.get_offsets(), panel["locations"][of])
            np.testing.assert_allclose(dots.get_array(), panel["weights"][of])
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        x, y = panel["locations"].T
        hidden = (x < left) | (x > right) | (y < top) | (y > bottom)
        assert panel["beyond"] == pytest.approx(panel["weights"][hidden].sum() / M)
        assert (
            0 < panel["beyond"] < 1
        )  # there are such points; a tenth of the image is shown around it
    assert len({axis.get_xlim() for axis in figure.axes[:2]}) == 1


def test_layers_show_the_part_of_the_image_that_matters(points):
    locations = np.full((1, M, L, P, 2), 0.5) + 0.01 * points[0][:1]
    image = np.zeros((300, 400, 3))
    figure, _ = viz.plot_layers(image, [[0.5, 0.5]], None, locations, points[1][:1])
    (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert right - left == pytest.approx(100) == bottom - top and left < 200 < right


def test_layers_that_do_not_fit_are_named(image, points):
    locations, weights = points
    box = [[0.5, 0.5]] * 2
    with pytest.raises(ValueError, match="pick an image and a query"):
        viz.plot_layers(image, box, None, locations[0], weights[0])
    with pytest.raises(ValueError, match="2 layers of locations came with 1 boxes entering"):
        viz.plot_layers(image, box[:1], None, locations, weights)


# offset_rose


def test_an_untrained_attention_lies_on_its_star():
    star = initial_offsets(M, L, P)
    offsets = star.expand(7, -1, -1, -1, -1)
    figure, drawn = viz.plot_offset_rose(offsets, np.full((7, M, L, P), 1 / (L * P)), star)
    assert drawn["shares"].shape == (M, 24, 4)
    for head in range(M):
        sectors = drawn["shares"][head].sum(-1)
        assert sectors.max() == pytest.approx(1)
        apart = drawn["directions"][sectors.argmax()] - 2 * np.pi * head / M
        assert abs(np.angle(np.exp(1j * apart))) <= np.pi / 24
        assert drawn["star"][head] == pytest.approx(np.angle(np.exp(2j * np.pi * head / M)))
        # Points 1 and 2 of 4 are near, 3 and 4 up to the star's reach, none farther.
        np.testing.assert_allclose(drawn["shares"][head].sum(0), [0.5, 0.5, 0, 0], atol=1e-6)
    for axis in figure.axes:
        assert axis.yaxis_inverted()  # y counts downwards, as in an image


def test_a_rose_counts_weights_by_direction_and_distance():
    offsets = np.zeros((1, 1, 1, 4, 2))
    offsets[0, 0, 0] = [[1, 0], [0, 3], [0, 7], [-90, 0]]  # right, down, down, far to the left
    weights = np.array([0.1, 0.2, 0.3, 0.4]).reshape(1, 1, 1, 4)
    figure, drawn = viz.plot_offset_rose(offsets, weights, initial_offsets(1, 1, 4), sectors=4)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[1, 1], expected[1, 2], expected[2, 3] = 0.1, 0.2, 0.3, 0.4
    np.testing.assert_allclose(drawn["shares"][0], expected)
    filled = [p for p in figure.axes[0].patches if isinstance(p, Wedge) and p.get_fill()]
    areas = {  # of whole sectors: from the centre out to the last piece
        (p.theta1 + p.theta2) / 2: p.r**2 for p in filled if p.r < 1 or p.theta2 - p.theta1 < 360
    }
    np.testing.assert_allclose([areas[0], areas[90], areas[180]], np.array([0.1, 0.5, 0.4]) / 0.5)


# level_usage


def test_levels_are_shares_in_the_order_of_size():
    sides, mass = [40.0, 10, 20], [[1.0, 3], [3, 1], [2, 2]]
    figure, drawn = viz.plot_level_usage_by_size(sides, mass, strides=[8, 16])
    np.testing.assert_array_equal(drawn["sides"], [10, 20, 40])
    np.testing.assert_allclose(drawn["shares"], [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(drawn["mean_sides"], [20])  # the geometric mean
    np.testing.assert_allclose(drawn["mean_shares"], [[0.5, 0.5]])
    rng = np.random.default_rng(0)
    _, drawn = viz.plot_level_usage_by_size(rng.uniform(5, 99, 100), rng.random((100, 4)))
    assert drawn["mean_shares"].shape == (8, 4) and (np.diff(drawn["mean_sides"]) > 0).all()
    with pytest.raises(ValueError, match="lower the threshold"):
        viz.plot_level_usage_by_size([], np.zeros((0, 3)))


# box_trajectories


@pytest.mark.parametrize("box", [2, 4])
def test_trajectories_go_from_the_reference_through_every_box(image, box):
    rng = np.random.default_rng(2)
    references, boxes = rng.uniform(0.2, 0.8, (3, box)), rng.uniform(0.2, 0.8, (LAYERS, 3, 4))
    figure, drawn = viz.plot_box_trajectories(image, references, boxes, ["a", "b", "c"])
    path = np.concatenate([references[None, :, :2], boxes[..., :2]]).transpose(1, 0, 2) * SIZE
    np.testing.assert_allclose(drawn["centres"], path)
    np.testing.assert_allclose(drawn["moved"], np.hypot(*np.diff(path, axis=1).transpose(2, 0, 1)))
    assert {text.get_text() for text in figure.axes[0].texts} == {"a", "b", "c"}
    with pytest.raises(ValueError, match="they are"):
        viz.plot_box_trajectories(image, references, boxes[0])


# proposals


def test_proposals_are_at_their_tokens(image):
    tokens = sum(h * w for h, w in SHAPES)
    rng = np.random.default_rng(3)
    objectness, boxes = rng.random(tokens), rng.uniform(0.3, 0.6, (tokens, 4))
    chosen = [77 + 4, 8, 77 + 15 + 1]  # of level 1 row 1 column 1, level 0 row 1 column 1, level 2
    figure, drawn = viz.plot_proposals(image, objectness, SHAPES, boxes, chosen, best=2)
    np.testing.assert_allclose(drawn["chosen"][0], [[1.5 / 7 * W, 1.5 / 11 * H]])
    np.testing.assert_allclose(drawn["chosen"][1], [[1.5 / 3 * W, 1.5 / 5 * H]])
    np.testing.assert_allclose(drawn["chosen"][2], [[0.5 * W, 1.5 / 2 * H]])
    assert [m.shape for m in drawn["maps"]] == SHAPES
    assert drawn["maps"][1][1, 1] == objectness[77 + 4]
    assert drawn["boxes"].shape == (2, 4)
    assert "1 of 3 queries" in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="S = 94 tokens"):
        viz.plot_proposals(image, objectness[:-1], SHAPES, boxes, chosen)


# out_of_bounds


def test_outside_counts_points_and_weights(image, points):
    locations, weights = points
    many = locations[:, None].repeat(3, 1), weights[:, None].repeat(3, 1)  # three queries alike
    figure, drawn = viz.plot_out_of_bounds(image, *many)
    out = ((locations < 0) | (locations > 1)).any(-1)
    np.testing.assert_allclose(drawn["points"], out.mean((1, 3)))
    lost = (weights * out).sum((1, 3)) / weights.sum((1, 3))
    np.testing.assert_allclose(drawn["weights"], lost)
    assert drawn["beyond"] == 0 and drawn["density"].sum() == pytest.approx(LAYERS)
    assert figure.axes[1].texts[-1].get_text() == f"{lost[-1, -1]:.0%}"
    _, drawn = viz.plot_out_of_bounds(image, many[0] * 9, many[1])
    assert drawn["beyond"] > 0 and drawn["density"].sum() < LAYERS


# labels and the dark page


def test_no_text_overlaps_another(image):
    boxes = np.array([[3, 5, 12, 11.0]] * 4 + [[20, 5, 29, 11]])
    figure, _ = viz.plot_boxes(image, boxes, scores=np.full(5, 0.5))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(texts) == 5
    assert not any(a.overlaps(b) for n, a in enumerate(texts) for b in texts[:n])


def test_the_dark_page_is_dark_and_only_inside_the_block(points):
    before = dict(matplotlib.rcParams)
    with viz.dark():
        figure, _ = viz.plot_level_usage_by_size([10.0, 20], [[1.0, 3], [3, 1]], title="levels")
    assert dict(matplotlib.rcParams) == before
    luminance = lambda colour: np.mean(matplotlib.colors.to_rgb(colour))  # noqa: E731
    axis = figure.axes[0]
    assert luminance(figure.get_facecolor()) < 0.2 > luminance(axis.get_facecolor())
    for text in (axis.title, axis.xaxis.label, *axis.get_xticklabels(), *figure.legends[0].texts):
        assert luminance(text.get_color()) > 0.8


def test_tensors_that_need_gradients_are_drawn(image, points):
    locations, weights = (torch.tensor(x).requires_grad_() for x in points)
    viz.plot_layers(image, torch.rand(2, 4), torch.rand(2, 4), locations, weights)
    viz.plot_attention_heatmap(image, locations, weights, SHAPES)
    viz.plot_out_of_bounds(image, locations[:, None], weights[:, None])
