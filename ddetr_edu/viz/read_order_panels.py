"""Which cache line each read of a loop is in, for several orders of reading side by side."""

from collections.abc import Mapping

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array


def plot_read_order(
    orders: Mapping[str, object], numbers_per_line: int = 16, columns: int = 2
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the cache line of each read against its number, one panel for each order of reading.

    A dot is a read. Reads that stay in a line of memory lie side by side and form a dash; dots that
    stay single are reads each of which fetches a line for the sake of one number.

    Args:
        orders: The title of a panel -> (reads,), positions in memory, in numbers.
        numbers_per_line: How many numbers a cache line holds.
        columns: Panels in a row.

    Returns:
        The figure; for each panel the lines (reads,).
    """
    drawn = {name: as_array(positions) // numbers_per_line for name, positions in orders.items()}
    rows = -(-len(drawn) // columns)
    figure = NotebookFigure(4.3 * columns, 2.6 * rows + 0.3)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for k, (axis, (name, lines)) in enumerate(zip(panels, drawn.items(), strict=False)):
        axis.plot(lines, ".", ms=3, color=COLOURS[0], mew=0)
        changes = int(np.count_nonzero(np.diff(lines)))
        axis.set_title(f"{name}:\n{changes} changes of line in {len(lines)} reads", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        if k % columns == 0:
            axis.set_ylabel("cache line")
        if k + columns >= len(drawn):
            axis.set_xlabel("reads, in order of time")
    for empty in panels[len(drawn) :]:
        empty.remove()
    return figure, drawn
