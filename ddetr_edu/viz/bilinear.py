"""A feature map and what bilinear sampling reads between its pixels."""

from collections.abc import Callable
from typing import SupportsFloat

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import NotebookFigure, as_array


def plot_between_pixels(
    feature_map, read: Callable[[float, float], SupportsFloat], points=(), steps: int = 8
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a small map as it is stored, and what is read from it everywhere, border included.

    Convention: points are (x, y) in [0, 1] of the map, x to the right and y down; the axes count
    pixels from centre to centre.

    Args:
        feature_map: (H, W).
        read: Samples the map at (x, y).
        points: (k, 2), marked in both panels.
        steps: How many samples to take for each pixel, across and down.

    Returns:
        The figure, and "read" ((H+1)*steps, (W+1)*steps), the numbers read: from half a pixel
        before the first pixel to half a pixel after the last.
    """
    stored = as_array(feature_map)
    height, width = stored.shape
    columns = (np.arange((width + 1) * steps) + 0.5) / steps - 0.5
    rows = (np.arange((height + 1) * steps) + 0.5) / steps - 0.5
    between = np.array([[float(read(c / width, r / height)) for c in columns] for r in rows])
    figure = NotebookFigure(8.4, 3.6)
    left, right = figure.subplots(1, 2)
    low, high = min(0.0, stored.min()), stored.max()
    frame = (-1, width, height, -1)
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    left.imshow(stored, extent=edges, cmap="viridis", vmin=low, vmax=high)
    shown = right.imshow(between, extent=frame, cmap="viridis", vmin=low, vmax=high)
    for r in range(height):
        for c in range(width):
            left.text(
                c,
                r,
                f"{stored[r, c]:.3g}",
                ha="center",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
            right.plot(c, r, ".", color="white", ms=5, mec="black", mew=0.5)
    for axis, name in (
        (left, "stored: a number for each pixel"),
        (right, "sampled: a number at every location"),
    ):
        for x, y in points:
            axis.plot(x * width - 0.5, y * height - 0.5, "+", color="white", ms=15, mew=4)
            axis.plot(x * width - 0.5, y * height - 0.5, "+", color="red", ms=14, mew=2)
        axis.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="black"))
        axis.set(xlim=frame[:2], ylim=frame[2:], xticks=range(width), yticks=range(height))
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="x_pixel", ylabel="y_pixel")
    figure.colorbar(shown, ax=[left, right], shrink=0.9)
    return figure, {"read": between}
