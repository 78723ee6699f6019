"""Sampling points on the pixel grids of levels, beside where they should be."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour

WIDTH = 4.2  # of a panel, in inches
MARGIN = 0.8  # of the pixels of a level, around its border and all points
TITLE_HEIGHT = 0.45
IN_A_ROW = 3  # panels, if there is a single level


def plot_points_on_levels(
    locations: dict,
    reference_points,
    spatial_shapes: list[tuple[int, int]],
    intended=None,
    title: str | None = None,
    image=None,
) -> tuple[NotebookFigure, dict[str, list[np.ndarray]]]:
    """Draw sets of sampling points over the pixel grid of each level.

    The points of a head have one colour and are joined by a line, in their order. A cross is a
    reference point, or the centre of a box, which is drawn, too. A ring is where a point should be.

    Convention: locations are (x, y), fractions of the level, x to the right and y down.

    Args:
        locations: The name of a set -> its points, (Lq, M, L, P, 2). Each set has a row of panels,
            with one panel for each level; if there is one level, three sets share a row.
        reference_points: (Lq, 2) (x, y) or (Lq, 4) (cx, cy, w, h).
        spatial_shapes: (H, W) of each level.
        intended: (Lq, M, L, P, 2), drawn as rings if given.
        title: Of the figure.
        image: (H, W, 3) uint8 or a PIL image, drawn faintly under the grid of each level if given.

    Returns:
        The figure, and for each set its points on each level, (Lq, M, P, 2), in pixels of the level
        with (0, 0) at the corner.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    sets = {name: as_array(points) for name, points in locations.items()}
    references, n_levels = as_array(reference_points), len(spatial_shapes)
    for name, points in sets.items():
        if points.ndim != 5 or points.shape[::2] != (len(references), n_levels, 2):
            raise ValueError(
                f'the points of "{name}" have shape {points.shape}; for {len(references)} '
                f"reference points and {n_levels} levels they are ({len(references)}, M, "
                f"{n_levels}, P, 2): pick an image first"
            )
    rings = None if intended is None else as_array(intended)
    everything = np.concatenate([points.reshape(-1, 2) for points in sets.values()])
    sizes = np.array([(width, height) for height, width in spatial_shapes])
    # All panels show the same part of the image.
    low = np.minimum(everything.min(0), 0) - (MARGIN / sizes).max(0)
    high = np.maximum(everything.max(0), 1) + (MARGIN / sizes).max(0)
    columns = n_levels if n_levels > 1 else min(len(sets), IN_A_ROW)
    rows = -(-len(sets) * n_levels // columns)
    aspect = ((high - low) * sizes[0])[1] / ((high - low) * sizes[0])[0]
    figure = NotebookFigure(
        WIDTH * columns, rows * (WIDTH * aspect + TITLE_HEIGHT) + (0.4 if title else 0)
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[len(sets) * n_levels :]:
        empty.remove()
    drawn = {}
    for row, (name, points) in enumerate(sets.items()):
        drawn[name] = [points[:, :, level] * sizes[level] for level in range(n_levels)]
        for level, size in enumerate(sizes):
            axis = panels[row * n_levels + level]
            if image is not None:
                extent = (0, size[0], size[1], 0)
                faint = 255 - (255 - np.asarray(image)) // 2  # pale on a dark page, too
                axis.imshow(faint, extent=extent, zorder=-1)
            _draw_grid(axis, size, low, high)
            _draw_references(axis, references, size)
            if rings is not None:
                x, y = (rings[:, :, level] * size).reshape(-1, 2).T
                axis.plot(x, y, "o", ms=10, mfc="none", mec=text_colour(), mew=0.8, zorder=2)
            _draw_points(axis, drawn[name][level])
            where = f", level {level}: {size[1]} x {size[0]}" if n_levels > 1 else ""
            axis.set_title(name + where, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn


def _draw_grid(axis: Axes, size: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    width, height = size
    axis.vlines(range(1, width), 0, height, color="0.5", lw=0.4, alpha=0.5, zorder=0)
    axis.hlines(range(1, height), 0, width, color="0.5", lw=0.4, alpha=0.5, zorder=0)
    axis.add_patch(
        Rectangle((0, 0), width, height, fill=False, color=text_colour(), lw=1.5, zorder=1)
    )
    axis.set(
        xlim=(low[0] * width, high[0] * width),
        ylim=(high[1] * height, low[1] * height),
        xticks=[],
        yticks=[],
        aspect="equal",
    )
    axis.spines[:].set_visible(False)


def _draw_references(axis: Axes, references: np.ndarray, size: np.ndarray) -> None:
    for reference in references:
        x, y = reference[:2] * size
        axis.plot(x, y, "+", color=text_colour(), ms=15, mew=2, zorder=3)
        if len(reference) == 4:
            w, h = reference[2:] * size
            corner = (x - w / 2, y - h / 2)
            axis.add_patch(Rectangle(corner, w, h, fill=False, color=text_colour(), lw=1, ls="--"))


def _draw_points(axis: Axes, points: np.ndarray) -> None:
    """Draw (Lq, M, P, 2), in pixels."""
    for query in points:
        for m, head in enumerate(query):
            colour = COLOURS[m % len(COLOURS)]
            axis.plot(*head.T, "-", color=colour, lw=1.5, zorder=2)
            axis.plot(*head.T, "o", color=colour, mec="black", mew=0.5, ms=5, zorder=4)
