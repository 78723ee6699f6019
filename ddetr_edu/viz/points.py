"""Sampling points over an image: where a query samples, and how much each point counts."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import (
    NotebookFigure,
    as_array,
    as_image_array,
    draw_cross,
    draw_points,
    faded,
)


def plot_sampling_points(
    image,
    reference_point,
    locations,
    weights,
    by: str = "level",
    spatial_shapes: list[tuple[int, int]] | None = None,
    box=None,
    title: str | None = None,
) -> tuple[NotebookFigure, list[dict[str, np.ndarray]]]:
    """Draw one query's sampling points, one panel for each level or for each head.

    The cross is the reference point. Each dot is a sampling point, larger and brighter for a
    higher attention weight. A dot well outside the frame reads zeros.

    Convention: locations are (x, y), fractions of the image's width and height, x to the right
    and y down. Where a batch was padded, give the padded image.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        reference_point: (2,) (x, y) or (4,) (cx, cy, w, h), or one such row for each level.
        locations: (M, L, P, 2).
        weights: (M, L, P).
        by: "level": a panel shows all heads on one level; "head": all levels of one head.
        spatial_shapes: (H, W) of each level; with by="level", its pixel grid is drawn.
        box: (x1, y1, x2, y2) in pixels of the image, drawn if given.
        title: Of the figure.

    Returns:
        The figure, and for each panel "reference" (2,), "locations" (n, 2), both in pixels of the
        image with (0, 0) at its corner, and "weights" (n,), in the order drawn.

    Raises:
        ValueError: For shapes that do not fit together or an unknown `by`.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    locations, weights = as_array(locations), as_array(weights)
    references = np.atleast_2d(as_array(reference_point))[:, :2]
    if weights.ndim != 3 or locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"locations has shape {locations.shape} and weights {weights.shape}; for one query "
            "they are (M, L, P, 2) and (M, L, P): pick an image and a query first"
        )
    n_heads, n_levels, _ = weights.shape
    if spatial_shapes is not None and len(spatial_shapes) != n_levels:
        raise ValueError(
            f"spatial_shapes names {len(spatial_shapes)} levels, but weights have {n_levels}"
        )
    panels: list[tuple[str, Any, int]]  # name, index into (M, L, P), level
    if by == "level":
        panels = [(f"level {l}", (slice(None), l), l) for l in range(n_levels)]
        if spatial_shapes is not None:
            panels = [
                (f"{name}: {spatial_shapes[l][0]} x {spatial_shapes[l][1]}", index, l)
                for name, index, l in panels
            ]
    elif by == "head":
        panels = [(f"head {m}", m, 0) for m in range(n_heads)]
    else:
        raise ValueError(f'by="{by}" is not known; use "level" or "head"')

    scale = np.array([width, height])
    extremes = np.concatenate([locations.reshape(-1, 2) * scale, [[0, 0], [width, height]]])
    low, high = extremes.min(0) - 3, extremes.max(0) + 3
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    aspect = (high[1] - low[1]) / (high[0] - low[0])
    panel_width = 3.4 if columns > 1 else 5.0
    figure = NotebookFigure(panel_width * columns + 0.9, rows * (panel_width * aspect + 0.35) + 0.5)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    largest = float(weights.max())
    drawn = []
    for axis, (name, index, level) in zip(axes, panels, strict=False):
        here = locations[index].reshape(-1, 2) * scale
        point_weights = weights[index].reshape(-1)
        order = np.argsort(point_weights)  # heavy points on top
        here, point_weights = here[order], point_weights[order]
        reference = references[min(level, len(references) - 1)] * scale
        axis.imshow(faded(pixels), extent=(0, width, height, 0), interpolation="nearest")
        axis.add_patch(Rectangle((0, 0), width, height, fill=False, color="0.4", lw=0.8))
        if by == "level" and spatial_shapes is not None:
            _draw_grid(axis, spatial_shapes[level], width, height)
        if box is not None:
            x1, y1, x2, y2 = as_array(box)
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="black", lw=1.2))
        dots = draw_points(axis, here, point_weights, largest, sizes=(6, 70), clip_on=False)
        draw_cross(axis, reference)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
        share = point_weights.sum() / weights.sum()
        axis.set_title(f"{name}\n{share:.0%} of the weight" if by == "level" else name, fontsize=10)
        drawn.append({"reference": reference, "locations": here, "weights": point_weights})
    for axis in axes[len(panels) :]:
        axis.remove()  # panels left over in the last row
    figure.colorbar(dots, ax=figure.axes, label="attention weight (sums to 1 per head)", shrink=0.9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn


def _draw_grid(axis: Axes, shape: tuple[int, int], width: int, height: int) -> None:
    """Draw the pixel grid of a level, (H, W) = shape, over the image."""
    rows, columns = shape
    if max(rows, columns) > 40:
        return  # finer grids would hide the image
    for r in range(1, rows):
        axis.plot([0, width], [r * height / rows] * 2, color="black", lw=0.3, alpha=0.3)
    for c in range(1, columns):
        axis.plot([c * width / columns] * 2, [0, height], color="black", lw=0.3, alpha=0.3)
