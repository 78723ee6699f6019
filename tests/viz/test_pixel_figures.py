"""The figures of lesson 02: where pixels, tokens and boxes are."""

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image

from ddetr_edu.viz import (
    plot_convention_shift,
    plot_covering_tokens,
    plot_numbered_boxes,
    plot_pixel_conventions,
)
from ddetr_edu.viz.pixel_conventions import pixel_position


def test_the_ends_of_the_scale_are_edges_or_centres():
    assert [pixel_position(x, 4) for x in (0, 0.5, 1)] == [-0.5, 1.5, 3.5]
    assert [pixel_position(x, 4, align_corners=True) for x in (0, 0.5, 1)] == [0, 1.5, 3]


def test_points_are_drawn_by_both_conventions():
    figure, drawn = plot_pixel_conventions([[0.5, 0.5], [0.125, 0.5], [0, 1]], shape=(3, 4))
    np.testing.assert_allclose(drawn["edges"], [[1.5, 1], [0, 1], [-0.5, 2.5]])
    np.testing.assert_allclose(drawn["centres"], [[1.5, 1], [0.375, 1], [0, 2]])
    assert len(figure.axes) == 2
    for axis, positions in zip(figure.axes, drawn.values(), strict=True):
        assert axis.yaxis_inverted()
        crosses = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "P"]
        np.testing.assert_allclose(crosses, positions)
        frame = axis.patches[-1]  # the unit square
        low, high = pixel_position(
            np.array([[0, 0], [1, 1]]), np.array([4, 3]), axis is figure.axes[1]
        )
        np.testing.assert_allclose(frame.get_xy(), low)
        np.testing.assert_allclose([frame.get_width(), frame.get_height()], high - low)


def test_the_shift_is_half_a_pixel_of_any_map_and_half_a_stride_of_the_image():
    shapes = [(768 // stride, 1280 // stride) for stride in (8, 16, 32, 64)]
    _, drawn = plot_convention_shift((768, 1280), shapes)
    np.testing.assert_allclose(drawn["of the map"], np.tile(0.5 - drawn["x"], (4, 1)), atol=1e-9)
    np.testing.assert_allclose(drawn["of the image"][:, 0], [4, 8, 16, 32])
    np.testing.assert_allclose(drawn["of the image"][:, 50], 0, atol=1e-9)


def test_covering_tokens():
    image = Image.new("RGB", (206, 160))
    shapes = [(20, 26), (10, 13), (5, 7), (3, 4)]
    _, drawn = plot_covering_tokens(image, shapes, row=102, column=58)
    assert drawn["tokens"].tolist() == [[12, 7], [6, 3], [3, 1], [1, 1]]
    x1, y1, x2, y2 = drawn["boxes"].T
    assert ((x1 <= 58.5) & (x2 > 58.5) & (y1 <= 102.5) & (y2 > 102.5)).all()
    np.testing.assert_allclose(x2 - x1, [206 / 26, 206 / 13, 206 / 7, 206 / 4])
    np.testing.assert_allclose(y2 - y1, [8, 16, 32, 160 / 3])
    assert (x1[:-1] < x1[1:]).any() and (y2[:-1] > y2[1:]).any()  # they are not nested
    with pytest.raises(ValueError, match=r"no pixel \(160, 0\) in an image of 160 x 206"):
        plot_covering_tokens(image, shapes, row=160, column=0)


def test_numbered_boxes_are_shown_beyond_the_border():
    images = {"a": Image.new("RGB", (40, 30)), "b": Image.new("RGB", (20, 50))}
    boxes = {"a": [[5, 6, 15, 16], [30, 20, 55, 28]], "b": [[-7, 1, 3, 4]]}
    figure, drawn = plot_numbered_boxes(images, boxes)
    np.testing.assert_allclose(drawn["a"]["boxes"], boxes["a"])
    for axis, (name, image) in zip(figure.axes, images.items(), strict=True):
        x1, y1, x2, y2 = drawn[name]["frame"]
        assert axis.get_xlim() == (x1, x2) and axis.get_ylim() == (y2, y1)
        given = np.array(boxes[name])
        assert x1 < min(0, given[:, 0].min()) and x2 > max(image.width, given[:, 2].max())
        assert [text.get_text().strip() for text in axis.texts] == [
            str(k) for k in range(len(given))
        ]
    with pytest.raises(ValueError, match='the boxes of "b" have shape'):
        plot_numbered_boxes(images, {"a": boxes["a"]})


def test_widgets_do_not_change_how_figures_are_shown(monkeypatch):
    """They load matplotlib's own formatter, which comes before an object's _repr_png_."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: shown.append(args[0]))
    figure, _ = plot_pixel_conventions([[0.5, 0.5]], shape=(2, 3))
    notebook = DisplayFormatter()
    notebook.formatters["image/png"].for_type(Figure, lambda figure: "matplotlib's own")
    assert notebook.format(figure) == ({}, {})
    assert shown[0]["image/png"].startswith(b"\x89PNG")
