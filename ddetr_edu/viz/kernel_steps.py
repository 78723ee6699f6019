"""What a warp of a kernel does to memory, step by step."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from ddetr_edu.viz.style import COLOURS, NotebookFigure, text_colour

IDLE = (0.93, 0.93, 0.93)
SECTOR = 32  # bytes


def plot_kernel_steps(
    steps: Sequence[Any], row_bytes: dict[str, int], title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a warp's accesses to memory as a table: a row for each step, a column for each lane.

    Neighbouring lanes with one colour are in the same row of an array; the number is that of the
    row. Lanes in grey do nothing. The bars on the right count sectors of 32 bytes.

    Args:
        steps: In order of time; each has `access`, `array`, `offsets` (of the lanes, in bytes, -1
            for a lane that does nothing) and `bytes`.
        row_bytes: {array: the bytes of one of its rows}, for all arrays that are accessed.
        title: Of the figure.

    Returns:
        The figure, and "rows" (steps, lanes), the row of each access, -1 without one; and "sectors"
        (steps,).
    """
    rows = np.array(
        [
            [offset // row_bytes[step.array] if offset >= 0 else -1 for offset in step.offsets]
            for step in steps
        ]
    )
    sectors = np.array([_count_sectors(step.offsets, step.bytes) for step in steps])
    palette = np.array([to_rgb(colour) for colour in COLOURS[:6]])
    cells = np.where((rows >= 0)[..., None], palette[rows % len(palette)], IDLE)
    n_steps, n_lanes = rows.shape
    figure = NotebookFigure(9.2, 0.21 * n_steps + 0.9)
    table, bars = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
    table.imshow(cells, aspect="auto", interpolation="nearest")
    for k, of_lanes in enumerate(rows):
        table.axhline(k + 0.5, color="white", lw=1)
        for row, lanes in groupby(range(n_lanes), key=of_lanes.__getitem__):
            first, *_, last = [*(together := list(lanes)), together[-1]]
            if row >= 0:
                middle = (first + last) / 2
                table.text(middle, k, row, ha="center", va="center", fontsize=7, color="white")
            table.axvline(last + 0.5, 1 - (k + 1) / n_steps, 1 - k / n_steps, color="white", lw=1)
    table.set_yticks(range(n_steps), [f"{s.access} {s.array}".strip() for s in steps], fontsize=7)
    table.set_xticks(range(0, n_lanes, 8))
    table.set_xlabel("lane")
    table.tick_params(length=0)
    bars.barh(range(n_steps), sectors, color=COLOURS[0], height=0.7)
    for k, count in enumerate(sectors):
        bars.text(count + 0.3, k, count, va="center", fontsize=7, color=text_colour())
    bars.set(xlabel="sectors", xlim=(0, sectors.max() + 4))
    bars.tick_params(axis="y", length=0, labelleft=False)
    bars.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"rows": rows, "sectors": sectors}


def _count_sectors(offsets: Sequence[int], n_bytes: int) -> int:
    touched = [np.arange(o, o + n_bytes) // SECTOR for o in offsets if o >= 0]
    return len(np.unique(np.concatenate(touched))) if touched else 0
