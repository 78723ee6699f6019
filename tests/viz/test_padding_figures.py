"""The figures about padding draw points and scores as given."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_padded_images, plot_score_drift

IMAGES = {"wide": np.zeros((20, 50, 3)), "tall": np.ones((40, 30, 3))}


def test_points_and_boxes_are_in_pixels_of_the_batch():
    points = {"here": [np.array([[0.5, 0.25]]), np.array([[0, 1], [1.2, 0.5]])]}
    boxes = {"a box": [None, (1, 2, 3, 4)]}
    figure, drawn = plot_padded_images(IMAGES, (40, 50), points, boxes)
    np.testing.assert_allclose(drawn["here"][0], [[25, 10]])
    np.testing.assert_allclose(drawn["here"][1], [[0, 40], [60, 20]])
    wide, tall = figure.axes
    assert wide.yaxis_inverted()
    assert wide.get_xticks().tolist() == [0, 50] and wide.get_yticks().tolist() == [0, 20, 40]
    assert tall.get_xticks().tolist() == [0, 30, 50] and tall.get_yticks().tolist() == [0, 40]
    for axis, padding in ((wide, (50, 20)), (tall, (20, 40))):
        hatched = [p for p in axis.patches if p.get_hatch() and p.get_width() and p.get_height()]
        assert [(p.get_width(), p.get_height()) for p in hatched] == [padding]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["here", "a box"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="40 x 30 px does not fit into a batch of 30 x 50 px"):
        plot_padded_images(IMAGES, (30, 50))
    with pytest.raises(ValueError, match='"p" has an entry for 1 panels, but there are 2'):
        plot_padded_images(IMAGES, (40, 50), {"p": [np.zeros((1, 2))]})


def test_each_detection_has_a_line():
    scores = {"one": [[0.9, 0.8], [0.7, 0.2], [0.5, 0.1]], "other": np.ones((3, 1))}
    figure, drawn = plot_score_drift((10, 20, 40), scores)
    np.testing.assert_allclose(drawn["one"], scores["one"])
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(lines[1].get_xydata(), [[10, 0.8], [20, 0.2], [40, 0.1]])
    with pytest.raises(ValueError, match='"one" has scores in 3 batches, but there are 2 widths'):
        plot_score_drift((10, 20), scores)
