"""How many tokens an object gets on feature maps of several strides."""

import math
from collections.abc import Sequence

import numpy as np

from ddetr_edu.viz.style import (
    COLOURS,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_box,
    faded,
    panel_grid,
    show_image,
)


def plot_token_grids(
    image, box, strides: Sequence[int] = (32, 16, 8)
) -> tuple[NotebookFigure, dict[int, dict[str, int]]]:
    """Draw the tokens of feature maps of several strides over an image, one panel for each.

    A cell is what a token stands for, and the dot is its centre. Dots inside the box are larger.
    Cells at the right and at the lower border may end outside the image, because strides round up.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        box: (x1, y1, x2, y2) of an object, in pixels.
        strides: Of the feature maps, in pixels.

    Returns:
        The figure, and for each stride "tokens", their number, and "inside", how many have their
        centre in the box.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = corners = as_array(box)
    figure, panels = panel_grid(
        len(strides), height / width, title_height=0.6, colour_bar=0.1, margin=0.1
    )
    drawn = {}
    for axis, stride in zip(panels, strides, strict=True):
        show_image(axis, faded(pixels))
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        axis.hlines(np.arange(1, rows) * stride, 0, width, color="0.25", lw=0.5, alpha=0.6)
        axis.vlines(np.arange(1, columns) * stride, 0, height, color="0.25", lw=0.5, alpha=0.6)
        x, y = np.meshgrid((np.arange(columns) + 0.5) * stride, (np.arange(rows) + 0.5) * stride)
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        seen = (x < width) & (y < height)
        axis.plot(x[seen], y[seen], ".", color="0.25", ms=2.5)
        axis.plot(x[inside], y[inside], "o", color=COLOURS[4], ms=5, zorder=5)
        draw_box(axis, corners, COLOURS[4])
        drawn[stride] = {"tokens": rows * columns, "inside": int(inside.sum())}
        axis.set_title(
            f"stride {stride}: {rows} x {columns} = {rows * columns} tokens\n"
            f"{inside.sum()} of them in the box",
            fontsize=10,
        )
    return figure, drawn
