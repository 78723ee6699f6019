"""Texts at boxes, none on top of another."""

from unicodedata import east_asian_width

import numpy as np
from matplotlib.axes import Axes

FONT_SIZE = 8  # points


def letters_of(text: str) -> float:
    """How many average letters a text is wide: one of Chinese, Japanese or Korean is wider."""
    return sum(1.6 if east_asian_width(character) in "WF" else 1.0 for character in text)


def label_boxes(axis: Axes, boxes: np.ndarray, texts: list[str], colours: list[str]) -> None:
    """Write a text at each box, at the first of its corners where there is no other text yet.

    That is above the upper left corner, unless the upper edge of the panel leaves no room. Where
    every corner is taken, as in a crowd of boxes, the text is left out.

    Args:
        axis: The panel.
        boxes: (n, 4) (x1, y1, x2, y2) in the panel's own units, y down.
        texts: (n,); an empty one takes up room, but is not written.
        colours: (n,) of the borders of the texts.
    """
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    figure, place = axis.get_figure(root=True), axis.get_subplotspec()
    assert figure is not None and place is not None
    panel_width = figure.get_figwidth() / place.get_gridspec().ncols  # in inches
    per_point = (right - left) / (72 * panel_width)
    height = 1.75 * FONT_SIZE * per_point
    taken: list[np.ndarray] = []
    for (x1, y1, x2, y2), text, colour in zip(boxes, texts, colours, strict=True):
        width = (0.68 * FONT_SIZE * letters_of(text) + 6) * per_point  # and a margin
        corners = [
            (x1, y1, "left", "bottom"),
            (x1, y2, "left", "top"),
            (x2, y1, "right", "bottom"),
            (x2, y2, "right", "top"),
            (x1, y1, "left", "top"),
            (x1, y2, "left", "bottom"),
        ]
        if y1 - top <= 0.06 * (bottom - top):
            corners.insert(0, corners.pop(4))  # below the box's upper edge
        areas = [
            np.array([x - width * (across == "right"), y - height * (along == "bottom")])
            + np.array([[0, 0], [width, height]])
            for x, y, across, along in corners
        ]  # the upper left and the lower right corner of the text
        free = [
            n
            for n, (low, high) in enumerate(areas)
            if not any((low < b).all() and (a < high).all() for a, b in taken)
        ]
        if not free:
            continue
        inside = [
            n
            for n in free
            if (areas[n][0] >= (left, top)).all() and (areas[n][1] <= (right, bottom)).all()
        ]
        best = (inside or free)[0]
        taken.append(areas[best])
        x, y, across, along = corners[best]
        if text:
            step = (1 if across == "left" else -1, 2 if along == "bottom" else -2)
            axis.annotate(
                text,
                (x, y),
                xytext=step,
                textcoords="offset points",
                fontsize=FONT_SIZE,
                color="black",
                ha=across,
                va=along,
                zorder=7,
                bbox=dict(facecolor="white", edgecolor=colour, pad=1.2, alpha=0.85),
            )
