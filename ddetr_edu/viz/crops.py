"""A gallery of crops: the found box, the true box, and what is wrong between them."""

import textwrap

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_picture

TRUE = dict(color=COLOURS[0], lw=2.2)
FOUND = dict(color=COLOURS[1], lw=2.2, ls=(0, (4, 2)))
SMALLEST = 40  # px: the least side of a crop, so that small objects keep some surroundings


def plot_crops(
    rows: dict[str, list[dict]], columns: int = 6, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw rows of crops of pictures, each around its boxes; true boxes solid, found ones dashed.

    rows: {what the row shows: [{"picture", "caption", "found" and "true"}, ...]}; a box is (x1, y1,
        x2, y2) in pixels of its picture, or None; a picture is as for `plot_boxes`. Of a row no
        more than `columns` are drawn; an empty one says so.
    Returns: the figure, and for each row "windows" (n, 4), the (x1, y1, x2, y2) that its crops show
        in pixels; beyond the edge of a picture they are grey.
    Raises: ValueError for a crop without any box, or if there is no row.
    """
    if not rows:
        raise ValueError("there is no row of crops to draw")
    heights = [1.95 if crops else 0.6 for crops in rows.values()]
    figure = NotebookFigure(1.75 * columns + 0.1, sum(heights) + 0.35)
    handles = [Line2D([], [], label="true box", **TRUE), Line2D([], [], label="found", **FOUND)]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9,
                  handlelength=3.4)  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False).flat
    windows = {}
    for part, (name, crops) in zip(parts, rows.items(), strict=True):
        part.suptitle(name, fontsize=9, x=0.01, ha="left", weight="bold")
        crops = crops[:columns]
        axes = part.subplots(1, columns, squeeze=False)[0]
        windows[name] = np.array([draw_crop(axes[n], c) for n, c in enumerate(crops)])
        for axis in axes[len(crops) :]:
            axis.set_axis_off()
        if not crops:
            axes[0].annotate("none", (0.1, 0.5), xycoords="axes fraction", fontsize=9)
    return figure, windows


def draw_crop(axis, crop: dict) -> np.ndarray:
    """Draw one crop; returns its window (x1, y1, x2, y2)."""
    boxes = {name: as_array(crop[name]) for name in ("true", "found") if crop[name] is not None}
    if not boxes:
        raise ValueError(f'the crop "{crop["caption"]}" has neither a found nor a true box')
    pixels = as_picture(crop["picture"])
    height, width = pixels.shape[:2]
    window = window_around(np.stack(list(boxes.values())), width, height)
    axis.set_facecolor("0.85")
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    for name, box in boxes.items():
        x1, y1, x2, y2 = box
        style = TRUE if name == "true" else FOUND
        corner, sides = (x1, y1), (x2 - x1, y2 - y1)
        axis.add_patch(Rectangle(corner, *sides, fill=False, color="white", lw=style["lw"] + 1.6))
        axis.add_patch(Rectangle(corner, *sides, fill=False, **style))
    axis.set(xlim=window[[0, 2]], ylim=window[[3, 1]], xticks=[], yticks=[])
    lines = [textwrap.shorten(l, 27, placeholder="...") for l in crop["caption"].splitlines()]
    axis.set_xlabel("\n".join(lines), fontsize=7.5)
    return window


def window_around(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """A square (x1, y1, x2, y2), half as large again as boxes (n, 4) and around them.

    It stays within the picture, but for a narrow margin, along each side that is long enough.
    """
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    picture, margin = np.array([width, height]), 0.02 * max(width, height)
    side = min(max(1.5 * (high - low).max(), SMALLEST), max(width, height) + 2 * margin)
    start = np.clip((low + high - side) / 2, -margin, np.maximum(-margin, picture + margin - side))
    start = np.where(side > picture + 2 * margin, (picture - side) / 2, start)
    return np.concatenate([start, start + side])
