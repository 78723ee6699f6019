"""A data set at a glance: its categories, the sizes of its objects, and objects per image."""

from typing import Any

import numpy as np

from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array

MAX_CATEGORIES = 20  # bars that can still be read


def plot_dataset(
    splits: dict[str, dict], categories: dict[int, str], title: str | None = None
) -> tuple[NotebookFigure, dict[str, dict[str, np.ndarray]]]:
    """Draw three panels: objects by category, by size, and per image, each split in its colour.

    Shares are drawn, not numbers, so that a small split can be compared with a large one.

    Args:
        splits: {name: {"labels": (objects,), "areas": (objects,) in px^2, "counts": (images,)}}.
        categories: {label: name}; the 20 with the most objects are shown.
        title: Of the figure.

    Returns:
        The figure, and for each split the heights of its bars: "categories" (c,), "sizes" and
        "counts", and "labels" (c,), the categories in the order drawn.

    Raises:
        ValueError: If there is no object at all.
    """
    arrays = {name: {k: as_array(v) for k, v in s.items()} for name, s in splits.items()}
    labels = np.concatenate([np.zeros(0), *(s["labels"] for s in arrays.values())])
    if not len(labels):
        raise ValueError("there is no object to draw in this data set")
    number = {label: (labels == label).sum() for label in categories}
    shown = sorted((l for l in number if number[l]), key=lambda l: -number[l])[:MAX_CATEGORIES]
    sides = {name: np.sqrt(s["areas"]).clip(1) for name, s in arrays.items()}
    every = np.log2(np.concatenate(list(sides.values())))
    side_bins = 2 ** np.arange(np.floor(every.min()), every.max() + 0.51, 0.5)
    max_count = max(s["counts"].max(initial=0) for s in arrays.values())
    bin_width = -(-(max_count + 1) // 25)  # numbers of objects in one bin
    count_bins = np.arange(0, max_count + 1 + bin_width, bin_width) - 0.5

    figure = NotebookFigure(11, max(3.4, 0.2 * len(shown) + 1.2))
    left, middle, right = figure.subplots(1, 3)
    drawn = {}
    height = 0.8 / len(arrays)
    for n, (name, split) in enumerate(arrays.items()):
        objects, images = max(1, len(split["labels"])), max(1, len(split["counts"]))
        bars = {
            "labels": np.array(shown),
            "categories": np.array([(split["labels"] == l).sum() for l in shown]) / objects,
            "sizes": np.histogram(sides[name], side_bins)[0] / objects,
            "counts": np.histogram(split["counts"], count_bins)[0] / images,
        }
        colour = COLOURS[n % len(COLOURS)]
        y = np.arange(len(shown)) + (n - (len(arrays) - 1) / 2) * height
        left.barh(y, bars["categories"], height, color=colour, label=name)
        style: dict[str, Any] = dict(color=colour, lw=1.6, label=name)
        middle.stairs(bars["sizes"], side_bins, **style)
        right.stairs(bars["counts"], count_bins, **style)
        drawn[name] = bars
    left.set(xlabel="share of the objects", yticks=np.arange(len(shown)))
    left.set_yticklabels([category_text(l, categories[l]) for l in shown], fontsize=8)
    left.invert_yaxis()
    middle.set_xscale("log", base=2)
    middle.set(xlabel="square root of the area, px", ylabel="share of the objects")
    middle.xaxis.set_major_formatter("{x:.0f}")
    for side in (32, 96):  # COCO's small | medium | large
        middle.axvline(side, color="0.6", lw=1, ls="--")
    for word, x, align in (
        ("small", 30.0, "right"),
        ("medium", 55.4, "center"),
        ("large", 102.0, "left"),
    ):
        middle.annotate(word, (x, 1.01), xycoords=("data", "axes fraction"), ha=align, fontsize=8)
    right.set(xlabel="objects per image", ylabel="share of the images")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    right.legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, drawn
