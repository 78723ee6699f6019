"""The figure of several runs draws the numbers of their logs."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_run_grid

FAST = [{"step": 1, "loss": 8.0}, {"step": 10, "loss": 2.0}, {"step": 10, "AP": 0.5}]
SLOW = [{"step": 1, "loss": 9.0}, {"step": 10, "loss": 7.0}, {"step": 12, "AP": 0.125}]
USUAL = [{"step": 1, "loss": 4.0}, {"step": 5, "loss": 1.0}, {"step": 5, "AP": 0.25}]
QUANTITIES = {"loss": "the loss", "AP": "average precision"}


def curves_of(axis):
    return {line.get_color(): line.get_xydata().tolist() for line in axis.lines}


def test_each_panel_has_the_curve_of_its_run():
    figure, drawn = plot_run_grid({"fast": FAST, "slow": SLOW}, QUANTITIES)
    np.testing.assert_array_equal(drawn["fast"]["loss"], [(1, 8), (10, 2)])
    np.testing.assert_array_equal(drawn["slow"]["AP"], [(12, 0.125)])
    panels = figure.axes
    assert [axis.get_title() for axis in panels] == ["the loss", "average precision", "", ""]
    assert [axis.get_ylabel() for axis in panels] == ["fast", "", "slow", ""]
    shown = [[line.get_xydata().tolist() for line in axis.lines] for axis in panels]
    assert shown == [[[[1, 8], [10, 2]]], [[[10, 0.5]]], [[[1, 9], [10, 7]]], [[[12, 0.125]]]]
    assert panels[0].get_ylim() == panels[2].get_ylim()
    assert panels[0].get_ylim()[0] == 0 and panels[0].get_ylim()[1] >= 9


def test_a_reference_is_in_each_row_and_sets_the_scale():
    figure, drawn = plot_run_grid({"fast": FAST, "slow": SLOW}, QUANTITIES, reference=USUAL)
    assert list(drawn) == ["fast", "slow"]
    for axis in figure.axes[::2]:
        assert [1, 4] in curves_of(axis)["0.6"] and len(axis.lines) == 2
        assert axis.get_ylim() == pytest.approx((0, 4.4))
    assert figure.axes[1].get_ylim() == pytest.approx((0, 0.275))


def test_a_reference_of_zeros_has_a_scale_too():
    figure, _ = plot_run_grid({"slow": SLOW}, {"AP": "AP"}, reference=[{"step": 3, "AP": 0.0}])
    assert figure.axes[0].get_ylim() == (0, 1)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least one run and one quantity"):
        plot_run_grid({}, QUANTITIES)
    with pytest.raises(ValueError, match='no log has "AP50"'):
        plot_run_grid({"fast": FAST}, {"AP50": "AP50"})
