"""The figures of lesson 01: costs over tokens, and tokens over an image."""

import numpy as np

from ddetr_edu.viz import plot_costs, plot_token_grids

NAN = float("nan")


def test_costs_are_drawn_on_logarithmic_axes():
    tokens = [10, 100, 1000]
    time = {"dense, a": [1, 100, NAN], "dense, b": [1, 50, 5000], "few, a": [3, 30, 300]}
    memory = {"dense, a": [2, 200, 20000], "dense, b": [2, 20, 200], "few, a": [5, 50, 500]}
    figure, drawn = plot_costs(tokens, time, memory)
    np.testing.assert_allclose(drawn["time"]["dense, a"], [[10, 1], [100, 100]])
    np.testing.assert_allclose(drawn["memory"]["dense, a"], [[10, 2], [100, 200], [1000, 20000]])
    left, right = figure.axes
    for axis in (left, right):
        assert axis.get_xscale() == axis.get_yscale() == "log"
    lines = {line.get_label(): line for line in left.lines}
    assert lines["dense, a"].get_color() == lines["dense, b"].get_color()
    assert lines["dense, a"].get_color() != lines["few, a"].get_color()
    assert (lines["dense, a"].get_linestyle(), lines["dense, b"].get_linestyle()) == ("--", "-")


def test_the_triangles_have_the_slopes_they_name():
    curves = {"dense, a": [1, 10, 100]}
    figure, _ = plot_costs([10, 100, 1000], curves, curves)
    for axis in figure.axes:
        slopes = {text.get_text(): text for text in axis.texts}
        assert set(slopes) == {"1", "2"}
        sides = [line for line in axis.lines if line.get_color() == "0.5"]
        for name, line in zip("12", sides, strict=False):
            (x0, x1, _), (y0, y1, _) = line.get_xdata(), line.get_ydata()
            assert np.isclose(np.log(y1 / y0) / np.log(x1 / x0), int(name))


def test_token_centres_in_a_box_are_counted():
    image = np.zeros((70, 100, 3), np.uint8)
    _, drawn = plot_token_grids(image, [8, 9, 28, 27], strides=(32, 16, 8))
    assert drawn[32] == {"tokens": 3 * 4, "inside": 1}  # (16, 16)
    assert drawn[16] == {"tokens": 5 * 7, "inside": 1}  # (24, 24)
    assert drawn[8] == {"tokens": 9 * 13, "inside": 4}  # x of 12 and 20, y of 12 and 20
    figure, drawn = plot_token_grids(image, [33, 33, 40, 40], strides=(32,))
    assert drawn[32]["inside"] == 0
    assert "0 of them in the box" in figure.axes[0].get_title()


def test_cells_that_reach_beyond_the_image_are_tokens_too():
    image = np.zeros((33, 40, 3), np.uint8)
    _, drawn = plot_token_grids(image, [0, 0, 1, 1], strides=(32,))
    assert drawn[32]["tokens"] == 4
