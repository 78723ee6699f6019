"""The figures of lesson 03: areas that are weights, slopes that jump, points that walk."""

import numpy as np
import pytest
import torch

from ddetr_edu.attention import corners
from ddetr_edu.viz import plot_corner_areas, plot_value_and_slope, plot_walks


def test_areas_are_the_weights_of_the_corners():
    values = [[10.0, 20], [30, 40]]
    figure, drawn = plot_corner_areas(values, right=0.3, down=0.6)
    found = corners(torch.tensor(0.3), torch.tensor(0.6), height=2, width=2)
    for corner in found:
        weight = drawn["weights"][corner.row, corner.column]
        assert weight == pytest.approx(corner.weight.item())
    assert drawn["value"] == pytest.approx(0.4 * 13 + 0.6 * 33)
    boxes = [patch.get_bbox() for patch in figure.axes[0].patches]
    assert [box.width * box.height for box in boxes] == pytest.approx(drawn["weights"].flatten())
    # Together they cover the square, and the one of a corner lies on the other side.
    assert boxes[0].x1 == boxes[0].y1 == 1 and boxes[3].x0 == boxes[3].y0 == 0
    with pytest.raises(ValueError, match=r"between the four pixels, both are in \[0, 1\]"):
        plot_corner_areas(values, right=1.3, down=0.6)


def test_slopes_jump_at_pixel_centres():
    x = np.arange(-0.75, 2.5, 0.1)
    slopes = np.where(x < 0, 1.0, np.where(x < 1, 3.0, -2.0))
    values = np.interp(x, [-1, 0, 1, 3], [-1, 0, 3, -1])
    figure, drawn = plot_value_and_slope(x, values, slopes)
    np.testing.assert_array_equal(drawn["centres"], [0, 1, 2])
    np.testing.assert_array_equal(drawn["jumps"], [2, -5, 0])
    lines = [line.get_xydata() for line in figure.axes[1].lines if len(line.get_xdata()) > 2]
    assert all(len(set(line[:, 1])) == 1 for line in lines), "no line goes across a jump"


def test_walks_lie_on_the_surface():
    stored = np.array([[1.0, 2, 3], [5, 5, 5]])

    def plane(x, y):
        return 10 * x + y

    paths = np.array([[[0.0, 0.0], [1, 1]], [[0.5, 0.25], [2, 1]], [[1, 0.5], [2, 1]]])
    figure, drawn = plot_walks(stored, plane, paths, ["A", "B"])
    np.testing.assert_array_equal(drawn["paths"], paths)
    expected = 10 * (paths[..., 0] + 0.5) / 3 + (paths[..., 1] + 0.5) / 2
    np.testing.assert_allclose(drawn["values"], expected)
    hills, steps = figure.axes
    assert hills.yaxis_inverted()  # y counts downwards, as in an image
    assert [text.get_text().strip() for text in hills.texts] == ["A", "B"]
    np.testing.assert_allclose([line.get_ydata() for line in steps.lines], drawn["values"].T)
    assert figure._repr_png_()
