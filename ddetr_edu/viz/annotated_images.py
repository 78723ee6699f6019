"""Images with their annotations, a column for each data set, as a glance at it should show them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patheffects import withStroke

from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.style import (
    COLOURS,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_box,
    text_colour,
)

BEYOND = 0.35  # of an image's width and height, shown to its right and below it
LABEL_HEIGHT = 0.1  # of an image's width: room that a name needs above a box


def plot_annotated_images(
    columns: Mapping[str, Sequence[tuple]], categories: dict[int, str], width: float = 1.75
) -> tuple[NotebookFigure, dict[str, list[np.ndarray]]]:
    """Draw a few images of each of several data sets, with boxes and names, also beyond borders.

    Args:
        columns: {title: [(image, boxes, labels), ...]}, as many for each title. A box is
            [x, y, width, height] in pixels, as in an annotation file; images are of one size, each
            a PIL image, (3, H, W) tensor or (H, W, 3) array.
        categories: {label: name}; a label without a name is written as a number.
        width: Of a panel, in inches.

    Returns:
        The figure, and for each title the boxes (n, 4) of each image as drawn, (x1, y1, x2, y2).

    Raises:
        ValueError: If there is no image.
    """
    images = [as_image_array(image) for rows in columns.values() for image, *_ in rows]
    if not images:
        raise ValueError("there is no image to draw")
    height, long = images[0].shape[:2]
    n_rows = max(map(len, columns.values()))
    figure = NotebookFigure(width * len(columns), n_rows * width * height / long + 0.35)
    panels = figure.subplots(n_rows, len(columns), squeeze=False)
    drawn: dict[str, list[np.ndarray]] = {title: [] for title in columns}
    for column, (title, rows) in enumerate(columns.items()):
        over_image = 0.5 / (1 + BEYOND)
        panels[0, column].set_title(title, fontsize=10, color=text_colour(), x=over_image)
        for axis, (image, boxes, labels) in zip(panels[:, column], rows, strict=True):
            axis.imshow(as_image_array(image), extent=(0, long, height, 0))
            corners = as_array(boxes).reshape(-1, 4).astype(float)  # a copy
            corners[:, 2:] += corners[:, :2]
            for box, label in zip(corners, labels, strict=True):
                colour = COLOURS[int(label) % len(COLOURS)]
                draw_box(axis, box, colour)
                name = categories.get(int(label))
                above = box[1] > LABEL_HEIGHT * long  # elsewhere it would leave the panel
                axis.text(
                    box[0],
                    box[1] - 2 if above else box[3] + 2,  # inside, it would hide a small object
                    str(label) if name is None else category_text(int(label), name),
                    color=colour,
                    fontsize=8,
                    weight="bold",
                    va="bottom" if above else "top",
                    clip_on=True,
                    path_effects=[withStroke(linewidth=2, foreground="white")],
                    zorder=5,
                )
            axis.set(xlim=(-2, long * (1 + BEYOND)), ylim=(height * (1 + BEYOND), -2))
            axis.set(xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set_visible(False)
            drawn[title].append(corners)
    return figure, drawn
