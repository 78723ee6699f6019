"""One query through all layers: how it finds its object, picture by picture."""

import numpy as np
from matplotlib.lines import Line2D

from ddetr_edu.viz.style import (
    LEVEL_MARKS,
    WEIGHT_MAP,
    NotebookFigure,
    as_array,
    as_picture,
    corners_of,
    draw_box,
    faded,
    frame_around,
    in_pixels,
    row_of_panels,
    show_picture,
)


def plot_layers(
    picture,
    entering,
    leaving,
    locations,
    weights,
    names: list[str] | None = None,
    legend: tuple[str, str] = ("box entering the layer", "box leaving it"),
    title: str | None = None,
) -> tuple[NotebookFigure, list[dict[str, np.ndarray]]]:
    """Draw where one query stands in each layer, where it looks, and the box it then says.

    Dots are what was read: larger and more yellow counts more, their shape tells the level. The
    dashed box (or cross) enters the layer, the solid one leaves it and enters the next. All panels
    show the same part of the picture.

    Convention: places are (x, y), fractions of the picture's width and height, x to the right
    and y down. Where a batch was padded, give the padded picture and fractions of it.

    picture:   PIL image, (3, H, W) tensor or (H, W, 3) array
    entering:  for each layer (2,) (x, y) or (4,) (cx, cy, w, h)
    leaving:   for each layer (4,) (cx, cy, w, h), or None
    locations: (layers, M, L, P, 2);  weights: (layers, M, L, P)
    names:     of the panels; "layer 0", "layer 1", ... when not given
    Returns: the figure, and for each panel, in pixels of the picture: "entering" (2,) or (4,)
        xyxy, "leaving" (4,) xyxy or None, "locations" (n, 2); "weights" (n,), "levels" (n,), and
        "beyond", the share of the weight on points that lie beyond the panel's frame.
    Raises: ValueError for shapes that do not fit together.
    """
    pixels = as_picture(picture)
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
    figure, panels = row_of_panels(n_layers, frame[1] / frame[0])
    drawn = []
    for i, axis in enumerate(panels):
        here, counts = points[i].reshape(-1, 2), weights[i].ravel()
        levels = np.broadcast_to(np.arange(n_levels)[:, None], weights[i].shape).ravel()
        order = np.argsort(counts, kind="stable")  # heavy points on top
        here, counts, levels = here[order], counts[order], levels[order]
        show_picture(axis, faded(pixels))
        for level in range(n_levels):
            of = levels == level
            dots = axis.scatter(
                *here[of].T, s=9 + 100 * counts[of], c=counts[of], cmap=WEIGHT_MAP,
                vmin=0, vmax=weights.max(), marker=LEVEL_MARKS[level % len(LEVEL_MARKS)],
                edgecolors="black", linewidths=0.5, zorder=3,
            )  # fmt: skip
        draw_box(axis, entering[i], ls=(0, (4, 2)), lw=1.4)
        if leaving[i] is not None:
            draw_box(axis, leaving[i], colour="#D55E00", lw=2)
        beyond = counts[((here < low) | (here > high)).any(-1)].sum() / counts.sum()
        note = f"; {beyond:.0%} of its weight beyond" if beyond >= 0.005 else ""
        axis.set_title(names[i] + note, fontsize=9)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
        drawn.append(
            {"entering": entering[i], "leaving": leaving[i], "locations": here, "weights": counts,
             "levels": levels, "beyond": beyond}
        )  # fmt: skip
    bar = figure.colorbar(dots, ax=panels, aspect=30, pad=0.01)
    bar.set_label("weight; a head's sum to 1", fontsize=9)
    plain = dict(color="0.6", mec="black", mew=0.5, ls="", ms=7)
    handles = [
        Line2D([], [], marker=LEVEL_MARKS[l % len(LEVEL_MARKS)], label=f"level {l}", **plain)
        for l in range(n_levels)
    ]
    cross = dict(marker="+", ms=11, mew=1.6, ls="") if len(entering[0]) == 2 else dict(ls="--")
    handles.append(Line2D([], [], color="0.35", label=legend[0], **cross))
    if leaving[0] is not None:
        handles.append(Line2D([], [], color="#D55E00", lw=2, label=legend[1]))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn
