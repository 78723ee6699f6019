"""The tokens of all levels that cover one pixel of an image."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_image_array, draw_box, faded, show_image


def plot_covering_tokens(
    image, spatial_shapes: list[tuple[int, int]], row: int, column: int
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the token of each level that covers a pixel: its outline, and its centre as a dot.

    Convention: a level of (H, W) divides the image into H rows and W columns of equal size, and a
    token covers the pixels whose centres lie in its cell.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        spatial_shapes: (H, W) of each level.
        row: Of the pixel, from 0.
        column: Of the pixel, from 0.

    Returns:
        The figure, and for each level "tokens" (L, 2), the token's (row, column), and "boxes"
        (L, 4), what it covers, (x1, y1, x2, y2) in pixels of the image.

    Raises:
        ValueError: If the image has no such pixel.
    """
    pixels = as_image_array(image)
    size = np.array(pixels.shape[:2])  # (H, W)
    pixel = np.array([row, column])
    if (pixel < 0).any() or (pixel >= size).any():
        raise ValueError(
            f"there is no pixel ({row}, {column}) in an image of {size[0]} x {size[1]} pixels"
        )
    shapes = np.array(spatial_shapes)  # (L, 2)
    tokens = np.floor((pixel + 0.5) / size * shapes).astype(int)
    cell = size / shapes
    corners = np.stack([tokens * cell, (tokens + 1) * cell], axis=1)  # (L, 2, 2), (y, x)
    boxes = corners[..., ::-1].reshape(-1, 4)
    figure = NotebookFigure(7.4, 5.0 * size[0] / size[1] + 0.2)
    axis = figure.subplots()
    show_image(axis, faded(pixels))
    colours = [COLOURS[level % len(COLOURS)] for level in range(len(shapes))]
    for box, colour in zip(boxes[::-1], colours[::-1], strict=True):  # small ones above large ones
        draw_box(axis, box, colour, lw=1.6)
    for level, (box, token, colour) in enumerate(zip(boxes, tokens, colours, strict=True)):
        label = f"level {level}: token ({token[0]}, {token[1]})"
        centre = (box[:2] + box[2:]) / 2
        axis.plot(*centre, "o", color=colour, mec="white", mew=0.6, ms=5, label=label, zorder=5)
    axis.plot(column + 0.5, row + 0.5, "x", color="red", ms=5, mew=1.4, zorder=6, label="the pixel")
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure, {"tokens": tokens, "boxes": boxes}
