"""Average precision in detail: precision-recall curves, and AP by the size of objects."""

from typing import Any

import numpy as np
from matplotlib import colormaps

from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.style import COLOURS, WEIGHT_MAP, NotebookFigure, as_array

LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MAX_CATEGORIES = len(LINES)  # curves that can still be told apart


def plot_precision_recall(
    precision, thresholds, recalls, categories: list[str], objects, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw precision against recall: left a curve for each IoU threshold, right for each category.

    As the score threshold is lowered, recall rises (to the right), and so does the share of false
    positives (down). The area under a curve is its average precision, AP. The left panel shows
    the mean over the categories, the right one the first IoU threshold; of more than 6 categories,
    the 6 with the most objects are coloured and the others grey.

    Args:
        precision: (T, R, K), pycocotools' array for one area and one limit on detections; -1 where
            a category has no object.
        thresholds: (T,) of the IoU.
        recalls: (R,).
        categories: K names.
        objects: (K,), how many objects each category has.
        title: Of the figure.

    Returns:
        The figure, and "by_threshold" (T, R), "by_category" (K, R), -1 for a category without
        object, and the areas under them, "AP_by_threshold" (T,) and "AP_by_category" (K,).

    Raises:
        ValueError: For shapes that do not fit together, or if no category has an object.
    """
    precision, thresholds, recalls = as_array(precision), as_array(thresholds), as_array(recalls)
    expected = (len(thresholds), len(recalls), len(categories))
    if precision.shape != expected:
        raise ValueError(
            f"precision has shape {precision.shape}; with these thresholds, recalls and categories "
            f"it must be {expected}: pick an area and a limit on detections first"
        )
    measured = (precision > -1).all(axis=(0, 1))
    if not measured.any():
        raise ValueError("no category has an object, so there is no precision to draw")
    by_threshold = precision[..., measured].mean(-1)
    by_category = precision[0].T
    averages = by_threshold.mean(-1), by_category.mean(-1)

    figure = NotebookFigure(11, 4.2)
    left, right = figure.subplots(1, 2)
    # The middle of the map: its ends do not show on a dark page or on a white one.
    shades = colormaps[WEIGHT_MAP](np.linspace(0.25, 0.8, len(thresholds)))
    for threshold, curve, average, shade in zip(
        thresholds, by_threshold, averages[0], shades, strict=True
    ):
        left.plot(recalls, curve, color=shade, lw=1.6, label=f"{threshold:.2f}: AP {average:.3f}")
    left.set_title("by IoU threshold, mean over categories", fontsize=10)
    frequent = [k for k in np.argsort(-as_array(objects), kind="stable") if measured[k]]
    shown, others = frequent[:MAX_CATEGORIES], frequent[MAX_CATEGORIES:]
    right.plot(recalls, by_category[others].T, color="0.85", lw=0.8)
    for n, k in enumerate(sorted(shown, key=lambda k: -averages[1][k])):
        right.plot(
            recalls,
            by_category[k],
            color=COLOURS[n],
            ls=LINES[n],
            lw=1.8,
            label=f"{legend_name(category_text(k, categories[k]))}: AP {averages[1][k]:.3f}",
        )
    right.set_title(f"by category, at IoU {thresholds[0]:.2f}", fontsize=10)
    for axis in (left, right):
        axis.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
        axis.grid(alpha=0.3)
        axis.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, handlelength=3
        )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {
        "by_threshold": by_threshold,
        "by_category": by_category,
        "AP_by_threshold": averages[0],
        "AP_by_category": averages[1],
    }


def plot_precision_by_size(
    sizes: dict[str, dict[str, float]], title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw AP, AP50 and AP75 of objects of each size side by side.

    Args:
        sizes: {"small": {"AP", "AP50", "AP75", "objects"}, ...}; -1 where there is no object.
        title: Of the figure.

    Returns:
        The figure, and the heights of the bars by metric, nan where there is none.
    """
    metrics = ("AP50", "AP", "AP75")
    bars = {
        m: np.array([row[m] if row[m] >= 0 else np.nan for row in sizes.values()]) for m in metrics
    }
    figure = NotebookFigure(1.5 * len(sizes) + 1, 3.4)
    axis = figure.subplots()
    x = np.arange(len(sizes))
    styles = zip((-0.27, 0, 0.27), COLOURS, ("", "///", "..."), strict=False)
    for (metric, heights), (shift, colour, hatch) in zip(bars.items(), styles, strict=True):
        axis.bar(
            x + shift,
            np.nan_to_num(heights),
            0.25,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=metric,
        )
        for centre, height in zip(x + shift, heights, strict=True):
            text = "none" if np.isnan(height) else f"{height:.2f}"
            axis.annotate(
                text,
                (centre, 0 if np.isnan(height) else height),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
    axis.set(ylim=(0, 1.08), xticks=x, ylabel="average precision")
    axis.set_xticklabels(
        [f"{name}\n{row['objects']} objects" for name, row in sizes.items()], fontsize=9
    )
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    if title:
        axis.set_title(title, fontsize=10)
    return figure, bars


def legend_name(name: str) -> str:
    """The name as Matplotlib takes it for a legend, which leaves out what begins with "_"."""
    return f" {name}" if name.startswith("_") else name
