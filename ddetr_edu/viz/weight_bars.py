"""The attention weights of one query, as a table of heads by points."""

import numpy as np

from ddetr_edu.viz.style import WEIGHT_MAP, NotebookFigure, as_array

MAX_NUMBERS = 16  # points of a head, beyond which numbers would not fit into the cells


def plot_weights(weights, title: str | None = None) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a query's attention weights: a row for each head, its levels and points side by side.

    The numbers are per cent, and are left out where a head has many points.

    Args:
        weights: (M, L, P).
        title: Of the figure.

    Returns:
        The figure, and "weights" (M, L*P) and "sums" (M,), the sum of each row.

    Raises:
        ValueError: For another shape.
    """
    weights = as_array(weights)
    if weights.ndim != 3:
        raise ValueError(
            f"weights has shape {weights.shape}; it takes (M, L, P): pick a query first"
        )
    n_heads, n_levels, n_points = weights.shape
    table = weights.reshape(n_heads, -1)
    sums = table.sum(-1)
    figure = NotebookFigure(8.4, 0.34 * n_heads + 1.3)
    axis = figure.subplots()
    shown = axis.imshow(table, cmap=WEIGHT_MAP, vmin=0, vmax=table.max(), aspect="auto")
    for level in range(1, n_levels):
        axis.axvline(level * n_points - 0.5, color="white", lw=2)
    if table.shape[1] <= MAX_NUMBERS:
        for head, point in np.ndindex(table.shape):
            weight = table[head, point]
            colour = "black" if weight > 0.6 * table.max() else "white"
            number = f"{100 * weight:.0f}"
            axis.text(point, head, number, ha="center", va="center", fontsize=8, color=colour)
    axis.set(
        xticks=[level * n_points + (n_points - 1) / 2 for level in range(n_levels)],
        xticklabels=[f"level {level}: {n_points} points" for level in range(n_levels)],
        yticks=range(n_heads),
        yticklabels=[f"head {m}, sum {total:.3f}" for m, total in enumerate(sums)],
    )
    if title:
        axis.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axis, label="attention weight")
    return figure, {"weights": table, "sums": sums}
