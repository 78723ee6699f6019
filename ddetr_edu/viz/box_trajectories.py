"""How the decoder layers refine the box of every detection."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ddetr_edu.viz.labels import label_boxes
from ddetr_edu.viz.style import (
    COLOURS,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_box,
    faded,
    in_pixels,
    show_image,
)


def plot_box_trajectories(
    image, references, boxes, texts: list[str] | None = None, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the initial reference of each query, and its box after each layer.

    The circle (and the dashed box) is the reference that enters the first layer. The thin boxes
    are the predictions of the earlier layers, the thick one is that of the last. The dots on the
    line are the centres of the boxes.

    Convention: fractions of the image's width and height, x to the right and y down.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        references: (n, 2) (x, y) or (n, 4) (cx, cy, w, h), of n queries, entering the first layer.
        boxes: (layers, n, 4) (cx, cy, w, h), leaving each layer.
        texts: (n,), written at the final boxes.
        title: Of the figure.

    Returns:
        The figure, and in pixels of the image "centres" (n, layers + 1, 2), "boxes" (layers, n, 4)
        xyxy, and "moved" (n, layers), how far each layer moves the centre.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    references, boxes = as_array(references), as_array(boxes)
    if boxes.ndim != 3 or boxes.shape[1:] != (len(references), 4):
        raise ValueError(
            f"references has shape {references.shape} and boxes {boxes.shape}; they are (n, 2 or "
            "4) and (layers, n, 4)"
        )
    centres = np.concatenate([references[None, :, :2], boxes[..., :2]])  # (layers + 1, n, 2)
    centres = in_pixels(centres, pixels).transpose(1, 0, 2)
    initial, corners = in_pixels(references, pixels), in_pixels(boxes, pixels)
    moved = np.linalg.norm(np.diff(centres, axis=1), axis=-1)
    side = 7.0 if width >= height else 6.0
    figure = NotebookFigure(side, side * height / width + (0.75 if title else 0.4))
    axis = figure.subplots()
    show_image(axis, faded(pixels))
    rim = [withStroke(linewidth=3.2, foreground="white")]
    for q in range(len(references)):
        colour = COLOURS[q % 5]  # the five that are dark enough on a pale image
        if len(initial[q]) == 4:
            draw_box(axis, initial[q], colour, lw=1, ls=(0, (3, 2)))
        for layer, box in enumerate(corners[:-1, q]):
            x1, y1, x2, y2 = box
            axis.plot(
                [x1, x2, x2, x1, x1],
                [y1, y1, y2, y2, y1],
                color=colour,
                lw=0.8,
                alpha=0.3 + 0.5 * layer / len(corners),
            )
        draw_box(axis, corners[-1, q], colour, lw=2.2)
        axis.plot(*centres[q].T, "-", color=colour, lw=1.5, path_effects=rim, zorder=5)
        axis.plot(*centres[q, 1:].T, ".", color=colour, ms=6, zorder=6)
        axis.plot(*centres[q, 0], "o", mfc="white", mec=colour, mew=1.8, ms=7, zorder=6)
    extremes = np.concatenate([centres.reshape(-1, 2), [[0, 0], [width, height]]])
    low, high = extremes.min(0) - 2, extremes.max(0) + 2
    axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
    if texts is not None:
        visible = corners[-1].clip(0, (width, height, width, height))
        label_boxes(axis, visible, texts, [COLOURS[q % 5] for q in range(len(texts))])
    circle: dict[str, Any] = dict(ls="", marker="o", mfc="white", mec="0.35", mew=1.8, ms=7)
    handles = [Line2D([], [], label="initial reference", **circle)]
    if references.shape[-1] == 4:
        handles.append(Line2D([], [], color="0.35", lw=1, ls="--", label="initial box"))
    handles += [
        Line2D([], [], color="0.35", lw=0.8, label="intermediate boxes"),
        Line2D([], [], color="0.35", lw=2.2, label="final box"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    if title:
        axis.set_title(title, fontsize=11)
    return figure, {"centres": centres, "boxes": corners, "moved": moved}
