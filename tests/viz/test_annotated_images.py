"""Annotated images are drawn as the file has them, beyond the border too."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_annotated_images

NAMES = {1: "disc", 2: "tile"}
IMAGE = np.zeros((20, 30, 3))


def test_boxes_and_names_are_drawn():
    columns = {
        "right": [(IMAGE, [[5, 4, 10, 8]], [1]), (IMAGE, [], [])],
        "wrong": [(IMAGE, [[5, 4, 30, 8], [1, 2, 3, 4]], [2, 9]), (IMAGE, [[0, 0, 1, 1]], [1])],
    }
    figure, drawn = plot_annotated_images(columns, NAMES)
    np.testing.assert_allclose(drawn["right"][0], [[5, 4, 15, 12]])
    assert drawn["right"][1].shape == (0, 4)
    np.testing.assert_allclose(drawn["wrong"][0], [[5, 4, 35, 12], [1, 2, 4, 6]])
    first, second, third, fourth = figure.axes  # row by row
    assert [axis.get_title() for axis in figure.axes] == ["right", "wrong", "", ""]
    assert [text.get_text() for text in first.texts] == ["disc"]
    assert [text.get_text() for text in second.texts] == ["tile", "9"]
    assert third.texts == [] or len(third.texts) == 0
    (line,) = first.lines
    assert set(line.get_xdata()) == {5, 15} and set(line.get_ydata()) == {4, 12}
    assert second.get_xlim()[1] > 35 and second.yaxis_inverted()


def test_a_name_does_not_hide_its_object():
    columns = {"a": [(IMAGE, [[5, 9, 4, 3], [12, 1, 4, 3]], [1, 2])]}
    figure, drawn = plot_annotated_images(columns, NAMES)
    figure.canvas.draw()
    (axis,) = figure.axes
    for text, (_, y1, _, y2) in zip(axis.texts, drawn["a"][0], strict=True):
        (_, below), (_, above) = axis.transData.inverted().transform(text.get_window_extent())
        assert above <= y1 or below >= y2  # y grows downwards
        assert above >= axis.get_ylim()[1]


def test_boxes_are_left_as_they_are():
    boxes = np.array([[5.0, 4, 10, 8]])
    plot_annotated_images({"a": [(IMAGE, boxes, [1])]}, NAMES)
    assert boxes.tolist() == [[5, 4, 10, 8]]


def test_without_an_image_there_is_no_figure():
    with pytest.raises(ValueError, match="there is no image to draw"):
        plot_annotated_images({"a": []}, NAMES)
