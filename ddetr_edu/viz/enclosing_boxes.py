"""Pairs of boxes in the box that encloses both: what GIoU measures."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour

MARGIN = 0.25  # around the boxes of a panel, in their own units


def plot_enclosing_boxes(
    pairs: Mapping[str, tuple],
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw pairs of boxes; what neither covers of their enclosing box is hatched.

    Above each panel is the IoU, minus the hatched fraction of the enclosing box, which is the GIoU.
    Convention: x to the right and y down, as in an image. All panels have one scale.

    Args:
        pairs: The title of each panel -> two boxes (4,) (x1, y1, x2, y2).

    Returns:
        The figure, and "iou" (n,), "empty" (n,), the hatched fraction of each enclosing box, and
        "giou" (n,), their difference.

    Raises:
        ValueError: For a box without an area.
    """
    boxes = np.array([[as_array(box) for box in pair] for pair in pairs.values()], dtype=float)
    if (boxes[..., 2:] <= boxes[..., :2]).any():
        raise ValueError("each box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2")
    low, high = boxes[..., :2].min(1), boxes[..., 2:].max(1)  # (n, 2), of the enclosing boxes
    widths, heights = (high - low + 2 * MARGIN).T
    figure = NotebookFigure(9.6, 9.6 * heights.max() / widths.sum() + 1.0)
    panels = figure.subplots(1, len(pairs), squeeze=False, width_ratios=widths)[0]
    iou, empty = np.zeros(len(pairs)), np.zeros(len(pairs))
    for n, (axis, title) in enumerate(zip(panels, pairs, strict=True)):
        empty[n] = _hatch_what_is_empty(axis, boxes[n]) / np.prod(high[n] - low[n])
        overlap = boxes[n, :, 2:].min(0) - boxes[n, :, :2].max(0)
        intersection = np.prod(overlap.clip(0))
        union = np.prod(boxes[n, :, 2:] - boxes[n, :, :2], axis=-1).sum() - intersection
        iou[n] = intersection / union
        for (x1, y1, x2, y2), colour in zip(boxes[n], COLOURS[:2], strict=True):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, color=colour, alpha=0.45, lw=0))
        axis.add_patch(
            Rectangle(low[n], *(high[n] - low[n]), fill=False, ls="--", lw=1.4, ec=text_colour())
        )
        middle, reach = (low[n] + high[n]) / 2, heights.max() / 2
        axis.set(xlim=(low[n, 0] - MARGIN, high[n, 0] + MARGIN), xticks=[], yticks=[])
        axis.set(ylim=(middle[1] + reach, middle[1] - reach), aspect="equal")
        axis.spines[:].set_visible(False)
        giou = f"{iou[n] - empty[n]:.2f}".replace("-", "−")
        axis.set_title(f"{title}\n{iou[n]:.2f} − {empty[n]:.2f} = {giou}", fontsize=10)
    return figure, {"iou": iou, "empty": empty, "giou": iou - empty}


def _hatch_what_is_empty(axis: Axes, boxes: np.ndarray) -> float:
    """Hatch the part of the enclosing box that neither of two boxes covers; returns its area."""
    xs, ys = np.unique(boxes[:, ::2]), np.unique(boxes[:, 1::2])
    area = 0.0
    for left, right in zip(xs[:-1], xs[1:], strict=True):
        for top, bottom in zip(ys[:-1], ys[1:], strict=True):
            middle = np.array([left + right, top + bottom]) / 2
            if ((boxes[:, :2] < middle) & (middle < boxes[:, 2:])).all(1).any():
                continue
            axis.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, hatch="//", lw=0)
            )
            area += (right - left) * (bottom - top)
    return area
