"""The same few quantities of several things: a group of bars for each quantity."""

from collections.abc import Mapping

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure

HATCHES = ("", "///", "...", "xxx", "\\\\\\")


def plot_grouped_bars(
    groups: Mapping[str, Mapping[str, float]], ylabel: str
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a group of bars for each quantity, with a colour for each thing that is compared.

    Args:
        groups: The name of a thing -> {quantity: value from 0 to 1}; all have the same quantities.
        ylabel: What the values are.

    Returns:
        The figure, and for each thing the heights of its bars.

    Raises:
        ValueError: If a thing has other quantities than the first.
    """
    quantities = list(next(iter(groups.values())))
    if any(list(values) != quantities for values in groups.values()):
        raise ValueError(f"all must have the same quantities: {', '.join(quantities)}")
    drawn = {name: np.array(list(values.values())) for name, values in groups.items()}
    width = 0.84 / len(groups)
    x = np.arange(len(quantities))
    figure = NotebookFigure(9.6, 3.6)
    axis = figure.subplots()
    for k, (name, heights) in enumerate(drawn.items()):
        centres = x + (k - (len(drawn) - 1) / 2) * width
        axis.bar(
            centres,
            heights,
            0.92 * width,
            color=COLOURS[k % len(COLOURS)],
            hatch=HATCHES[k % len(HATCHES)],
            edgecolor="white",
            label=name,
        )
        for centre, height in zip(centres, heights, strict=True):
            axis.annotate(
                f"{height:.2f}",
                (centre, height),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axis.set_xticks(x, quantities)
    axis.set(ylim=(0, 1.08), ylabel=ylabel)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(drawn), frameon=False, fontsize=9)
    return figure, drawn
