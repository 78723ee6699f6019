"""The figures of lesson 14 draw reads and times as given."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_ladder, plot_read_order


def test_a_read_is_a_dot_in_its_line():
    orders = {"in order": np.arange(40), "in jumps": 16 * np.arange(40), "third": [3, 70]}
    figure, drawn = plot_read_order(orders)
    np.testing.assert_array_equal(drawn["in order"], np.arange(40) // 16)
    np.testing.assert_array_equal(drawn["third"], [0, 4])
    assert len(figure.axes) == 3
    for axis, lines in zip(figure.axes, drawn.values(), strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), lines)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "in order:\n2 changes of line in 40 reads"
    assert titles[1] == "in jumps:\n39 changes of line in 40 reads"


def test_a_step_that_gains_next_to_nothing_says_so():
    figure, _ = plot_ladder(["a", "b", "c", "d"], [100, 104, 101, 96.1])
    changes = [text.get_text().split(",  ")[-1] for text in figure.axes[0].texts[1:]]
    assert changes == ["about as fast", "about as fast", "1.1 times faster"]


def test_a_step_is_a_bar_with_its_gain():
    names = ["loops", "library", "yours", "best"]
    figure, drawn = plot_ladder(names, [60_000, 200, 400, 2.5], marked=["yours"])
    np.testing.assert_allclose(drawn["gains"], [300, 0.5, 160])
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [60_000, 200, 400, 2.5]
    assert [label.get_text() for label in axis.get_yticklabels()] == names
    assert axis.get_xscale() == "log"
    texts = [text.get_text() for text in axis.texts]
    assert texts == [
        "60 s",
        "200 ms,  300 times faster",
        "400 ms,  2.0 times slower",
        "2.5 ms,  160 times faster",
    ]
    colours = [bar.get_facecolor() for bar in axis.patches]
    assert colours[2] != colours[0] == colours[1]


def test_times_are_positive():
    with pytest.raises(ValueError, match="2 steps came with"):
        plot_ladder(["one", "two"], [1.0])
    with pytest.raises(ValueError, match="each needs a positive"):
        plot_ladder(["one", "two"], [1.0, 0.0])
