"""What several things are made of: a stacked bar for each, in one panel for each unit."""

from collections.abc import Mapping

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure

ORDER = (0, 1, 2, 3, 4, 5)  # of COLOURS


def plot_stacked_parts(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw bars that are stacked from parts, from left to right, with their totals.

    Args:
        panels: The title of each panel -> the name of each bar -> {part: amount}; all bars have the
            same parts.

    Returns:
        The figure, and for each panel the amounts (bars, parts).

    Raises:
        ValueError: If a bar has other parts than the first.
    """
    bars = list(next(iter(panels.values())))
    parts = list(next(iter(next(iter(panels.values())).values())))
    figure = NotebookFigure(9.6, 0.42 * len(bars) + 1.4)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    drawn = {}
    for axis, (title, amounts) in zip(axes, panels.items(), strict=True):
        if any(list(amounts[bar]) != parts for bar in bars):
            raise ValueError(f'not all bars of "{title}" have the parts {", ".join(parts)}')
        table = drawn[title] = np.array([[amounts[bar][part] for part in parts] for bar in bars])
        lefts = table.cumsum(axis=1) - table
        for k, part in enumerate(parts):
            colour = COLOURS[ORDER[k % len(ORDER)]]
            axis.barh(bars, table[:, k], left=lefts[:, k], color=colour, label=part)
        for bar, total in zip(bars, table.sum(axis=1), strict=True):
            axis.annotate(
                f"{total:,.0f}" if total >= 100 else f"{total:.1f}",
                (total, bar),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 1.13 * table.sum(axis=1).max())
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(parts),
        frameon=False,
        fontsize=9,
    )
    return figure, drawn
