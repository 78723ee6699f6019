"""Where in an image sampling points fall over the border: a map for each level."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, panel_grid

WIDTH = 3.4  # of a panel, in inches


def plot_outside_by_level(
    outside,
    spatial_shapes: list[tuple[int, int]],
    locations,
    reference_point,
    title: str | None = None,
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw, for tokens all over the image, which share of their points on a level lies outside.

    The darker a token, the more of its points are outside. The points of one token are drawn on
    top: dots inside the image, crosses outside.

    Convention: (x, y) as fractions of the image; outside is beyond [0, 1] in x or y.

    Args:
        outside: (rows, columns, M, L, P) bool, for a grid of tokens that covers the image.
        spatial_shapes: (H, W) of each level.
        locations: (M, L, P, 2), of the token that is drawn.
        reference_point: (2,) (x, y), its own.
        title: Of the figure.

    Returns:
        The figure, and "shares" (L, rows, columns), the share outside of each token, and "means"
        (L,), of all of them.

    Raises:
        ValueError: If the number of levels differs.
    """
    outside, locations = as_array(outside), as_array(locations)
    if not outside.shape[3] == len(spatial_shapes) == locations.shape[1]:
        raise ValueError(
            f"outside has {outside.shape[3]} levels, locations {locations.shape[1]} and "
            f"spatial_shapes {len(spatial_shapes)}; give as many of each"
        )
    shares = outside.mean((2, 4)).transpose(2, 0, 1)  # (L, rows, columns)
    means = shares.mean((1, 2))
    rows, columns = shares.shape[1:]
    x, y = locations[..., 0] * columns, locations[..., 1] * rows  # (M, L, P), in tokens
    low = np.minimum([x.min(), y.min()], 0) - 0.03 * columns
    high = np.maximum([x.max(), y.max()], [columns, rows]) + 0.03 * columns
    figure, panels = panel_grid(
        len(shares),
        (high[1] - low[1]) / (high[0] - low[0]),
        width=WIDTH,
        columns=2,
        title_height=0.35,
        margin=0.5 if title else 0.1,
    )
    for level, axis in enumerate(panels):
        shown = axis.imshow(
            shares[level], extent=(0, columns, rows, 0), cmap="Oranges", vmin=0, vmax=1
        )
        there = ((locations[:, level] < 0) | (locations[:, level] > 1)).any(-1)
        here = x[:, level], y[:, level]
        axis.plot(*(v[~there] for v in here), "o", color=COLOURS[0], ms=4, mec="white", mew=0.5)
        axis.plot(*(v[there] for v in here), "x", color=COLOURS[4], ms=5, mew=1.5)
        reference = as_array(reference_point) * [columns, rows]
        axis.plot(*reference, "+", color="black", ms=12, mew=2)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        height, width = spatial_shapes[level]
        axis.set_title(
            f"level {level}, {height} x {width}: {means[level]:.0%} outside", fontsize=10
        )
    figure.colorbar(shown, ax=panels, shrink=0.8, label="share of a token's points outside")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"shares": shares, "means": means}
