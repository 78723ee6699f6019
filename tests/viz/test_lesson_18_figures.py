"""The figures of lesson 18 draw parts, maps that were read, and bars as given."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_grouped_bars, plot_read_maps, plot_stacked_parts


def test_parts_are_stacked_with_their_totals():
    panels = {
        "names": {"one": {"a": 3, "b": 1}, "other": {"a": 2, "b": 5}},
        "millions": {"one": {"a": 0.5, "b": 100.0}, "other": {"a": 0.25, "b": 0.0}},
    }
    figure, drawn = plot_stacked_parts(panels)
    np.testing.assert_array_equal(drawn["names"], [[3, 1], [2, 5]])
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [3, 2, 1, 5]
    assert [bar.get_x() for bar in first.patches] == [0, 0, 3, 2]
    assert [text.get_text() for text in first.texts] == ["4.0", "7.0"]
    assert [text.get_text() for text in second.texts] == ["100", "0.2"]
    with pytest.raises(ValueError, match='not all bars of "names" have the parts a, b'):
        plot_stacked_parts({"names": {"one": {"a": 3, "b": 1}, "other": {"a": 2}}})


def test_where_zero_is_read_nothing_is_drawn():
    grid = np.array([[0.0, 2.0], [3.0, 4.0]])
    figure, drawn = plot_read_maps({"wide": grid, "tall": grid}, {"wide": (2, 6), "tall": (6, 2)})
    for axis, (title, (height, width)) in zip(
        figure.axes, {"wide": (2, 6), "tall": (6, 2)}.items(), strict=True
    ):
        shown = axis.images[0].get_array()
        assert np.ma.getmaskarray(np.ma.masked_invalid(shown)).tolist() == [
            [True, False],
            [False, False],
        ]
        assert np.isnan(drawn[title][0, 0]) and drawn[title][1, 1] == 4
        left, right, bottom, top = axis.images[0].get_extent()
        assert (left, right) == (-width / 4, 1.25 * width)
        assert (top, bottom) == (-height / 4, 1.25 * height)
    with pytest.raises(ValueError, match=r'the grid of "wide" has shape \(4,\), not \(R, R\)'):
        plot_read_maps({"wide": grid.ravel()}, (2, 6))


def test_bars_are_grouped_by_quantity():
    figure, drawn = plot_grouped_bars(
        {"one": {"all": 0.5, "small": 0.25}, "other": {"all": 1.0, "small": 0.0}}, "AP"
    )
    np.testing.assert_array_equal(drawn["other"], [1.0, 0.0])
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.25, 1.0, 0.0]
    places = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    assert places[0] < 0 < places[2] < places[1] < 1 < places[3]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["all", "small"]
    with pytest.raises(ValueError, match="the same quantities: all"):
        plot_grouped_bars({"one": {"all": 0.5}, "other": {"small": 0.5}}, "AP")
