"""The figures about matching and losses draw the numbers that they return, and these are right."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from ddetr_edu.viz import (
    plot_assignments,
    plot_enclosing_boxes,
    plot_focal_curves,
    plot_line_assignments,
)
from ddetr_edu.viz.focal_curves import PROBS, positive_loss, settling_fraction


def test_the_enclosing_box_is_hatched_where_no_box_is():
    pairs = {
        "overlapping": ((0, 0, 3, 2), (1, 1, 7, 5)),
        "inside": ((0, 0, 4, 3), (1, 1, 2, 2)),
        "apart": ((0, 0, 1, 1), (2, 3, 6, 4)),
    }
    figure, drawn = plot_enclosing_boxes(pairs)
    boxes = torch.tensor(list(pairs.values()), dtype=torch.float64)
    expected = generalized_box_iou(boxes[:, 0], boxes[:, 1]).diagonal()
    np.testing.assert_allclose(drawn["giou"], expected)
    np.testing.assert_allclose(drawn["iou"], box_iou(boxes[:, 0], boxes[:, 1]).diagonal())
    for axis, (one, other), empty in zip(figure.axes, pairs.values(), drawn["empty"], strict=True):
        hatched = [p for p in axis.patches if p.get_hatch()]
        area = sum(p.get_width() * p.get_height() for p in hatched)
        low, high = np.minimum(one, other)[:2], np.maximum(one, other)[2:]
        assert area == pytest.approx(empty * np.prod(high - low))
        assert axis.yaxis_inverted()
    assert "\n0.07 − 0.20 = −0.13" in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="x1 < x2"):
        plot_enclosing_boxes({"empty": ((0, 0, 1, 1), (3, 3, 3, 4))})


@pytest.mark.parametrize("gamma", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_a_probability_settles_where_the_loss_is_lowest(alpha, gamma):
    for prob in (0.05, 0.3, 0.8):
        (fraction,) = settling_fraction(np.array([prob]), alpha, gamma)
        fine = np.linspace(0.001, 0.999, 9981)
        loss = fraction * alpha * positive_loss(fine, gamma)
        loss += (1 - fraction) * (1 - alpha) * positive_loss(1 - fine, gamma)
        assert fine[loss.argmin()] == pytest.approx(prob, abs=2e-4)


def test_focal_curves():
    figure, drawn = plot_focal_curves()
    np.testing.assert_allclose(drawn["gamma 0"], np.stack([PROBS, -np.log(PROBS)], 1))
    half = np.abs(drawn["gamma 2"][:, 0] - 0.5).argmin()
    assert drawn["gamma 2"][half, 1] == pytest.approx(0.25 * np.log(2), rel=0.01)
    for name in ("alpha 0.25", "alpha 0.5", "alpha 0.75"):
        assert (np.diff(drawn[name], axis=0) > 0).all()
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[2].get_xydata(), drawn["gamma 2"])
    np.testing.assert_allclose(right.lines[1].get_xydata(), drawn["alpha 0.25"])


def test_assignments_are_lines_on_the_image(image):
    boxes = np.array([[0, 0, 4, 4], [10, 2, 14, 8], [20, 6, 30, 12]])
    objects = np.array([[2, 0, 6, 4], [11, 3, 15, 9]])
    cost = np.array([[1, 2], [2, 9], [4.5, 5]])

    def is_from_centre(line):  # to centre, and not the outline of a box
        return line.get_linestyle() == "-" and len(line.get_xdata()) == 2

    figure, drawn = plot_assignments(image, boxes, objects, cost, {"a": [0, 1], "b": [1, 0]})
    assert drawn["total"].tolist() == [10, 4]
    assert drawn["lines"][1].tolist() == [[[12, 5], [4, 2]], [[2, 2], [13, 6]]]
    assert [axis.get_title() for axis in figure.axes] == ["a: 10.00", "b: 4.00"]
    widths = [line.get_linewidth() for line in figure.axes[0].lines if is_from_centre(line)]
    assert widths == [3.2, 3.2]
    dots = [line.zorder for line in figure.axes[0].lines if line.get_marker() == "o"]
    others = [each.zorder for each in (*figure.axes[0].lines, *figure.axes[0].texts)]
    assert len(dots) == 2 and others.count(max(others)) == 2 == dots.count(max(others))
    figure, _ = plot_assignments(image, boxes, objects, cost, {"a": [0, 1], "b": [0, 2]})
    widths = [line.get_linewidth() for line in figure.axes[1].lines if is_from_centre(line)]
    assert widths == [1.2, 3.2]


def test_assignments_are_arcs_on_a_line():
    queries, objects = torch.tensor([0.0, 1.5]), torch.tensor([1.0, 2.5])
    figure, drawn = plot_line_assignments(queries, objects, {"a": [0, 1], "b": [1, 0]})
    assert drawn["distances"].tolist() == [[1, 1], [0.5, 2.5]]
    assert [axis.get_title() for axis in figure.axes] == ["a: 2", "b: 3"]
    arcs = figure.axes[1].patches
    assert [(arc.center[0], arc.width) for arc in arcs] == [(1.25, 0.5), (1.25, 2.5)]
