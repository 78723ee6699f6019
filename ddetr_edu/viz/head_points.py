"""The sampling points of a few queries over an empty map, a panel for each head."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, LEVEL_MARKS, NotebookFigure, as_array, text_colour

WIDTH = 2.5  # of a panel, in inches
IN_A_ROW = 4
LARGEST = 110  # the area of a dot of weight 1, in points squared; the smallest have a tenth of it


def plot_head_points(
    locations, weights, reference_points, size: tuple[int, int], title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw where each head samples for a few queries, and how much each point counts.

    A query has a colour, and a cross at its reference point. A dot is the larger, the greater its
    weight; its shape is its level. The frame is the border of the map.

    Convention: locations are (x, y), fractions of the map, x to the right and y down.

    Args:
        locations: (Lq, M, L, P, 2), of the queries to draw.
        weights: (Lq, M, L, P).
        reference_points: (Lq, 2) (x, y).
        size: (H, W) of the map, which only gives the frame its proportions.
        title: Of the figure.

    Returns:
        The figure, and "locations" (Lq, M, L, P, 2) and "areas" (Lq, M, L, P) of the dots.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    locations, weights = as_array(locations), as_array(weights)
    references = as_array(reference_points)
    if weights.ndim != 4 or locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"locations has shape {locations.shape} and weights {weights.shape}; they are "
            "(Lq, M, L, P, 2) and (Lq, M, L, P): pick an image first"
        )
    n_queries, n_heads, n_levels, _ = weights.shape
    height, width = size
    areas = LARGEST * (0.1 + 0.9 * weights)
    low = np.minimum(locations.reshape(-1, 2).min(0), 0) - 0.06
    high = np.maximum(locations.reshape(-1, 2).max(0), 1) + 0.06
    aspect = (high - low)[1] * height / ((high - low)[0] * width)
    columns = min(IN_A_ROW, n_heads)
    rows = -(-n_heads // columns)
    figure = NotebookFigure(WIDTH * columns, rows * (WIDTH * aspect + 0.3) + 0.4)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[n_heads:]:
        empty.remove()
    for head, axis in enumerate(panels[:n_heads]):
        axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, color=text_colour(), lw=1.2))
        for q in range(n_queries):
            colour = COLOURS[q % len(COLOURS)]
            axis.plot(*references[q], "+", color=colour, ms=13, mew=2, zorder=2)
            for level in range(n_levels):
                x, y = locations[q, head, level].T
                mark = LEVEL_MARKS[level % len(LEVEL_MARKS)]
                style = dict(color=colour, edgecolors="black", linewidths=0.5, alpha=0.8, zorder=3)
                axis.scatter(x, y, s=areas[q, head, level], marker=mark, **style)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
        axis.set_aspect(height / width)
        axis.spines[:].set_visible(False)
        middle = (0.5 - low[0]) / (high[0] - low[0])  # of the frame, which may not fill the panel
        axis.set_xlabel(f"head {head}", x=middle, fontsize=10)
    handles = [
        Line2D([], [], marker=LEVEL_MARKS[level % len(LEVEL_MARKS)], color="0.5", ls="", ms=7)
        for level in range(n_levels)
    ]
    handles += [Line2D([], [], color=COLOURS[q % len(COLOURS)], lw=4) for q in range(n_queries)]
    names = [f"level {l}" for l in range(n_levels)] + [f"query {q}" for q in range(n_queries)]
    figure.legend(handles, names, loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"locations": locations, "areas": areas}
