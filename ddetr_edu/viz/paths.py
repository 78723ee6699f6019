"""The way of every detection's box through the layers."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ddetr_edu.viz.labels import label_boxes
from ddetr_edu.viz.style import (
    COLOURS,
    NotebookFigure,
    as_array,
    as_picture,
    draw_box,
    faded,
    in_pixels,
    show_picture,
)


def plot_paths(
    picture, references, boxes, texts: list[str] | None = None, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw where queries began, the box after each layer, and the way of its centre.

    The ring (or the dashed box) is the reference entering the first layer. Thin boxes are what
    layer after layer says, the thick one is the last. Dots on the line are the boxes' centres.

    Convention: fractions of the picture's width and height, x to the right and y down.

    picture:    PIL image, (3, H, W) tensor or (H, W, 3) array
    references: (n, 2) (x, y) or (n, 4) (cx, cy, w, h), of n queries, entering the first layer
    boxes:      (layers, n, 4) (cx, cy, w, h), leaving each layer
    texts:      (n,), written at the last boxes
    Returns: the figure, and in pixels of the picture "centres" (n, layers + 1, 2), "boxes"
        (layers, n, 4) xyxy, and "moved" (n, layers), the centre's way in each layer.
    Raises: ValueError for shapes that do not fit together.
    """
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    references, boxes = as_array(references), as_array(boxes)
    if boxes.ndim != 3 or boxes.shape[1:] != (len(references), 4):
        raise ValueError(
            f"references has shape {references.shape} and boxes {boxes.shape}; they are (n, 2 or "
            "4) and (layers, n, 4)"
        )
    centres = np.concatenate([references[None, :, :2], boxes[..., :2]])  # (layers + 1, n, 2)
    centres = in_pixels(centres, pixels).transpose(1, 0, 2)
    first, corners = in_pixels(references, pixels), in_pixels(boxes, pixels)
    moved = np.linalg.norm(np.diff(centres, axis=1), axis=-1)
    wide = 7.0 if width >= height else 6.0
    figure = NotebookFigure(wide, wide * height / width + (0.75 if title else 0.4))
    axis = figure.subplots()
    show_picture(axis, faded(pixels))
    rim = [withStroke(linewidth=3.2, foreground="white")]
    for q in range(len(references)):
        colour = COLOURS[q % 5]  # the five that are dark enough on a pale picture
        if len(first[q]) == 4:
            draw_box(axis, first[q], colour, lw=1, ls=(0, (3, 2)))
        for layer, box in enumerate(corners[:-1, q]):
            x1, y1, x2, y2 = box
            axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, lw=0.8,
                      alpha=0.3 + 0.5 * layer / len(corners))  # fmt: skip
        draw_box(axis, corners[-1, q], colour, lw=2.2)
        axis.plot(*centres[q].T, "-", color=colour, lw=1.5, path_effects=rim, zorder=5)
        axis.plot(*centres[q, 1:].T, ".", color=colour, ms=6, zorder=6)
        axis.plot(*centres[q, 0], "o", mfc="white", mec=colour, mew=1.8, ms=7, zorder=6)
    seen = np.concatenate([centres.reshape(-1, 2), [[0, 0], [width, height]]])
    low, high = seen.min(0) - 2, seen.max(0) + 2
    axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
    if texts is not None:
        visible = corners[-1].clip(0, (width, height, width, height))
        label_boxes(axis, visible, texts, [COLOURS[q % 5] for q in range(len(texts))])
    grey = dict(color="0.35")
    handles = [Line2D([], [], ls="", marker="o", mfc="white", mec="0.35", mew=1.8, ms=7,
                      label="where it begins")]  # fmt: skip
    if references.shape[-1] == 4:
        handles.append(Line2D([], [], lw=1, ls="--", label="its first box", **grey))
    handles += [
        Line2D([], [], lw=0.8, label="after each layer", **grey),
        Line2D([], [], lw=2.2, label="the last", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    if title:
        axis.set_title(title, fontsize=11)
    return figure, {"centres": centres, "boxes": corners, "moved": moved}
