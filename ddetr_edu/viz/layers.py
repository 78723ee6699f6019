"""How one query finds its object, layer by layer."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from ddetr_edu.viz.style import (
    LEVEL_MARKS,
    WEIGHT_MAP,
    NotebookFigure,
    as_array,
    as_image_array,
    corners_of,
    draw_box,
    faded,
    frame_around,
    in_pixels,
    panel_grid,
    show_image,
)


def plot_layers(
    image,
    entering,
    leaving,
    locations,
    weights,
    names: list[str] | None = None,
    legend: tuple[str, str] = ("reference entering the layer", "predicted box"),
    title: str | None = None,
) -> tuple[NotebookFigure, list[dict[str, np.ndarray]]]:
    """Draw the reference of one query in each layer, its sampling points, and the predicted box.

    A dot is larger and brighter for a higher attention weight, and its shape tells the level. The
    dashed box (or cross) is the reference that enters the layer, the solid one the prediction that
    leaves it and enters the next. All panels show the same part of the image.

    Convention: locations are (x, y), fractions of the image's width and height, x to the right
    and y down. Where a batch was padded, give the padded image and fractions of it.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        entering: For each layer (2,) (x, y) or (4,) (cx, cy, w, h).
        leaving: For each layer (4,) (cx, cy, w, h), or None.
        locations: (layers, M, L, P, 2).
        weights: (layers, M, L, P).
        names: Of the panels; "layer 0", "layer 1", ... if None.
        legend: What to call what enters and what leaves a layer.
        title: Of the figure.

    Returns:
        The figure, and for each panel, in pixels of the image: "entering" (2,) or (4,) xyxy,
        "leaving" (4,) xyxy or None, "locations" (n, 2); "weights" (n,), "levels" (n,), and
        "beyond", the share of the weight on points that lie beyond the panel's frame.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    pixels = as_image_array(image)
    size = np.array(pixels.shape[1::-1])  # (W, H)
    locations, weights = as_array(locations), as_array(weights)
    if weights.ndim != 4 or locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"locations has shape {locations.shape} and weights {weights.shape}; for one query "
            "they are (layers, M, L, P, 2) and (layers, M, L, P): pick an image and a query first"
        )
    n_layers, _, n_levels, _ = weights.shape
    leaving = [None] * n_layers if leaving is None else list(leaving)
    names = names or [f"layer {i}" for i in range(n_layers)]
    if not len(entering) == len(leaving) == len(names) == n_layers:
        raise ValueError(
            f"{n_layers} layers of locations came with {len(entering)} boxes entering, "
            f"{len(leaving)} leaving and {len(names)} names; give one of each for each layer"
        )
    entering = [in_pixels(box, pixels) for box in entering]
    leaving = [None if box is None else in_pixels(box, pixels) for box in leaving]
    points = locations * size
    low, high = frame_around(
        [*points.reshape(-1, 2), *corners_of(entering), *corners_of(leaving)], pixels
    )
    frame = high - low
    figure, panels = panel_grid(n_layers, frame[1] / frame[0])
    drawn = []
    for i, axis in enumerate(panels):
        here, point_weights = points[i].reshape(-1, 2), weights[i].ravel()
        levels = np.broadcast_to(np.arange(n_levels)[:, None], weights[i].shape).ravel()
        order = np.argsort(point_weights, kind="stable")  # heavy points on top
        here, point_weights, levels = here[order], point_weights[order], levels[order]
        show_image(axis, faded(pixels))
        for level in range(n_levels):
            of = levels == level
            x, y = here[of].T
            dots = axis.scatter(
                x,
                y,
                s=9 + 100 * point_weights[of],
                c=point_weights[of],
                cmap=WEIGHT_MAP,
                vmin=0,
                vmax=weights.max(),
                marker=LEVEL_MARKS[level % len(LEVEL_MARKS)],
                edgecolors="black",
                linewidths=0.5,
                zorder=3,
            )
        draw_box(axis, entering[i], ls=(0, (4, 2)), lw=1.4)
        if leaving[i] is not None:
            draw_box(axis, leaving[i], colour="#D55E00", lw=2)
        beyond = point_weights[((here < low) | (here > high)).any(-1)].sum() / point_weights.sum()
        note = f" ({beyond:.0%} of weight not shown)" if beyond >= 0.005 else ""
        axis.set_title(names[i] + note, fontsize=9)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
        drawn.append(
            {
                "entering": entering[i],
                "leaving": leaving[i],
                "locations": here,
                "weights": point_weights,
                "levels": levels,
                "beyond": beyond,
            }
        )
    bar = figure.colorbar(dots, ax=panels, aspect=30, pad=0.01)
    bar.set_label("attention weight (sums to 1 per head)", fontsize=9)
    plain: dict[str, Any] = dict(color="0.6", mec="black", mew=0.5, ls="", ms=7)
    handles = [
        Line2D([], [], marker=LEVEL_MARKS[l % len(LEVEL_MARKS)], label=f"level {l}", **plain)
        for l in range(n_levels)
    ]
    line: dict[str, Any] = dict(ls="--")
    if len(entering[0]) == 2:
        line = dict(marker="+", ms=11, mew=1.6, ls="")
    handles.append(Line2D([], [], color="0.35", label=legend[0], **line))
    if leaving[0] is not None:
        handles.append(Line2D([], [], color="#D55E00", lw=2, label=legend[1]))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn
