"""Several sets of sampling points over the same image, side by side."""

import numpy as np

from ddetr_edu.viz.style import (
    NotebookFigure,
    as_array,
    as_image_array,
    draw_cross,
    draw_points,
    faded,
    panel_grid,
    show_image,
)


def plot_point_panels(
    image, reference_point, points: dict[str, tuple], reach: float | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the sampling points of one query as several attentions place them, a panel for each.

    The cross is the reference point. A dot is the larger and the brighter, the more it counts; all
    heads and levels are in one panel.

    Convention: locations are (x, y), fractions of the image, x to the right and y down.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        reference_point: (2,) (x, y) or (4,) (cx, cy, w, h), as fractions of the image.
        points: {title: (locations (M, L, P, 2), weights (M, L, P))}.
        reach: Show only what is at most so many pixels of the image left, right, above and below
            the reference point; without it, the whole image.

    Returns:
        The figure, and {title: locations (M*L*P, 2) in pixels of the image}.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    scale = np.array([width, height])
    figure, panels = panel_grid(
        len(points),
        1 if reach else height / width,
        width=2.1,
        columns=4,
        colour_bar=0.2,
        margin=0.1,
    )
    x, y = as_array(reference_point)[:2] * scale
    largest = max(float(as_array(weights).max()) for _, weights in points.values())
    drawn = {}
    for axis, (title, (locations, weights)) in zip(panels, points.items(), strict=True):
        here, weight = as_array(locations).reshape(-1, 2) * scale, as_array(weights).reshape(-1)
        show_image(axis, faded(pixels))
        draw_points(axis, here, weight, largest)
        draw_cross(axis, np.array([x, y]))
        if reach:
            axis.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
        axis.set_title(title, fontsize=10)
        drawn[title] = here
    return figure, drawn
