"""The proposals of a two-stage model: how likely there is an object at every token."""

import numpy as np

from ddetr_edu.viz.style import (
    WEIGHT_MAP,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_box,
    faded,
    in_pixels,
    panel_grid,
    show_image,
)


def plot_proposals(
    image,
    objectness,
    spatial_shapes: list[tuple[int, int]],
    boxes,
    topk_indices,
    best: int = 10,
    title: str | None = None,
) -> tuple[NotebookFigure, dict]:
    """Draw the objectness of each level's tokens, those chosen as queries, and the best boxes.

    Every square is a token, brighter for a higher objectness. The circled tokens become queries.
    The last panel shows the boxes of the best ones.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        objectness: (S,) in [0, 1], tokens of all levels, finest first.
        spatial_shapes: (H, W) of each level.
        boxes: (S, 4) (cx, cy, w, h), fractions of the image.
        topk_indices: (Lq,), the tokens that become queries, best first.
        best: How many boxes to draw.
        title: Of the figure.

    Returns:
        The figure, and "maps", the objectness of each level (H, W); "chosen", for each level the
        (x, y) of its chosen tokens, in pixels of the image; and "boxes" (best, 4) xyxy.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    objectness, boxes, chosen = as_array(objectness), as_array(boxes), as_array(topk_indices)
    starts = np.cumsum([0, *(h * w for h, w in spatial_shapes)])
    if objectness.shape != (starts[-1],) or boxes.shape != (starts[-1], 4):
        raise ValueError(
            f"objectness has shape {objectness.shape} and boxes {boxes.shape}, but levels "
            f"{spatial_shapes} have S = {starts[-1]} tokens: (S,) and (S, 4); pick an image first"
        )
    count = len(spatial_shapes) + 1
    figure, panels = panel_grid(count, height / width, title_height=0.45, margin=0.4)
    maps, centres = [], []
    for level, (axis, (rows, columns)) in enumerate(zip(panels, spatial_shapes, strict=False)):
        start, end = starts[level : level + 2]
        of_level = objectness[start:end].reshape(rows, columns)
        here = chosen[(start <= chosen) & (chosen < end)] - start
        x, y = (here % columns + 0.5) / columns, (here // columns + 0.5) / rows
        centres.append(np.stack([x * width, y * height], axis=-1))
        maps.append(of_level)
        show_image(axis, 0.5 * pixels.mean(-1, keepdims=True).repeat(3, -1))
        heatmap = axis.imshow(
            of_level,
            extent=(0, width, height, 0),
            cmap=WEIGHT_MAP,
            vmin=0,
            vmax=objectness.max(),
            alpha=0.3 + 0.5 * of_level / objectness.max(),
            interpolation="nearest",
        )
        size = float(np.clip(150 / columns, 2.2, 9))  # in points: smaller than a token, if visible
        axis.plot(*centres[-1].T, "o", mfc="none", mec="white", mew=min(1.3, size / 3), ms=size)
        axis.set_title(
            f"level {level}: {rows} x {columns}\n{len(here)} of {len(chosen)} queries", fontsize=9
        )
    best_boxes = in_pixels(boxes[chosen[:best]], pixels)
    show_image(panels[-1], faded(pixels))
    for box in best_boxes[::-1]:
        draw_box(panels[-1], box, "#0072B2", lw=1.4)
    panels[-1].set_title(f"boxes of the\n{len(best_boxes)} best tokens", fontsize=9)
    figure.colorbar(heatmap, ax=panels, label="objectness (circles: queries)", aspect=28, pad=0.01)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"maps": maps, "chosen": centres, "boxes": best_boxes}
