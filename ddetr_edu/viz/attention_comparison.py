"""Dense attention above deformable attention: every token against a few sampling points."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import WEIGHT_MAP, NotebookFigure, as_array, as_image_array


def plot_attention_comparison(
    image, maps, map_box, locations, weights, box, title: str | None = None
) -> tuple[NotebookFigure, dict[str, dict[str, Any]]]:
    """Draw what a query of DETR attends to, and below it one of Deformable DETR, layer by layer.

    In the upper row every cell of the feature map has a weight, the mean over the heads: a cell is
    brighter for a higher weight. In the lower row each dot is a sampling point, larger and brighter
    for a higher weight. The title of a panel gives the share of the weight inside the query's
    final box.

    Convention: the map covers the image, all cells equal; locations are (x, y), fractions of the
    image's width and height, x to the right and y down.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array, without padding.
        maps: (layers, M, H_l, W_l), attention weights that sum to 1 over H_l and W_l.
        map_box: (x1, y1, x2, y2) in pixels of the image, the final box of DETR's query.
        locations: (layers, M, L, P, 2).
        weights: (layers, M, L, P), attention weights that sum to 1 over L and P.
        box: (x1, y1, x2, y2) in pixels of the image, the final box of Deformable DETR's query.
        title: Of the figure.

    Returns:
        The figure, and for "dense" and "deformable": "inside" (layers,), the share of the weight
        inside the box, to which a cell contributes by the share of its area and a point wholly or
        not at all; and "locations", at how many a query reads in each layer.

    Raises:
        ValueError: For other shapes.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    maps, locations, weights = as_array(maps), as_array(locations), as_array(weights)
    if maps.ndim != 4 or weights.ndim != 4 or locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"maps {maps.shape}, locations {locations.shape} and weights {weights.shape} must be "
            "(layers, M, H_l, W_l), (layers, M, L, P, 2) and (layers, M, L, P): pick an image and "
            "a query first"
        )
    maps = maps.mean(axis=1)  # (layers, H_l, W_l)
    n_heads = weights.shape[1]
    scale = np.array([width, height])
    points = locations.reshape(len(locations), -1, 2) * scale  # (layers, M * L * P, 2)
    weights = weights.reshape(len(weights), -1) / n_heads  # (layers, M * L * P), sum 1
    x1, y1, x2, y2 = as_array(box)
    hit = (points >= [x1, y1]).all(-1) & (points <= [x2, y2]).all(-1)
    coverage = cell_coverage(as_array(map_box), maps.shape[1:], width, height)
    data: dict[str, dict[str, Any]] = {
        "dense": {"inside": (maps * coverage).sum((1, 2)), "locations": maps[0].size},
        "deformable": {"inside": (weights * hit).sum(1), "locations": weights.shape[1]},
    }

    columns = max(len(maps), len(points))
    panel = 2.7 if columns <= 4 else 2.1
    figure = NotebookFigure(panel * columns + 1.2, 2 * (panel * height / width + 0.4) + 0.4)
    rows: Any = figure.subfigures(2, 1)
    shared: dict[str, Any] = dict(extent=(0, width, height, 0), interpolation="nearest")
    for row, (kind, of_kind), final_box in zip(rows, data.items(), (map_box, box), strict=True):
        axes = row.subplots(1, columns, squeeze=False)[0]
        for axis in axes[len(of_kind["inside"]) :]:
            axis.set_axis_off()
        for layer, share in enumerate(of_kind["inside"]):
            axis = axes[layer]
            grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
            axis.imshow(0.35 + 0.65 * (0.5 * pixels + 0.5 * grey), **shared)
            if kind == "dense":
                opacity = 0.85 * np.sqrt(maps[layer] / maps.max())  # no weight, no veil
                drawn = axis.imshow(
                    maps[layer], cmap=WEIGHT_MAP, vmin=0, vmax=maps.max(), alpha=opacity, **shared
                )
                _draw_cells(axis, maps.shape[1:], width, height)
            else:
                order = np.argsort(weights[layer])  # heavy points on top
                here, of_point = points[layer][order], weights[layer][order]
                drawn = axis.scatter(
                    *here.T,
                    s=5 + 70 * of_point / weights.max(),
                    c=of_point,
                    cmap=WEIGHT_MAP,
                    vmin=0,
                    vmax=weights.max(),
                    edgecolors="black",
                    linewidths=0.5,
                    zorder=3,
                )
            x1, y1, x2, y2 = as_array(final_box)
            for colour, line in (("white", 3.2), ("black", 1.4)):
                axis.add_patch(
                    Rectangle(
                        (x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=line, zorder=4
                    )
                )
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
            axis.set_title(f"layer {layer}: {share:.0%} inside the box", fontsize=9)
        name = "DETR" if kind == "dense" else "Deformable DETR"
        axes[0].set_ylabel(f"{name}\n{of_kind['locations']} locations", fontsize=10)
        bar = row.colorbar(drawn, ax=list(axes), label="attention weight", shrink=0.9)
        bar.solids.set_alpha(1)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, data


def _draw_cells(axis: Axes, shape: tuple[int, int], width: int, height: int) -> None:
    """Draw the borders of the H_l x W_l equal cells of an image."""
    rows, columns = shape
    style: dict[str, Any] = dict(color="black", lw=0.3, alpha=0.35)
    axis.hlines(np.arange(1, rows) * height / rows, 0, width, **style)
    axis.vlines(np.arange(1, columns) * width / columns, 0, height, **style)


def cell_coverage(box: np.ndarray, shape: tuple[int, int], width: int, height: int) -> np.ndarray:
    """Measure which share of each cell of an image is covered by a box.

    Args:
        box: (x1, y1, x2, y2) in pixels of the image.
        shape: (H_l, W_l), the rows and columns of equal cells.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        (H_l, W_l), in [0, 1].
    """
    (rows, columns), (x1, y1, x2, y2) = shape, box
    left, top = np.arange(columns), np.arange(rows)
    across = np.minimum(left + 1, x2 / width * columns) - np.maximum(left, x1 / width * columns)
    down = np.minimum(top + 1, y2 / height * rows) - np.maximum(top, y1 / height * rows)
    return np.outer(down.clip(0), across.clip(0))
