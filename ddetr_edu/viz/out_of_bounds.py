"""Sampling points outside the image, where only zeros are read: how many, and where."""

import numpy as np

from ddetr_edu.viz.style import NotebookFigure, as_array, as_image_array, faded, text_colour

REACH = 0.5  # how much of an image's size beyond its border is drawn
CELLS = 64  # along each side of the density
CLAY = (0.84, 0.37, 0.0)  # of the density; shows on a light and on a dark page


def plot_out_of_bounds(
    image, locations, weights, names: list[str] | None = None, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw where the attention weight of many queries falls, in the image and beyond its border.

    On the left is the density of the weight, every attention counting the same. On the right is,
    for each attention and level, the share of the weight on points outside.

    Convention: (x, y) as fractions of the image; outside is beyond [0, 1] in x or y.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        locations: For each attention (n, M, L, P, 2), of n queries.
        weights: For each attention (n, M, L, P).
        names: Of the attentions; "layer 0", "layer 1", ... if None.
        title: Of the figure.

    Returns:
        The figure, and by attention and level (attentions, L): "points", the share of points
        outside, and "weights", the share of the weight there; "beyond", how many points lie too
        far outside to be drawn; and "density" (rows, columns), the weight in each cell of the left
        panel.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    locations, weights = [as_array(l) for l in locations], [as_array(w) for w in weights]
    for location, weight in zip(locations, weights, strict=True):
        if weight.ndim != 4 or location.shape != (*weight.shape, 2):
            raise ValueError(
                f"locations has shape {location.shape} and weights {weight.shape}; for each "
                "attention they are (n, M, L, P, 2) and (n, M, L, P): pick an image first"
            )
    names = names or [f"layer {i}" for i in range(len(locations))]
    outside = [((l < 0) | (l > 1)).any(-1) for l in locations]  # (n, M, L, P) each
    points = np.array([o.mean((0, 1, 3)) for o in outside])
    lost = np.array(
        [(o * w).sum((0, 1, 3)) / w.sum((0, 1, 3)) for o, w in zip(outside, weights, strict=True)]
    )
    lost = np.nan_to_num(lost)  # a level without any weight loses none
    density, beyond = np.zeros((CELLS, CELLS)), 0
    low, high = -REACH, 1 + REACH
    for location, weight in zip(locations, weights, strict=True):
        x, y = location.reshape(-1, 2).T
        share = weight.ravel() / weight.sum()
        density += np.histogram2d(y, x, CELLS, [[low, high]] * 2, weights=share)[0]
        beyond += int(((x < low) | (x > high) | (y < low) | (y > high)).sum())

    n_rows, n_levels = lost.shape
    panel_width = 5.0 if width >= height else 3.8
    figure = NotebookFigure(
        panel_width + 2.2 + 0.55 * n_levels, max(panel_width * height / width, 0.34 * n_rows) + 0.9
    )
    left, right = figure.subplots(1, 2, width_ratios=[panel_width, 0.55 * n_levels + 0.3])
    extent = (low * width, high * width, high * height, low * height)
    left.imshow(faded(pixels), extent=(0, width, height, 0))
    opacity = 0.9 * (density / density.max()) ** 0.35
    coloured = np.dstack([np.broadcast_to(CLAY, (CELLS, CELLS, 3)), opacity])
    left.imshow(coloured, extent=extent, interpolation="bilinear")
    left.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color=text_colour(), lw=1.5)
    left.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], aspect="equal")
    left.spines[:].set_alpha(0.3)
    total = np.mean([(o * w).sum() / w.sum() for o, w in zip(outside, weights, strict=True)])
    more = f"; {beyond} points are beyond this figure" if beyond else ""
    left.set_title(f"{total:.1%} of the weight is outside the image{more}", fontsize=10)
    right.imshow(lost, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for layer, level in np.ndindex(lost.shape):
        right.text(
            level,
            layer,
            f"{lost[layer, level]:.0%}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if lost[layer, level] > 0.6 else "black",
        )
    right.set(xticks=range(n_levels), yticks=range(n_rows), xlabel="level")
    right.set_yticklabels(names, fontsize=9)
    right.set_title("weight outside, by level", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"points": points, "weights": lost, "beyond": beyond, "density": density}
