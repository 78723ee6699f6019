"""Dense attention beside deformable attention: every place against a few."""

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import WEIGHT_MAP, NotebookFigure, as_array, as_picture


def plot_attentions(
    picture, maps, map_box, locations, weights, box, title: str | None = None
) -> tuple[NotebookFigure, dict[str, dict[str, np.ndarray]]]:
    """Draw where a query of DETR looks, and below it one of Deformable DETR, layer by layer.

    Above, every cell of the feature map has a weight, here the mean of the heads: the stronger and
    the more yellow, the more it counts. Below, each dot is a place that was read: the larger and
    the more yellow, the more it counts. The title of a panel says how much of the weight lies
    inside the box that the query finds in the end.

    Convention: the map covers the picture, all cells equal; locations are (x, y), fractions of the
    picture's width and height, x to the right and y down.

    picture:   PIL image, (3, H, W) tensor or (H, W, 3) array, without padding
    maps:      (layers, M, H_l, W_l), weights that sum to 1 over H_l and W_l
    locations: (layers, M, L, P, 2);  weights: (layers, M, L, P), that sum to 1 over L and P
    map_box, box: (x1, y1, x2, y2) in pixels of the picture, what either query finds
    Returns: the figure, and for "dense" and "deformable" "inside" (layers,), the share of the
        weight inside its box, a cell counting by the share of its area, a point wholly or not, and
        "places", how many a query reads in each layer.
    Raises: ValueError for other shapes.
    """
    pixels = as_picture(picture)
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
    counts = weights.reshape(len(weights), -1) / n_heads  # (layers, M * L * P), sum 1
    x1, y1, x2, y2 = as_array(box)
    hit = (points >= [x1, y1]).all(-1) & (points <= [x2, y2]).all(-1)
    data = {
        "dense": {
            "inside": (maps * cover(as_array(map_box), maps.shape[1:], width, height)).sum((1, 2)),
            "places": maps[0].size,
        },
        "deformable": {"inside": (counts * hit).sum(1), "places": counts.shape[1]},
    }

    columns = max(len(maps), len(points))
    panel = 2.7 if columns <= 4 else 2.1
    figure = NotebookFigure(panel * columns + 1.2, 2 * (panel * height / width + 0.4) + 0.4)
    rows = figure.subfigures(2, 1)
    shared = dict(extent=(0, width, height, 0), interpolation="nearest")
    for row, (kind, of_kind), found in zip(rows, data.items(), (map_box, box), strict=True):
        axes = row.subplots(1, columns, squeeze=False)[0]
        for axis in axes[len(of_kind["inside"]) :]:
            axis.set_axis_off()
        for layer, share in enumerate(of_kind["inside"]):
            axis = axes[layer]
            grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
            axis.imshow(0.35 + 0.65 * (0.5 * pixels + 0.5 * grey), **shared)
            if kind == "dense":
                strength = 0.85 * np.sqrt(maps[layer] / maps.max())  # no weight, no veil
                drawn = axis.imshow(
                    maps[layer], cmap=WEIGHT_MAP, vmin=0, vmax=maps.max(), alpha=strength, **shared
                )
                draw_cells(axis, maps.shape[1:], width, height)
            else:
                order = np.argsort(counts[layer])  # heavy points on top
                here, count = points[layer][order], counts[layer][order]
                drawn = axis.scatter(
                    *here.T, s=5 + 70 * count / counts.max(), c=count, cmap=WEIGHT_MAP, vmin=0,
                    vmax=counts.max(), edgecolors="black", linewidths=0.5, zorder=3,
                )  # fmt: skip
            x1, y1, x2, y2 = as_array(found)
            for colour, line in (("white", 3.2), ("black", 1.4)):
                axis.add_patch(
                    Rectangle(
                        (x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=line, zorder=4
                    )
                )
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
            axis.set_title(f"layer {layer}: {share:.0%} inside the box", fontsize=9)
        name = "DETR" if kind == "dense" else "Deformable DETR"
        axes[0].set_ylabel(f"{name}\n{of_kind['places']} places", fontsize=10)
        bar = row.colorbar(drawn, ax=list(axes), label="weight, all sum to 1", shrink=0.9)
        bar.solids.set_alpha(1)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, data


def draw_cells(axis, shape: tuple[int, int], width: int, height: int) -> None:
    """The edges of H_l x W_l equal cells of a picture."""
    rows, columns = shape
    style = dict(color="black", lw=0.3, alpha=0.35)
    axis.hlines(np.arange(1, rows) * height / rows, 0, width, **style)
    axis.vlines(np.arange(1, columns) * width / columns, 0, height, **style)


def cover(box: np.ndarray, shape: tuple[int, int], width: int, height: int) -> np.ndarray:
    """The share of each of H_l x W_l equal cells of a picture that a box (x1, y1, x2, y2) covers.

    Returns: (H_l, W_l)
    """
    (rows, columns), (x1, y1, x2, y2) = shape, box
    left, top = np.arange(columns), np.arange(rows)
    across = np.minimum(left + 1, x2 / width * columns) - np.maximum(left, x1 / width * columns)
    down = np.minimum(top + 1, y2 / height * rows) - np.maximum(top, y1 / height * rows)
    return np.outer(down.clip(0), across.clip(0))
