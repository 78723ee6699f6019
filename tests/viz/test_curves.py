"""The curves of a run, from a log written by hand."""

import json

import numpy as np
import pytest

from ddetr_edu.viz import plot_curves

LINES = [
    {"step": 1, "loss": 9.0, "loss_label": 3.0, "loss_l1": 2.0, "loss_giou": 1.5},
    {"step": 10, "loss": 7.0, "loss_label": 2.0, "loss_l1": 1.0, "loss_giou": 1.25},
    {"step": 12, "AP": 0.125, "AP50": 0.25},
    {"step": 20, "loss": 5.0, "loss_label": 1.0, "loss_l1": 0.5, "loss_giou": 0.75},
    {"step": 21, "AP": 0.5, "AP50": 0.75},
]


@pytest.fixture
def log(tmp_path):
    def write(lines):
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_curves_are_the_numbers_of_the_log(log, tmp_path):
    figure, curves = plot_curves(log(LINES), tmp_path / "curves.png")
    expected = {
        "loss_label": [(1, 3.0), (10, 2.0), (20, 1.0)],
        "loss_l1": [(1, 2.0), (10, 1.0), (20, 0.5)],
        "loss_giou": [(1, 1.5), (10, 1.25), (20, 0.75)],
        "AP": [(12, 0.125), (21, 0.5)],
        "AP50": [(12, 0.25), (21, 0.75)],
    }
    assert set(curves) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(curves[name], values)
    left, right = figure.axes
    for axis, drawn in (
        (left, {"class": "loss_label", "L1": "loss_l1", "GIoU": "loss_giou"}),
        (right, {"AP": "AP", "AP50": "AP50"}),
    ):
        lines = {line.get_label(): line.get_xydata() for line in axis.lines}
        assert set(lines) == set(drawn)
        for label, name in drawn.items():
            np.testing.assert_array_equal(lines[label], expected[name])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("lines", [[], LINES[:1], LINES[2:3]])
def test_a_short_log_can_be_drawn(log, tmp_path, lines):
    figure, curves = plot_curves(log(lines), tmp_path / "curves.png")
    assert all(values.ndim == 2 and values.shape[1] == 2 for values in curves.values())
    assert (tmp_path / "curves.png").exists() and len(figure.axes) == 2


def test_without_a_path_nothing_is_written(log, tmp_path):
    plot_curves(log(LINES))
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
