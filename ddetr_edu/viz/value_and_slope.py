"""A value that is sampled along a row of pixels, and its slope, which jumps at pixel centres."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array


def plot_value_and_slope(
    x_pixel, values, slopes, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw sampled values over their slopes; vertical lines are pixel centres.

    Convention: x_pixel is a whole number at a pixel centre.

    Args:
        x_pixel: (n,), in ascending order.
        values: (n,).
        slopes: (n,).
        title: Of the figure.

    Returns:
        The figure, and "centres" (k,), the pixel centres in between, and "jumps" (k,), by how much
        the slope changes there.
    """
    x, values, slopes = (as_array(numbers) for numbers in (x_pixel, values, slopes))
    centres = np.arange(np.ceil(x[0]), np.floor(x[-1]) + 1)
    after = np.searchsorted(x, centres, side="right")
    before = np.searchsorted(x, centres, side="left") - 1
    figure = NotebookFigure(8.4, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(x, values, color=COLOURS[0], lw=2)
    for part in np.split(np.arange(len(x)), after):  # no line across a jump
        lower.plot(x[part], slopes[part], color=COLOURS[4], lw=2)
    upper.plot(centres, np.interp(centres, x, values), "o", color=COLOURS[0], ms=6)
    for axis, name in ((upper, "value"), (lower, "slope")):
        for centre in centres:
            axis.axvline(centre, color="0.5", lw=0.8, ls=":", zorder=0)
        axis.axhline(0, color="0.5", lw=0.8, zorder=0)
        axis.set(ylabel=name, xticks=centres, xlim=(x[0], x[-1]))
        axis.spines[["top", "right"]].set_visible(False)
    lower.set_xlabel("x_pixel (whole numbers are pixel centres)")
    if title:
        upper.set_title(title, fontsize=10)
    return figure, {"centres": centres, "jumps": slopes[after] - slopes[before]}
