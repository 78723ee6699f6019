"""What one load of a warp touches: its lanes above, the sectors of memory below."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, text_colour

SECTOR = 32  # bytes
NUMBER = 4  # bytes
LANE, USED, UNUSED = COLOURS[0], COLOURS[2], COLOURS[1]


def plot_warp_access(
    accesses: dict[str, tuple[list[int], int]],
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw loads of a warp: which lane reads from where, and which sectors memory has to deliver.

    Each panel has the lanes in its upper row, and below them the sectors that are touched, in order
    of their addresses. Numbers that are asked for are green, those that come with them orange.

    Args:
        accesses: {title: (offsets, bytes)}: where each lane begins to read, in bytes, -1 if it
            reads nothing; and how many bytes each lane reads.

    Returns:
        The figure, and for each title the sectors that are touched, in order.
    """
    figure = NotebookFigure(9.2, 1.5 * len(accesses) + 0.2)
    panels = figure.subplots(len(accesses), squeeze=False)[:, 0]
    drawn = {}
    for axis, (title, (offsets, n_bytes)) in zip(panels, accesses.items(), strict=True):
        sectors = _draw_access(axis, np.asarray(offsets), n_bytes)
        active = [offset for offset in offsets if offset >= 0]
        asked = len({offset + k for offset in active for k in range(n_bytes)})
        used = f", {100 * asked / (SECTOR * len(sectors)):.3g} % used" if len(sectors) else ""
        plural = "s" * (len(sectors) != 1)
        axis.set_title(f"{title}: {len(sectors)} sector{plural}{used}", fontsize=10, loc="left")
        drawn[title] = sectors
    return figure, drawn


def _draw_access(axis: Axes, offsets: np.ndarray, n_bytes: int) -> np.ndarray:
    """Draw one panel, and return the sectors that are touched."""
    active = np.flatnonzero(offsets >= 0)
    numbers = {
        int(lane): np.arange(offsets[lane], offsets[lane] + n_bytes, NUMBER) // NUMBER
        for lane in active
    }
    asked = {number for of_lane in numbers.values() for number in of_lane.tolist()}
    per_sector = SECTOR // NUMBER
    sectors = np.unique([number // per_sector for number in asked])
    width = min(1.0, 32 / (per_sector * max(len(sectors), 1)))  # of a number
    left = 16 - width * per_sector * len(sectors) / 2
    begins = {int(s): left + k * width * per_sector for k, s in enumerate(sectors)}
    for lane in range(len(offsets)):
        colour = LANE if lane in numbers else "none"
        axis.add_patch(Rectangle((lane + 0.1, 2), 0.8, 0.5, fc=colour, ec="0.5", lw=0.6))
        for number in numbers.get(lane, ()):
            sector, k = divmod(int(number), per_sector)
            x = begins[sector] + (k + 0.5) * width
            axis.plot([lane + 0.5, x], [2, 0.55], color=LANE, lw=0.5, alpha=0.6)
    for sector, begin in begins.items():
        for k in range(per_sector):
            colour = USED if sector * per_sector + k in asked else UNUSED
            axis.add_patch(Rectangle((begin + k * width, 0), width, 0.5, fc=colour, lw=0))
        whole = (begin, 0), width * per_sector, 0.5
        axis.add_patch(Rectangle(*whole, fc="none", ec=text_colour(), lw=0.8))
    axis.text(-0.4, 2.25, "lanes", ha="right", va="center", fontsize=8)
    axis.text(-0.4, 0.25, "memory", ha="right", va="center", fontsize=8)
    axis.set(xlim=(-3.2, 32.4), ylim=(-0.2, 2.7), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return sectors
