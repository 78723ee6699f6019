"""Two conventions for where the pixels of a map are, drawn side by side.

Lesson 02 is about this module.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
FRAME = COLOURS[3]  # of the scale from 0 to 1


def pixel_position(fraction, size, align_corners: bool = False):
    """Convert a fraction of a side to a position in pixels: i at the centre of pixel i.

    Convention: without align_corners, 0 and 1 are the outer edges of the first and the last pixel,
    and each pixel is 1 / size wide. With it, 0 and 1 are the centres of these two pixels.

    Args:
        fraction: A number, an array or a tensor; 0 to 1 inside the map.
        size: How many pixels the side has; must broadcast with fraction.
        align_corners: The convention, under the name that torch gives it.

    Returns:
        What fraction is.
    """
    return fraction * (size - 1) if align_corners else fraction * size - 0.5


def plot_pixel_conventions(
    points, shape: tuple[int, int]
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the same points on the same small map, by either convention.

    Convention: points are (x, y) in [0, 1] of the map, x to the right and y down.

    Args:
        points: (k, 2).
        shape: (H, W) of the map.

    Returns:
        The figure, and the points (k, 2) as positions (x, y) in pixels: "edges" if 0 and 1 are the
        edges of the map, "centres" if they are the centres of its outer pixels.
    """
    points = as_array(points)
    size = np.array(shape[::-1])  # (W, H)
    drawn = {
        "edges": pixel_position(points, size),
        "centres": pixel_position(points, size, align_corners=True),
    }
    figure = NotebookFigure(9.4, 9.4 / 2 * shape[0] / shape[1] + 0.7)
    for axis, (name, positions) in zip(figure.subplots(1, 2), drawn.items(), strict=True):
        align_corners = name == "centres"
        _draw_map(axis, shape, align_corners)
        for k, (x, y) in enumerate(positions):
            colour = COLOURS[k % len(COLOURS)]
            axis.plot(x, y, "P", color=colour, ms=13, mec="white", zorder=4)
        ends = "outer edges" if name == "edges" else "outer pixel centres"
        axis.set_title(f"align_corners={align_corners}: 0 and 1 are the {ends}", fontsize=11)
    return figure, drawn


def _draw_map(axis: Axes, shape: tuple[int, int], align_corners: bool) -> None:
    """Draw the pixels of a map, their centres, and the square from (0, 0) to (1, 1)."""
    height, width = shape
    for row in range(height):
        for column in range(width):
            corner = (column - 0.5, row - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, facecolor="0.5", alpha=0.25, edgecolor="none"))
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="0.5", lw=1))
            axis.plot(column, row, "o", color=text_colour(), ms=4)
    low = pixel_position(0, 1, align_corners)  # the same for both sides
    size = np.array([width, height]) - (1 if align_corners else 0)
    axis.add_patch(Rectangle((low, low), *size, fill=False, edgecolor=FRAME, lw=2, zorder=3))
    axis.set(xlim=(-0.7, width - 0.3), ylim=(height - 0.3, -0.7), aspect="equal")
    axis.set(xticks=range(width), yticks=range(height), xlabel="column", ylabel="row")
    axis.spines[:].set_visible(False)
    top, right = axis.secondary_xaxis("top"), axis.secondary_yaxis("right")
    for scale, side in ((top, width), (right, height)):
        ticks = pixel_position(np.array(FRACTIONS), side, align_corners)
        scale.set_ticks(ticks, [f"{fraction:g}" for fraction in FRACTIONS])
        scale.tick_params(colors=FRAME)
        scale.spines[:].set_visible(False)
    top.set_xlabel("x", color=FRAME)
    right.set_ylabel("y", color=FRAME)


def plot_convention_shift(
    image_size: tuple[int, int], spatial_shapes: list[tuple[int, int]]
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw how far a point moves, along x, from one convention to the other.

    Args:
        image_size: (H, W) of the image, in pixels.
        spatial_shapes: (H, W) of each level.

    Returns:
        The figure, "x" (k,), and for each level and x (L, k) how far the point moves to the right
        if align_corners becomes true: in pixels "of the map" and in pixels "of the image".
    """
    x = np.linspace(0, 1, 101)
    widths = np.array([[width] for _, width in spatial_shapes])  # (L, 1)
    of_the_map = pixel_position(x, widths, align_corners=True) - pixel_position(x, widths)
    drawn = {"of the map": of_the_map, "of the image": of_the_map * image_size[1] / widths}
    figure = NotebookFigure(9.4, 3.6)
    for axis, (unit, shifts) in zip(figure.subplots(1, 2), drawn.items(), strict=True):
        for level, shift in enumerate(shifts):
            # On the left the lines lie upon one another: thick below, thin above.
            lw = 2.0 if unit == "of the image" else 9 - 2 * level
            label = f"level {level}, {spatial_shapes[level][1]} pixels wide"
            axis.plot(x, shift, color=COLOURS[level], lw=lw, label=label)
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set(xlabel="x, as a fraction of the width", ylabel=f"moved by, pixels {unit}")
        axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=9)
    return figure, {"x": x, **drawn}
