"""What is read at every location over a map and around it, by several rules side by side."""

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import WEIGHT_MAP, NotebookFigure, as_array

WIDTH = 9.6  # of the figure, in inches


def plot_read_maps(
    grids: dict, shapes: dict | tuple[int, int], margin: float = 0.25, columns: int = 5
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw what rules read at a grid of locations over a map and around it.

    The frame is the border of the map. Where zero is read, nothing is drawn.

    Args:
        grids: The title of each panel -> (R, R), what was read; x to the right and y down.
        shapes: (H, W) of the map, or one for each title.
        margin: How far the grid extends beyond each side, as a fraction of the map.
        columns: At most so many panels in a row.

    Returns:
        The figure, and for each title what was drawn, with NaN where zero was read.

    Raises:
        ValueError: If a grid has not two axes.
    """
    drawn = {}
    for title, grid in grids.items():
        numbers = as_array(grid).astype(float)
        if numbers.ndim != 2:
            raise ValueError(f'the grid of "{title}" has shape {numbers.shape}, not (R, R)')
        drawn[title] = np.where(numbers == 0, np.nan, numbers)
    rows = -(-len(drawn) // columns)
    columns = -(-len(drawn) // rows)
    size_of = {title: shapes[title] if isinstance(shapes, dict) else shapes for title in drawn}
    tallest = min(1.8, max(height / width for height, width in size_of.values()))
    panel = WIDTH / columns
    figure = NotebookFigure(WIDTH, rows * (panel * max(tallest, 0.4) + 0.4))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in axes[len(drawn) :]:
        empty.remove()
    largest = max(np.nanmax(np.append(grid, 1.0)) for grid in drawn.values())
    for axis, (title, grid) in zip(axes, drawn.items(), strict=False):
        height, width = size_of[title]
        left, right = -margin * width, (1 + margin) * width
        top, bottom = -margin * height, (1 + margin) * height
        axis.imshow(
            grid,
            extent=(left, right, bottom, top),
            cmap=WEIGHT_MAP,
            vmin=0,
            vmax=largest,
            interpolation="nearest",
        )
        axis.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="0.5", lw=1.6))
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
        axis.set_title(title, fontsize=10)
        axis.spines[:].set_visible(False)
    return figure, drawn
