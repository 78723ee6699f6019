"""The figures of a report: precision, confusion, crops and their captions."""

import numpy as np
import pytest

from ddetr_edu.evaluation.errors import ErrorRecord
from ddetr_edu.evaluation.report import caption
from ddetr_edu.viz import plot_confusion, plot_crops, plot_precision_by_size, plot_precision_recall
from ddetr_edu.viz.crops import MIN_SIDE, window_around

RECALLS = np.linspace(0, 1, 5)


def legends(figure):
    return [[text.get_text() for text in axis.get_legend().get_texts()] for axis in figure.axes]


# Precision --------------------------------------------------------------------------------------


def test_curves_by_threshold_and_by_category():
    precision = np.random.default_rng(0).random((2, 5, 3))
    precision[..., 1] = -1  # a category without an object
    figure, drawn = plot_precision_recall(precision, [0.5, 0.75], RECALLS, "abc", [4, 0, 9], "t")
    np.testing.assert_allclose(drawn["by_threshold"], precision[..., [0, 2]].mean(-1))
    np.testing.assert_allclose(drawn["by_category"], precision[0].T)
    np.testing.assert_allclose(drawn["AP_by_threshold"], precision[..., [0, 2]].mean((1, 2)))
    left, right = figure.axes
    for line, curve in zip(left.lines, drawn["by_threshold"], strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([RECALLS, curve], 1))
    best, other = (2, 0) if precision[0, :, 2].mean() > precision[0, :, 0].mean() else (0, 2)
    for line, k in zip(right.lines, (best, other), strict=True):
        np.testing.assert_allclose(line.get_ydata(), precision[0, :, k])
    assert [text[0] for text in legends(figure)[1]] == ["abc"[best], "abc"[other]]
    assert legends(figure)[0][0] == f"0.50: AP {drawn['AP_by_threshold'][0]:.3f}"
    assert figure._repr_png_()[0].startswith(b"\x89PNG")


def test_of_many_categories_those_with_the_most_objects_stand_out():
    names = [f"c{k}" for k in range(11)]
    precision = np.tile(np.arange(11) / 11, (2, 5, 1))
    figure, _ = plot_precision_recall(precision, [0.5, 0.75], RECALLS, names, np.arange(11) % 10)
    named = [text.split(":")[0] for text in legends(figure)[1]]
    assert set(named) == {f"c{k}" for k in range(4, 10)} and named[0] == "c9"  # the best first
    assert len(figure.axes[1].lines) == 11


def test_precision_that_does_not_fit_or_is_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 5, 3, 4\).*must be \(2, 5, 3\)"):
        plot_precision_recall(np.zeros((2, 5, 3, 4)), [0.5, 0.75], RECALLS, "abc", [1] * 3)
    with pytest.raises(ValueError, match="no category has an object"):
        plot_precision_recall(np.full((2, 5, 3), -1), [0.5, 0.75], RECALLS, "abc", [0] * 3)


def test_sizes_are_bars():
    row = {"AP": 0.25, "AP50": 0.5, "AP75": 0.125, "objects": 7}
    none = {"AP": -1, "AP50": -1, "AP75": -1, "objects": 0}
    figure, bars = plot_precision_by_size({"small": row, "large": none}, "t")
    np.testing.assert_array_equal(bars["AP"], [0.25, np.nan])
    (axis,) = figure.axes
    assert [p.get_height() for p in axis.patches] == [0.5, 0, 0.25, 0, 0.125, 0]
    assert [t.get_text() for t in axis.texts].count("none") == 3
    assert [t.get_text() for t in axis.get_xticklabels()] == [
        "small\n7 objects",
        "large\n0 objects",
    ]


# Confusion --------------------------------------------------------------------------------------


def test_confusion_is_counts_and_shares_of_a_row():
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
    figure, drawn = plot_confusion(matrix, ["cat", "dog"])
    np.testing.assert_array_equal(drawn["counts"], matrix)
    np.testing.assert_allclose(drawn["shares"], [[0.75, 0.25, 0], [0, 0, 0], [1, 0, 0]])
    axis = figure.axes[0]
    np.testing.assert_array_equal(axis.images[0].get_array(), drawn["shares"])
    assert {(t.get_text(), t.xy) for t in axis.texts} == {
        ("3", (0, 0)),
        ("1", (1, 0)),
        ("2", (0, 2)),
    }
    assert [t.get_text() for t in axis.get_xticklabels()] == ["cat", "dog", "background"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["cat", "dog", "background"]


def test_rare_categories_share_a_row():
    matrix = np.random.default_rng(0).integers(0, 9, (24, 24))
    matrix[-1, -1] = 0
    _, drawn = plot_confusion(matrix, [f"c{k}" for k in range(23)])
    order = np.argsort(-matrix[:-1].sum(1), kind="stable")
    kept, rest = order[:20], order[20:]
    assert list(drawn["names"]) == [*(f"c{k}" for k in kept), "other", "background"]
    assert drawn["counts"].sum() == matrix.sum()
    assert drawn["counts"][20, 20] == matrix[np.ix_(rest, rest)].sum()
    assert drawn["counts"][20, 21] == matrix[rest, 23].sum()
    np.testing.assert_array_equal(drawn["counts"][:20, :20], matrix[np.ix_(kept, kept)])


def test_a_matrix_without_its_last_row_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 3\).*shape \(2, 2\)"):
        plot_confusion(np.zeros((2, 2)), ["cat", "dog"])


# Crops ------------------------------------------------------------------------------------------


def crop(image, found, true):
    return {
        "image": image,
        "predicted": found,
        "ground_truth": true,
        "caption": "found cat 0.90\nis dog",
    }


def test_crops_show_both_boxes_found_dashed_and_true_solid():
    image = np.random.default_rng(0).random((130, 170, 3))
    found, true = [10.0, 20, 50, 40], [30.0, 25, 60, 45]
    figure, windows = plot_crops(
        {"both": [crop(image, found, true), crop(image, found, None)], "nothing": []}, 3
    )
    first, second = figure.axes[:2]
    for axis, boxes in ((first, [true, found]), (second, [found])):
        drawn = [[*p.get_xy(), p.get_width(), p.get_height()] for p in axis.patches[1::2]]
        assert drawn == [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes]
    true_style, found_style = (p.get_linestyle() for p in first.patches[1::2])
    assert true_style == "solid" != found_style
    assert first.get_xlabel() == "found cat 0.90\nis dog"
    # from x 10 to 60, y 20 to 45, half as large again
    np.testing.assert_allclose(windows["both"][0], [-2.5, -5, 72.5, 70], atol=3)
    assert first.get_xlim() == tuple(windows["both"][0][[0, 2]])
    assert first.get_ylim() == tuple(windows["both"][0][[3, 1]])
    assert windows["nothing"].size == 0
    assert figure._repr_png_()[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "box, expected",
    [
        ([50, 40, 90, 60], [40, 20, 100, 80]),
        (
            [80, 50, 82, 52],
            [81 - MIN_SIDE / 2, 51 - MIN_SIDE / 2, 81 + MIN_SIDE / 2, 51 + MIN_SIDE / 2],
        ),
        ([0, 0, 40, 40], [-4, -4, 56, 56]),  # in a corner: no further than the margin
        ([160, 60, 200, 100], [144, 44, 204, 104]),
        ([0, 0, 200, 100], [-4, -54, 204, 154]),  # the whole image: centred where it is short
    ],
)
def test_the_window_of_a_crop(box, expected):
    np.testing.assert_allclose(window_around(np.array([box]), 200, 100), expected)


def test_crops_of_nothing_are_refused():
    with pytest.raises(ValueError, match="neither a predicted nor a true box"):
        plot_crops({"a": [crop(np.zeros((5, 5, 3)), None, None)]})
    with pytest.raises(ValueError, match="no row"):
        plot_crops({})


def test_a_caption_names_prediction_and_ground_truth():
    names, box = {3: "cat", 7: "dog"}, (0.0, 0.0, 12.0, 7.6)
    wrong = ErrorRecord("classification", 1, 3, box, 0.904, 5, 7, box, iou=0.4999)
    assert caption(wrong, names) == "predicted cat 0.90\nground truth dog\nIoU 0.49"
    nothing_there = ErrorRecord("background", 1, 3, box, 0.904)
    assert caption(nothing_there, names) == "predicted cat 0.90"
    missed = ErrorRecord("missed", 1, object_id=5, true_label=7, true_box=box)
    assert caption(missed, names) == "dog, 12 x 8 px"
