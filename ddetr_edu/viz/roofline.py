"""The roofline of a machine, with operations under it."""

from collections.abc import Mapping

import numpy as np

from ddetr_edu.viz.style import COLOURS, LEVEL_MARKS, NotebookFigure, as_array, text_colour


def plot_roofline(
    peak: float, bandwidth: float, points: Mapping
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the arithmetic that was attained against the arithmetic for each byte.

    The sloping line is what memory allows: so many bytes per second, and for each of them as many
    FLOPs as the axis below says. The level line is what the arithmetic units allow. Under the slope
    an operation waits for memory, right of the corner for arithmetic; how far a point lies below
    the roof is what could be gained without changing the operation itself. Both axes are
    logarithmic.

    Args:
        peak: Billions of FLOPs per second.
        bandwidth: Billions of bytes per second.
        points: {operation: (FLOPs per byte, billions of FLOPs per second)}, all positive.

    Returns:
        The figure, and "roof" (3, 2), its left end, its corner and its right end, and "points"
        (n, 2), in the order given.

    Raises:
        ValueError: If a number is not positive: it has no place on a logarithmic axis.
    """
    drawn = np.array([as_array(point) for point in points.values()], dtype=float).reshape(-1, 2)
    if not (peak > 0 and bandwidth > 0 and (drawn > 0).all()):
        raise ValueError("peak, bandwidth and all points must be positive on logarithmic axes")
    corner = peak / bandwidth
    left = min([corner, *drawn[:, 0]]) / 3
    right = max([corner, *drawn[:, 0]]) * 3
    roof = np.array([[left, bandwidth * left], [corner, peak], [right, peak]])
    figure = NotebookFigure(8.6, 4.2)
    axis = figure.subplots()
    axis.plot(*roof.T, color=text_colour(), lw=1.6)
    for number, (name, (x, y)) in enumerate(zip(points, drawn, strict=True)):
        roof_above = min(peak, bandwidth * x)
        axis.plot([x, x], [y, roof_above], color="0.5", lw=0.9, ls=":")
        axis.plot(
            x,
            y,
            LEVEL_MARKS[number % len(LEVEL_MARKS)],
            color=COLOURS[number % (len(COLOURS) - 1)],  # the last one is black
            ms=8,
            ls="none",
            label=f"{name}: {y / roof_above:.0%} of the roof",
        )
    axis.annotate(
        f"memory: {bandwidth:.3g} GB/s",
        (np.sqrt(left * corner), bandwidth * np.sqrt(left * corner)),
        xytext=(-8, 8),
        textcoords="offset points",
        ha="right",
        color=text_colour(),
        fontsize=9,
    )
    axis.annotate(
        f"arithmetic: {peak:.3g} GFLOP/s",
        (right, peak),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
        color=text_colour(),
        fontsize=9,
    )
    axis.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="GFLOP/s attained")
    axis.margins(y=0.15)
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_formatter(lambda value, _: f"{value:,.15g}")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if points:
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure, {"roof": roof, "points": drawn}
