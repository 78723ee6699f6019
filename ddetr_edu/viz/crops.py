"""Crops of images around a predicted box and its ground truth, to see what is wrong."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_image_array

GROUND_TRUTH: dict[str, Any] = dict(color=COLOURS[0], lw=2.2)
PREDICTED: dict[str, Any] = dict(color=COLOURS[1], lw=2.2, ls=(0, (4, 2)))
MIN_SIDE = 40  # px of a crop, so that small objects keep some context


def plot_crops(
    rows: dict[str, list[dict]], columns: int = 6, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw rows of crops of images, each around its boxes: ground truth solid, predictions dashed.

    Args:
        rows: {what the row shows: [{"image", "caption", "predicted", "ground_truth"}, ...]}. A box
            is (x1, y1, x2, y2) in pixels of its image, or None; an image is as for `plot_boxes`.
        columns: Of each row at most so many crops are drawn.
        title: Of the figure.

    Returns:
        The figure, and for each row (n, 4), the windows (x1, y1, x2, y2) that its crops show, in
        pixels; beyond the edge of an image they are grey, and in a notebook empty.

    Raises:
        ValueError: For a crop without any box, or if there is no row.
    """
    if not rows:
        raise ValueError("there is no row of crops to draw")
    heights = [1.95 if crops else 0.6 for crops in rows.values()]
    figure = NotebookFigure(1.75 * columns + 0.1, sum(heights) + 0.35)
    handles = [
        Line2D([], [], label="ground truth", **GROUND_TRUTH),
        Line2D([], [], label="predicted box", **PREDICTED),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=9,
        handlelength=3.4,
    )
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


def draw_crop(axis: Axes, crop: dict) -> np.ndarray:
    """Draw one crop.

    Args:
        axis: The panel to draw into.
        crop: As in the rows of `plot_crops`.

    Returns:
        Its window (x1, y1, x2, y2).

    Raises:
        ValueError: If it has no box.
    """
    kinds = ("ground_truth", "predicted")
    boxes = {kind: as_array(crop[kind]) for kind in kinds if crop[kind] is not None}
    if not boxes:
        raise ValueError(f'the crop "{crop["caption"]}" has neither a predicted nor a true box')
    pixels = as_image_array(crop["image"])
    height, width = pixels.shape[:2]
    window = window_around(np.stack(list(boxes.values())), width, height)
    axis.set_facecolor("0.85")
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    for kind, box in boxes.items():
        x1, y1, x2, y2 = box
        style = GROUND_TRUTH if kind == "ground_truth" else PREDICTED
        corner, sides = (x1, y1), (x2 - x1, y2 - y1)
        axis.add_patch(Rectangle(corner, *sides, fill=False, color="white", lw=style["lw"] + 1.6))
        axis.add_patch(Rectangle(corner, *sides, fill=False, **style))
    axis.set(xlim=window[[0, 2]], ylim=window[[3, 1]], xticks=[], yticks=[])
    lines = [textwrap.shorten(l, 27, placeholder="...") for l in crop["caption"].splitlines()]
    axis.set_xlabel("\n".join(lines), fontsize=7.5)
    return window


def window_around(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Choose a square window around boxes, 1.5 times as large as they are.

    It stays within the image, except for a narrow margin, along each side that is long enough.

    Args:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels of the image.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        (4,) (x1, y1, x2, y2).
    """
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    image, margin = np.array([width, height]), 0.02 * max(width, height)
    side = min(max(1.5 * (high - low).max(), MIN_SIDE), max(width, height) + 2 * margin)
    start = np.clip((low + high - side) / 2, -margin, np.maximum(-margin, image + margin - side))
    start = np.where(side > image + 2 * margin, (image - side) / 2, start)
    return np.concatenate([start, start + side])
