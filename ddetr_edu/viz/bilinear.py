"""A feature map and what bilinear sampling reads between its pixels."""

from collections.abc import Callable
from typing import SupportsFloat

import numpy as np

from ddetr_edu.viz.style import NotebookFigure, as_array


def plot_between_pixels(
    feature_map, read: Callable[[float, float], SupportsFloat], points=(), steps: int = 8
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a small map as it is stored, and what is read from it everywhere, border included.

    Convention: points are (x, y) in [0, 1] of the map, x to the right and y down.

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
    frame = (-0.5, width + 0.5, height + 0.5, -0.5)
    left.imshow(stored, extent=(0, width, height, 0), cmap="viridis", vmin=low, vmax=high)
    shown = right.imshow(between, extent=frame, cmap="viridis", vmin=low, vmax=high)
    for r in range(height):
        for c in range(width):
            left.text(
                c + 0.5,
                r + 0.5,
                f"{stored[r, c]:g}",
                ha="center",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
            right.plot(c + 0.5, r + 0.5, ".", color="white", ms=5, mec="black", mew=0.5)
    for axis, name in (
        (left, "stored: one number per pixel"),
        (right, "read: a number at every location"),
    ):
        for x, y in points:
            axis.plot(x * width, y * height, "+", color="white", ms=15, mew=4)
            axis.plot(x * width, y * height, "+", color="red", ms=14, mew=2)
        axis.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color="black", lw=1)
        axis.set(xlim=frame[:2], ylim=frame[2:], xticks=range(width + 1), yticks=range(height + 1))
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="pixels")
    figure.colorbar(shown, ax=[left, right], shrink=0.9)
    return figure, {"read": between}
