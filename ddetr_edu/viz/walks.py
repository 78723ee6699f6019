"""Points that walk on the surface which bilinear sampling stretches over a feature map."""

from collections.abc import Callable
from typing import Any, SupportsFloat

import numpy as np
from matplotlib import colormaps

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array

PATHS = (COLOURS[4], COLOURS[1], COLOURS[3], COLOURS[5])  # seen on the surface and on the page


def plot_walks(
    feature_map, read: Callable[[float, float], SupportsFloat], paths, names: list[str]
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw paths on the surface of the sampled values, and the value along each path.

    Convention: positions are (x_pixel, y_pixel), whole numbers at pixel centres, y down.

    Args:
        feature_map: (H, W).
        read: Samples the map at (x, y) in [0, 1].
        paths: (T, k, 2), the k positions at each of T steps.
        names: (k,) of the points.

    Returns:
        The figure, and "paths" (T, k, 2) and "values" (T, k), what each point samples.
    """
    height, width = as_array(feature_map).shape
    paths = as_array(paths)

    def value(x_pixel: float, y_pixel: float) -> float:
        return float(read((x_pixel + 0.5) / width, (y_pixel + 0.5) / height))

    values = np.array([[value(*position) for position in step] for step in paths])
    columns = np.linspace(-1, width, 6 * (width + 1) + 1)
    rows = np.linspace(-1, height, 6 * (height + 1) + 1)
    surface = np.array([[value(c, r) for c in columns] for r in rows])
    figure = NotebookFigure(10.4, 4.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(1.9, 1))
    hills: Any = figure.add_subplot(grid[0], projection="3d", computed_zorder=False)
    steps = figure.add_subplot(grid[1])
    shade = colormaps["viridis"]((surface - surface.min()) / np.ptp(surface))
    hills.plot_surface(
        *np.meshgrid(columns, rows),
        surface,
        facecolors=shade,
        shade=False,
        rstride=1,
        cstride=1,
        lw=0,
        antialiased=False,
    )
    for k, name in enumerate(names):
        colour = PATHS[k % len(PATHS)]
        start = (*paths[0, k], values[0, k])
        hills.plot(*paths[:, k].T, values[:, k], color=colour, lw=2.2, zorder=3)
        hills.plot(*([at] for at in start), "o", color=colour, mec="black", ms=7, zorder=4)
        hills.text(*start, f"  {name}", fontsize=12, weight="bold", color=colour, zorder=5)
        steps.plot(values[:, k], color=colour, lw=2)
        steps.annotate(
            name,
            (len(values) - 1, values[-1, k]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
            color=colour,
        )
    hills.set(
        xlabel="x_pixel", ylabel="y_pixel", zlabel="value", ylim=(height, -1), xlim=(-1, width)
    )
    hills.set_box_aspect((width + 1, height + 1, 4), zoom=1.05)
    for axis in (hills.xaxis, hills.yaxis, hills.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
    hills.view_init(elev=50, azim=-70)
    steps.set(xlabel="step", ylabel="value that the point samples")
    steps.spines[["top", "right"]].set_visible(False)
    return figure, {"paths": paths, "values": values}
