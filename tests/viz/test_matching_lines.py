"""Matching: which rows of costs are drawn, and which query each object is matched with."""

import io

import numpy as np
import pytest

from ddetr_edu.viz import plot_matching, plot_matching_by_layer

IMAGE = np.zeros((70, 90, 3), np.uint8)
OBJECTS = np.array([[44, 22, 62, 52], [0, 2, 12, 12], [20, 30, 30, 60]], dtype=float)


def test_of_many_queries_the_matched_and_the_cheapest_are_shown():
    random = np.random.default_rng(0)
    corners = random.random((60, 2)) * 40
    boxes = np.concatenate([corners, corners + 1 + random.random((60, 2)) * 25], axis=1)
    cost = random.random((60, 3))
    cost[[7, 40]] += 5  # expensive, but matched
    figure, drawn = plot_matching(IMAGE, boxes, OBJECTS, cost, [7, 40, 58], [2, 0, 1])
    shown = drawn["shown"]
    assert len(shown) == 24 and list(shown) == sorted(shown) and {7, 40, 58} <= set(shown)
    left, right = figure.axes[:2]
    hidden = sorted(set(range(60)) - set(shown))
    others = sorted(set(shown) - {7, 40, 58})
    assert cost[others].min(1).max() <= cost[hidden].min(1).min()
    np.testing.assert_array_equal(right.images[0].get_array(), cost[shown])
    assert [int(label.get_text()) for label in right.get_yticklabels()] == list(shown)
    circles = right.lines[0].get_xydata().astype(int)
    assert [(column, shown[row]) for column, row in circles] == [(2, 7), (0, 40), (1, 58)]
    np.testing.assert_array_equal(drawn["cost"], cost)
    assert len(left.patches) == 21 + 2 * 3  # the grey ones, and two for each pair


def test_labels_stay_inside_the_image_and_apart():
    objects = np.array([[80, 10, 89, 20], [20, 30, 30, 60], [22, 26, 44, 52]], dtype=float)
    figure, _ = plot_matching(IMAGE, objects, objects, np.eye(3), [0, 1, 2], [0, 1, 2])
    figure.savefig(io.BytesIO())
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.texts] == [f"{n}: query {n}" for n in range(3)]
    boxes = [text.get_window_extent() for text in panel.texts]
    for n, box in enumerate(boxes):
        assert panel.bbox.x0 <= box.x0 and box.x1 <= panel.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:n])


@pytest.mark.filterwarnings("ignore:Attempting to set identical")  # a table without columns
def test_without_objects_only_the_image_is_drawn():
    _, drawn = plot_matching(
        IMAGE,
        np.ones((5, 4)),
        np.zeros((0, 4)),
        np.zeros((5, 0)),
        np.zeros(0, int),
        np.zeros(0, int),
    )
    assert drawn["lines"].shape == (0, 2, 2) and list(drawn["shown"]) == list(range(5))


@pytest.fixture
def layers():
    """Two layers of five queries; the third object has no query in the first layer."""
    random = np.random.default_rng(1)
    corners = random.random((2, 5, 2)) * 40
    boxes = np.concatenate([corners, corners + 10], axis=-1)
    return boxes, random.random((2, 5, 3)), np.array([[4, 0, -1], [4, 2, 0]])


def test_queries_layer_by_layer(layers):
    boxes, cost, queries = layers
    figure, drawn = plot_matching_by_layer(IMAGE, boxes, OBJECTS, cost, queries, ["a", "b", "c"])
    np.testing.assert_array_equal(drawn["queries"], queries)
    assert drawn["changed"].tolist() == [[False] * 3, [False, True, True]]
    expected = [
        [cost[0, 4, 0], cost[0, 0, 1], np.nan],
        [cost[1, 4, 0], cost[1, 2, 1], cost[1, 0, 2]],
    ]
    np.testing.assert_array_equal(drawn["cost"], expected)
    assert np.isnan(drawn["lines"][0, 2]).all()
    for l, t in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        x1, y1, x2, y2 = boxes[l, queries[l, t]]
        np.testing.assert_allclose(drawn["lines"][l, t, 0], [(x1 + x2) / 2, (y1 + y2) / 2])
        x1, y1, x2, y2 = OBJECTS[t]
        np.testing.assert_allclose(drawn["lines"][l, t, 1], [(x1 + x2) / 2, (y1 + y2) / 2])
    first, second, table = figure.axes[:3]
    assert len(first.lines) == 2 and len(second.lines) == 3
    assert len(first.patches) == 5 and len(second.patches) == 6
    cells = {text.xy: text.get_text() for text in table.texts}
    assert cells[(0, 2)] == "none" and cells[(1, 1)] == "2" and len(cells) == 6
    assert len(table.patches) == 2 * 2  # two frames, each of two colours
    assert [t.get_text() for t in table.get_yticklabels()] == ["0 a", "1 b", "2 c"]
    assert figure._repr_png_()[0].startswith(b"\x89PNG")


def test_shapes_of_layers_that_do_not_fit_are_refused(layers):
    boxes, cost, queries = layers
    for wrong_boxes, wrong_cost, wrong_queries in (
        (boxes, cost, queries[:1]),
        (boxes[:, :4], cost, queries),
        (boxes, cost[..., :2], queries),
        (boxes, cost[..., :0], queries[:, :0]),
    ):
        with pytest.raises(ValueError, match="at least one object"):
            plot_matching_by_layer(IMAGE, wrong_boxes, OBJECTS, wrong_cost, wrong_queries)
