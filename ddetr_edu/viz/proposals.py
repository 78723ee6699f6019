"""What the encoder of a two-stage model proposes: how likely an object is at every token."""

import numpy as np

from ddetr_edu.viz.style import (
    WEIGHT_MAP,
    NotebookFigure,
    as_array,
    as_picture,
    draw_box,
    faded,
    in_pixels,
    row_of_panels,
    show_picture,
)


def plot_proposals(
    picture,
    objectness,
    spatial_shapes: list[tuple[int, int]],
    boxes,
    chosen,
    best: int = 10,
    title: str | None = None,
) -> tuple[NotebookFigure, dict]:
    """Draw each level's tokens by their objectness, those chosen as queries, and the best boxes.

    Every square is a token; the brighter, the more it believes in an object. Ringed tokens become
    queries. The last panel shows the boxes of the best.

    picture:    PIL image, (3, H, W) tensor or (H, W, 3) array
    objectness: (S,) in [0, 1], tokens of all levels, finest first
    spatial_shapes: [(H, W), ...] of each level
    boxes:      (S, 4) (cx, cy, w, h), fractions of the picture
    chosen:     (Lq,) numbers of the tokens that become queries, best first
    Returns: the figure, and "maps", the objectness of each level (H, W); "chosen", for each level
        the (x, y) of its chosen tokens, in pixels of the picture; "boxes" (best, 4) xyxy.
    Raises: ValueError for shapes that do not fit together.
    """
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    objectness, boxes, chosen = as_array(objectness), as_array(boxes), as_array(chosen)
    starts = np.cumsum([0, *(h * w for h, w in spatial_shapes)])
    if objectness.shape != (starts[-1],) or boxes.shape != (starts[-1], 4):
        raise ValueError(
            f"objectness has shape {objectness.shape} and boxes {boxes.shape}, but levels "
            f"{spatial_shapes} have S = {starts[-1]} tokens: (S,) and (S, 4); pick an image first"
        )
    count = len(spatial_shapes) + 1
    figure, panels = row_of_panels(count, height / width, header=0.45, around=0.4)
    maps, places = [], []
    for level, (axis, (rows, columns)) in enumerate(zip(panels, spatial_shapes, strict=False)):
        start, end = starts[level : level + 2]
        of_level = objectness[start:end].reshape(rows, columns)
        here = chosen[(start <= chosen) & (chosen < end)] - start
        x, y = (here % columns + 0.5) / columns, (here // columns + 0.5) / rows
        places.append(np.stack([x * width, y * height], axis=-1))
        maps.append(of_level)
        show_picture(axis, 0.5 * pixels.mean(-1, keepdims=True).repeat(3, -1))
        image = axis.imshow(
            of_level, extent=(0, width, height, 0), cmap=WEIGHT_MAP, vmin=0, vmax=objectness.max(),
            alpha=0.3 + 0.5 * of_level / objectness.max(), interpolation="nearest",
        )  # fmt: skip
        size = float(np.clip(150 / columns, 2.2, 9))  # in points: smaller than a token, if visible
        axis.plot(*places[-1].T, "o", mfc="none", mec="white", mew=min(1.3, size / 3), ms=size)
        axis.set_title(f"level {level}: {rows} x {columns}\n{len(here)} of {len(chosen)} queries",
                       fontsize=9)  # fmt: skip
    best_boxes = in_pixels(boxes[chosen[:best]], pixels)
    show_picture(panels[-1], faded(pixels))
    for box in best_boxes[::-1]:
        draw_box(panels[-1], box, "#0072B2", lw=1.4)
    panels[-1].set_title(f"boxes of the {len(best_boxes)}\nbest tokens", fontsize=9)
    figure.colorbar(image, ax=panels, label="objectness; ringed: becomes a query", aspect=28,
                    pad=0.01)  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"maps": maps, "chosen": places, "boxes": best_boxes}
