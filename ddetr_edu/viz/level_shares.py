"""What share each level has, by the size of objects, in stacked bars."""

from collections.abc import Sequence

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array


def plot_level_shares(
    sides, shares: dict, edges: Sequence[float]
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the mean share of each level for objects of several ranges of size, side by side.

    A bar is a range of sizes, and its colours are the levels, the finest at the bottom. If level 0
    had to do with small objects only, its colour would fill the left bars and be gone on the right.

    Args:
        sides: (n,), the square root of the area of each object's box, in px.
        shares: The title of a panel -> (n, L), rows that sum to 1.
        edges: The limits between the ranges of sizes, in px, rising.

    Returns:
        The figure; "counts" (b,), the objects in each of the b ranges that have any, and for each
        panel the mean shares (b, L).

    Raises:
        ValueError: If there is no object, or shapes do not fit.
    """
    sides = as_array(sides)
    tables = {name: as_array(values) for name, values in shares.items()}
    for name, values in tables.items():
        if values.ndim != 2 or len(values) != len(sides) or not len(sides):
            raise ValueError(
                f'sides has shape {sides.shape} and the shares of "{name}" {values.shape}; they '
                "are (n,) and (n, L) of at least one object"
            )
    limits = [0, *edges, np.inf]
    ranges = [(low, high) for low, high in zip(limits, limits[1:], strict=False)]
    groups = [(sides >= low) & (sides < high) for low, high in ranges]
    kept = [k for k, group in enumerate(groups) if group.any()]
    labels = [_describe_range(*ranges[k]) for k in kept]
    drawn = {"counts": np.array([groups[k].sum() for k in kept])}
    figure = NotebookFigure(4.6 * len(tables) + 0.9, 3.6)
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for axis, (name, values) in zip(panels, tables.items(), strict=True):
        means = drawn[name] = np.array([values[groups[k]].mean(0) for k in kept])
        bottoms = np.cumsum(means, axis=1) - means
        for level in range(means.shape[1]):
            axis.bar(
                labels,
                means[:, level],
                bottom=bottoms[:, level],
                color=COLOURS[level % len(COLOURS)],
                label=f"level {level}",
            )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("side of the object, px")
        axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylim=(0, 1), ylabel="share")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure, drawn


def _describe_range(low: float, high: float) -> str:
    if low == 0:
        return f"< {high:g}"
    return f"≥ {low:g}" if high == np.inf else f"{low:g}-{high:g}"
