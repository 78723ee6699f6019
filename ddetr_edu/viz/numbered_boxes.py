"""Numbered boxes over images whose axes count pixels, so that positions can be read off."""

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator

from ddetr_edu.viz.style import (
    COLOURS,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_box,
    faded,
    text_colour,
)

WIDTH = 3.3  # of a panel, in inches


def plot_numbered_boxes(
    images: dict, boxes: dict
) -> tuple[NotebookFigure, dict[str, dict[str, np.ndarray]]]:
    """Draw the boxes of several images, numbered from 0, beyond the images' borders too.

    Args:
        images: {title: image}, each a PIL image, (3, H, W) tensor or (H, W, 3) array.
        boxes: {title: (n, 4)}, (x1, y1, x2, y2) in pixels of the image.

    Returns:
        The figure, and for each title "boxes" (n, 4) as drawn and "frame" (4,), the part of the
        plane that is shown, (x1, y1, x2, y2).

    Raises:
        ValueError: If an image has no boxes, or boxes have another shape.
    """
    drawn = {}
    for title, image in images.items():
        given = as_array(boxes.get(title, ()))
        if given.ndim != 2 or given.shape[1] != 4:
            raise ValueError(
                f'the boxes of "{title}" have shape {given.shape}; give (n, 4), xyxy in pixels'
            )
        height, width = as_image_array(image).shape[:2]
        corners = np.concatenate([given.reshape(-1, 2), [[0, 0], [width, height]]])
        margin = 0.03 * max(height, width)
        frame = np.concatenate([corners.min(0) - margin, corners.max(0) + margin])
        drawn[title] = {"boxes": given, "frame": frame}
    aspects = [(f[3] - f[1]) / (f[2] - f[0]) for f in (d["frame"] for d in drawn.values())]
    figure = NotebookFigure(WIDTH * len(images), WIDTH * max(aspects) + 0.5)
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, (title, image) in zip(panels, images.items(), strict=True):
        pixels = as_image_array(image)
        height, width = pixels.shape[:2]
        axis.imshow(faded(pixels), extent=(0, width, height, 0), interpolation="nearest")
        for k, box in enumerate(drawn[title]["boxes"]):
            colour = COLOURS[k % len(COLOURS)]
            draw_box(axis, box, colour)
            rim = [withStroke(linewidth=2.5, foreground="white")]
            axis.text(
                *box[:2], f" {k}", color=colour, va="top", weight="bold", path_effects=rim, zorder=5
            )
        x1, y1, x2, y2 = drawn[title]["frame"]
        axis.set(xlim=(x1, x2), ylim=(y2, y1), aspect="equal")
        axis.set_title(title, fontsize=11, color=text_colour())
        axis.tick_params(labelsize=8)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(MultipleLocator(50))
            scale.set_minor_locator(MultipleLocator(10))
    return figure, drawn
