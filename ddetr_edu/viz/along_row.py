"""What bilinear sampling gives along one row of a feature map, and where points sample it."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour


def plot_along_row(
    values, positions: dict, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the sampled value along a row of pixels, with points on it.

    The curve has a corner at every pixel centre, the vertical lines. Beyond the row it falls to
    zero.

    Convention: positions are x_pixel: 0 is the centre of the first pixel.

    Args:
        values: (W,), of the pixels.
        positions: The name of a set of points -> their positions, (k,).
        title: Of the figure.

    Returns:
        The figure, and for each set the values sampled, (k,).
    """
    row = np.pad(as_array(values), 1)  # zeros beyond the border
    centres = np.arange(-1, len(row) - 1)
    figure = NotebookFigure(8.4, 3.2)
    axis = figure.subplots()
    axis.vlines(centres[1:-1], 0, row[1:-1], color="0.5", lw=0.8, alpha=0.6)
    axis.plot(centres, row, "-", color=text_colour(), lw=1.5)
    drawn = {}
    for k, (name, where) in enumerate(positions.items()):
        where = as_array(where)
        drawn[name] = np.interp(where, centres, row)
        axis.plot(
            where,
            drawn[name],
            "os^D"[k % 4],
            color=COLOURS[k % len(COLOURS)],
            mec="black",
            mew=0.6,
            ms=9 - 2 * k,
            label=name,
            zorder=3,
        )
    axis.set(xlabel="x_pixel (whole numbers are pixel centres)", ylabel="sampled value")
    axis.set(xticks=centres, xlim=(-1.2, len(row) - 1.8))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    if title:
        axis.set_title(title, fontsize=10)
    return figure, drawn
