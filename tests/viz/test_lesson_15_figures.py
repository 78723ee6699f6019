"""The figures of lesson 15 draw accesses to memory and counts of pixels as given."""

from typing import NamedTuple

import numpy as np
import pytest

from ddetr_edu.viz import plot_kernel_steps, plot_pixel_counts, plot_warp_access


class Step(NamedTuple):
    access: str
    array: str
    offsets: list[int]
    bytes: int


def test_sectors_that_a_warp_touches():
    figure, drawn = plot_warp_access(
        {
            "neighbours": ([4 * i for i in range(32)], 4),
            "scattered": ([64 * i if i < 3 else -1 for i in range(32)], 4),
            "wide": ([16 * i for i in range(32)], 16),
            "nothing": ([-1] * 32, 4),
        }
    )
    assert drawn["neighbours"].tolist() == [0, 1, 2, 3]
    assert drawn["scattered"].tolist() == [0, 2, 4]
    assert drawn["wide"].tolist() == list(range(16))
    assert len(drawn["nothing"]) == 0
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [
        "neighbours: 4 sectors, 100 % used",
        "scattered: 3 sectors, 12.5 % used",
        "wide: 16 sectors, 100 % used",
        "nothing: 0 sectors",
    ]


def test_steps_of_a_warp():
    steps = [
        Step("read", "points", [8 * i for i in range(32)], 8),
        Step("read", "value", [-1] * 8 + [128 * (i // 8) + 16 * (i % 8) for i in range(24)], 16),
        Step("read", "", [-1] * 32, 16),
    ]
    figure, drawn = plot_kernel_steps(steps, {"points": 64, "value": 128}, title="a warp")
    assert drawn["rows"].shape == (3, 32)
    assert drawn["rows"][0].tolist() == [i // 8 for i in range(32)]
    assert drawn["rows"][1].tolist() == [-1] * 8 + [i // 8 for i in range(24)]
    assert drawn["sectors"].tolist() == [8, 12, 0]
    table = figure.axes[0]
    assert [t.get_text() for t in table.get_yticklabels()] == ["read points", "read value", "read"]
    assert [t.get_text() for t in table.texts] == ["0", "1", "2", "3", "0", "1", "2"]


def test_counts_of_pixels_stand_at_their_pixels():
    counts = np.arange(14)
    figure, drawn = plot_pixel_counts({"these": counts, "none": 0 * counts}, [(2, 6), (1, 2)])
    assert drawn["these"][0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert drawn["these"][1].tolist() == [[12, 13]]
    assert {tuple(axis.images[0].get_clim()) for axis in figure.axes} == {(0, 13)}
    with pytest.raises(ValueError, match="there are 14 tokens"):
        plot_pixel_counts({"these": counts[1:]}, [(2, 6), (1, 2)])
