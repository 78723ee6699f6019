"""The figures of lesson 16: shares of several quantities, and a roofline."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_roofline, plot_shares


def test_shares_add_up_to_one_and_keep_the_order_of_the_parts():
    quantities = {"parameters": {"a": 3, "b": 1}, "FLOPs": {"b": 10, "c": 30}}
    figure, shares = plot_shares(quantities)
    np.testing.assert_allclose(shares["parameters"], [0.75, 0.25, 0])
    np.testing.assert_allclose(shares["FLOPs"], [0, 0.25, 0.75])
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["parameters", "FLOPs"]
    assert [text.get_text() for text in axis.texts] == ["75", "25", "25", "75"]
    ends = sorted(bar.get_x() + bar.get_width() for bar in axis.patches)
    assert np.isclose(ends[-1], 1)


@pytest.mark.parametrize("amounts", [{"a": 0.0}, {"a": 2, "b": -1}])
def test_what_cannot_be_shared_is_refused(amounts):
    with pytest.raises(ValueError, match="cannot be shared"):
        plot_shares({"time": amounts})


def test_the_roof_turns_where_both_ceilings_meet():
    points = {"addition": (0.1, 0.8), "product": (200, 80)}
    figure, drawn = plot_roofline(peak=100, bandwidth=10, points=points)
    left, corner, right = drawn["roof"]
    np.testing.assert_allclose(corner, [10, 100])
    np.testing.assert_allclose(left[1] / left[0], 10)  # the slope is the bandwidth
    assert left[0] < 0.1 and right[0] > 200 and right[1] == 100
    np.testing.assert_allclose(drawn["points"], [[0.1, 0.8], [200, 80]])
    (axis,) = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == "log"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["addition: 80% of the roof", "product: 80% of the roof"]


def test_what_has_no_place_on_logarithmic_axes_is_refused():
    with pytest.raises(ValueError, match="positive"):
        plot_roofline(100, 10, {"norm": (0, 3)})
    figure, drawn = plot_roofline(100, 10, {})
    assert len(drawn["points"]) == 0
