"""Offsets around a reference point: the star that every attention is initialised to."""

import numpy as np
from matplotlib.patheffects import withStroke

from ddetr_edu.viz.style import COLOURS, HEAD_MARKS, NotebookFigure, as_array, text_colour


def plot_offsets(offsets, title: str | None = None) -> tuple[NotebookFigure, np.ndarray]:
    """Draw the offsets of one level around their reference point, one colour for each head.

    Convention: (dx, dy) in pixels of the level, x to the right and y down, as in an image.

    Args:
        offsets: (M, P, 2).
        title: Of the figure.

    Returns:
        The figure, and the offsets as drawn, (M, P, 2).

    Raises:
        ValueError: For another shape.
    """
    offsets = as_array(offsets)
    if offsets.ndim != 3 or offsets.shape[-1] != 2:
        raise ValueError(
            f"offsets has shape {offsets.shape}; it takes (M, P, 2): pick a query and a level first"
        )
    figure = NotebookFigure(5.4, 4.4)
    axis = figure.subplots()
    reach = max(1.0, np.abs(offsets).max()) + 0.7
    rim = [withStroke(linewidth=2.2, foreground=text_colour())]  # yellow does not show on white
    for m, ray in enumerate(offsets):
        colour = COLOURS[m % len(COLOURS)]
        line = np.concatenate([[[0, 0]], ray])
        axis.plot(*line.T, "-", color=colour, lw=1.2, path_effects=rim)
        axis.plot(
            *ray.T,
            HEAD_MARKS[m % len(HEAD_MARKS)],
            color=colour,
            mec="black",
            mew=0.6,
            ms=8,
            label=f"head {m}",
        )
    axis.plot(0, 0, "+", color="black", ms=16, mew=2)
    axis.set(
        xlim=(-reach, reach),
        ylim=(reach, -reach),
        aspect="equal",
        xlabel="dx, pixels",
        ylabel="dy, pixels (down)",
    )
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    if title:
        axis.set_title(title, fontsize=10)
    return figure, offsets
