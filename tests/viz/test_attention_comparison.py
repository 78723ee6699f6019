"""Dense and deformable attention: how much of the weight is inside a box."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_attention_comparison
from ddetr_edu.viz.attention_comparison import cell_coverage


def test_the_share_of_each_cell_that_a_box_covers():
    # cells of 10 x 10 px; the box covers the second column and half of the third
    covered = cell_coverage(np.array([10, 5, 25, 20]), (3, 5), width=50, height=30)
    np.testing.assert_allclose(covered, [[0, 0.5, 0.25, 0, 0], [0, 1, 0.5, 0, 0], [0] * 5])
    assert cell_coverage(np.array([0, 0, 50, 30]), (3, 7), 50, 30).min() == pytest.approx(1)


def softmax(scores, axes):
    scores = np.exp(scores)
    return scores / scores.sum(axes, keepdims=True)


def test_weights_inside_the_boxes():
    random = np.random.default_rng(0)
    image = random.random((30, 50, 3))
    maps = softmax(random.normal(size=(2, 5, 3, 7)), (2, 3))
    locations = random.random((3, 5, 2, 11, 2)) * 1.2 - 0.1
    weights = softmax(random.normal(size=(3, 5, 2, 11)), (2, 3))
    map_box, box = np.array([0.0, 0, 50, 10]), np.array([5.0, 6, 40, 27])
    figure, data = plot_attention_comparison(image, maps, map_box, locations, weights, box, "t")
    # The upper third of the image is the first row of cells.
    np.testing.assert_allclose(data["dense"]["inside"], maps.mean(1)[:, 0].sum(-1))
    x, y = locations[..., 0] * 50, locations[..., 1] * 30
    hit = (x >= 5) & (x <= 40) & (y >= 6) & (y <= 27)
    np.testing.assert_allclose(data["deformable"]["inside"], (weights * hit).sum((1, 2, 3)) / 5)
    assert (data["dense"]["locations"], data["deformable"]["locations"]) == (21, 5 * 2 * 11)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == f"layer 0: {data['dense']['inside'][0]:.0%} inside the box"
    assert figure._repr_png_()[0].startswith(b"\x89PNG")
    # All of the weight is inside the whole image, all of the points inside a larger box.
    _, data = plot_attention_comparison(
        image, maps, [0, 0, 50, 30], locations, weights, [-9, -9, 99, 99]
    )
    for inside in (data["dense"]["inside"], data["deformable"]["inside"]):
        np.testing.assert_allclose(inside, 1)


def test_shapes_of_more_than_one_query_are_refused():
    with pytest.raises(ValueError, match=r"maps \(2, 5, 9, 3, 7\).*pick an image and a query"):
        plot_attention_comparison(
            np.zeros((5, 5, 3)),
            np.zeros((2, 5, 9, 3, 7)),
            [0] * 4,
            np.zeros((3, 5, 2, 11, 2)),
            np.zeros((3, 5, 2, 11)),
            [0] * 4,
        )
