"""The five steps of deformable attention for one query, on a map of colours."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ddetr_edu.viz.style import (
    COLOURS,
    HEAD_MARKS,
    NotebookFigure,
    as_array,
    draw_cross,
    show_image,
)

PALE = "#FFF2B8"  # not white, which would be left out on the page
GAP = 0.6  # between the points of the panel I, in pixels of the map


def plot_five_steps(
    value, reference_point, offsets, weights, locations, samples, output
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw what each of the five steps gives for one query, a panel for each step.

    Offsets as arrows, weights as bars, locations on the map, the four pixels around each location
    with the colour that is read between them, and the weighted sum of each head: a bar whose parts
    are as wide as the weights, over the colour that they add up to.

    Convention: (x, y), x to the right and y down; half-pixel centres; black outside the map.

    Args:
        value: (H, W, 3), the map that is read, in [0, 1]: red, green, blue.
        reference_point: (2,), as fractions of the map.
        offsets: (M, P, 2), in pixels of the map.
        weights: (M, P).
        locations: (M, P, 2), as fractions of the map.
        samples: (M, P, 3), the colours that are read.
        output: (M, 3), the sum of each head.

    Returns:
        The figure, and "points" (M, P, 2) in pixels of the map, "around" (M, P, 2, 2, 3), the four
        pixels of each, and "inside" (M, P, 2), where the point lies among them, from 0 to 1.

    Raises:
        ValueError: For a map without three channels.
    """
    value, reference, offsets, weights, locations, samples, output = map(
        as_array, (value, reference_point, offsets, weights, locations, samples, output)
    )
    if value.ndim != 3 or value.shape[-1] != 3:
        raise ValueError(f"value has shape {value.shape}; it takes (H, W, 3), a map of colours")
    size = np.array(value.shape[1::-1])  # (W, H)
    points = locations * size
    around, inside = _pixels_around(value, points)

    figure = NotebookFigure(8.6, 6.6)
    panels = figure.subplot_mosaic([["O", "W", "L"], ["I", "I", "A"]], height_ratios=[1.25, 1])
    _draw_offsets(panels["O"], offsets)
    _draw_weights(panels["W"], weights)
    _draw_locations(panels["L"], value, reference * size, points)
    _draw_interpolation(panels["I"], around, inside, samples)
    _draw_aggregation(panels["A"], samples, weights, output)
    titles = {
        "O": "offsets, in pixels of the map",
        "W": "weights",
        "L": "locations on the map",
        "I": "interpolation: four pixels, one colour",
        "A": "aggregation",
    }
    for letter, title in titles.items():
        panels[letter].set_title(f"{letter} · {title}", fontsize=10)
    return figure, {"points": points, "around": around, "inside": inside}


def _pixels_around(value: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels around each point, black outside the map, and where it lies among them."""
    corner = np.floor(points - 0.5).astype(int)  # the column and row of the upper left one
    columns, rows = np.moveaxis(corner, -1, 0)
    rows = rows[..., None, None] + np.arange(2)[:, None]  # (M, P, 2, 1)
    columns = columns[..., None, None] + np.arange(2)  # (M, P, 1, 2)
    height, width = value.shape[:2]
    exists = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = value[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return found * exists[..., None], points - 0.5 - corner


def _colour(head: int) -> str:
    return COLOURS[(0, 4, 2, 3)[head % 4]]


def _draw_point(axis: Axes, where: np.ndarray, head: int, point: int) -> None:
    """A point in the colour and with the mark of its head, and its number."""
    mark, colour = HEAD_MARKS[head % len(HEAD_MARKS)], _colour(head)
    axis.plot(*where, mark, color=colour, ms=11, mec=PALE, mew=1, zorder=6, clip_on=False)
    style: dict[str, Any] = dict(
        ha="center", va="center_baseline", size=8, weight="bold", color=PALE, zorder=7
    )
    axis.text(float(where[0]), float(where[1]), str(point), **style)


def _draw_offsets(axis: Axes, offsets: np.ndarray) -> None:
    reach = np.abs(offsets).max() + 1.2
    for head, point in np.ndindex(offsets.shape[:2]):
        dx, dy = offsets[head, point]
        axis.plot([0, dx], [0, dy], lw=1.6, color=_colour(head))
        _draw_point(axis, offsets[head, point], head, point)
        text = f"{dx:.1f}, {dy:.1f}".replace("-", "\N{MINUS SIGN}")
        beyond = (0, -14 if dy > 0 else 14)  # away from the cross
        style: dict[str, Any] = dict(textcoords="offset points", ha="center", va="center", size=8)
        axis.annotate(text, (dx, dy), beyond, **style)
    axis.plot(0, 0, "+", color="black", ms=14, mew=1.8)
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def _draw_weights(axis: Axes, weights: np.ndarray) -> None:
    n_heads, n_points = weights.shape
    for head, point in np.ndindex(weights.shape):
        where = head * (n_points + 0.8) + point
        weight = float(weights[head, point])
        axis.barh(where, weight, 0.7, color=_colour(head))
        axis.text(weight + 0.03, where, f"{weight:.2f}", va="center", size=8)
    names = [f"head {m}, point {p}" for m, p in np.ndindex(weights.shape)]
    axis.set(
        xlim=(0, 1.2),
        xticks=[0, 0.5, 1],
        yticks=[m * (n_points + 0.8) + p for m, p in np.ndindex(weights.shape)],
        yticklabels=names,
    )
    axis.tick_params(labelsize=8)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


def _draw_locations(
    axis: Axes, value: np.ndarray, reference: np.ndarray, points: np.ndarray
) -> None:
    show_image(axis, value)
    for head, point in np.ndindex(points.shape[:2]):
        x, y = points[head, point]
        for colour, lw in (("white", 2.6), (_colour(head), 1.4)):
            axis.plot([reference[0], x], [reference[1], y], color=colour, lw=lw, zorder=3)
        _draw_point(axis, points[head, point], head, point)
    draw_cross(axis, reference, size=12)


def _show_colour(axis: Axes, colour: np.ndarray, left: float, right: float, rows: tuple) -> None:
    """A patch of one colour; an image, because a figure's grey patches would become ink."""
    axis.imshow(colour[None, None], extent=(left, right, rows[1], rows[0]), vmin=0, vmax=1)
    xs, ys = [left, right, right, left, left], [rows[0], rows[0], rows[1], rows[1], rows[0]]
    axis.plot(xs, ys, color="0.5", lw=0.8)


def _draw_arrow(axis: Axes, x: float, y1: float, y2: float) -> None:
    axis.annotate("", (x, y2), (x, y1), arrowprops=dict(arrowstyle="->", color="black"))


def _draw_interpolation(
    axis: Axes, around: np.ndarray, inside: np.ndarray, samples: np.ndarray
) -> None:
    step = 2 + GAP
    for k, (head, point) in enumerate(np.ndindex(samples.shape[:2])):
        left = k * step
        axis.imshow(around[head, point], extent=(left, left + 2, 2, 0), interpolation="nearest")
        # The centres of the pixels are at 0.5 and 1.5.
        _draw_point(axis, inside[head, point] + (left + 0.5, 0.5), head, point)
        _draw_arrow(axis, left + 1, 2.1, 2.85)
        _show_colour(axis, samples[head, point], left + 0.5, left + 1.5, (2.95, 3.95))
        axis.text(left + 1, 4.2, f"head {head}, point {point}", ha="center", va="top", size=8)
    axis.set(xlim=(-0.1, len(inside) * samples.shape[1] * step), ylim=(4.7, -0.1), aspect="equal")
    axis.set_axis_off()


def _draw_aggregation(
    axis: Axes, samples: np.ndarray, weights: np.ndarray, output: np.ndarray
) -> None:
    for head, colour in enumerate(output):
        start = 1.2 * head
        edges = start + np.append(0, weights[head].cumsum())
        for point, (left, right) in enumerate(zip(edges, edges[1:], strict=False)):
            _show_colour(axis, samples[head, point], left, right, (0, 0.35))
        _draw_arrow(axis, start + 0.5, 0.39, 0.66)
        _show_colour(axis, colour, start, start + 1, (0.7, 1.3))
        numbers = " ".join(f"{channel:.2f}" for channel in colour)
        axis.text(start + 0.5, 1.38, f"head {head}\n{numbers}", ha="center", va="top", size=8)
    axis.set(xlim=(-0.05, 1.2 * len(output) - 0.15), ylim=(1.95, -0.05), aspect="equal")
    axis.set_axis_off()
