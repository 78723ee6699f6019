"""The weights of bilinear sampling as areas: each corner has the rectangle opposite to it."""

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour


def plot_corner_areas(
    values, right: float, down: float
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the square between four pixel centres, cut at a location; areas are weights.

    Convention: x to the right and y down, as in an image.

    Args:
        values: (2, 2), of the four pixels, row by row.
        right: How far right of the left pixels the location is, in pixels, 0 to 1.
        down: How far below the upper pixels it is, in pixels, 0 to 1.

    Returns:
        The figure, and "weights" (2, 2) of the four pixels and "value" (), what is sampled.

    Raises:
        ValueError: If the location is not between the four pixels.
    """
    if not (0 <= right <= 1 and 0 <= down <= 1):
        raise ValueError(
            f"the location is ({right:g}, {down:g}) pixels from the upper left one; between the "
            "four pixels, both are in [0, 1]"
        )
    values = as_array(values)
    figure = NotebookFigure(5.4, 4.4)
    axis = figure.subplots()
    weights = np.zeros((2, 2))
    for r in (0, 1):
        for c in (0, 1):
            colour = COLOURS[2 * r + c]
            x, width = (right, 1 - right) if c == 0 else (0, right)  # on the other side
            y, height = (down, 1 - down) if r == 0 else (0, down)
            weights[r, c] = width * height
            axis.add_patch(Rectangle((x, y), width, height, color=colour, alpha=0.5, lw=0))
            axis.plot(c, r, "o", color=colour, ms=14, mec=text_colour(), clip_on=False, zorder=3)
            axis.annotate(
                f"{values[r, c]:g} × {weights[r, c]:.2f}",
                (c, r),
                xytext=(0, 14 if r == 0 else -14),
                textcoords="offset points",
                ha="center",
                va="bottom" if r == 0 else "top",
                fontsize=11,
            )
    axis.plot(right, down, "+", color="red", ms=16, mew=2.5, zorder=4)
    axis.set(xlim=(-0.3, 1.3), ylim=(1.2, -0.2), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    value = np.array((weights * values).sum())
    axis.set_title(f"value at the cross: {value:.4g}", fontsize=11)
    return figure, {"weights": weights, "value": value}
