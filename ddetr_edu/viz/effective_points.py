"""How many of its points count for each head of several attentions, over many queries."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour

ROW_HEIGHT = 0.2  # of a head, in inches
QUANTILES = (0.1, 0.25, 0.75, 0.9)


def plot_effective_points(
    effective: dict, n_points: int, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the effective number of points of each head: its mean, and how queries differ.

    A head has a row. The thick bar holds the middle half of its queries, the thin line eight in
    ten, and the dot is the mean. At the dotted line, all points would have equal weights.

    Args:
        effective: The name of an attention -> the effective number of points of each query and
            head, (n, M).
        n_points: L*P, the largest effective number there can be.
        title: Of the figure.

    Returns:
        The figure, and for each attention its means (M,), and under "quantiles" those of all
        rows from the top (rows, 4).

    Raises:
        ValueError: For another shape, or a number beyond 1 to n_points.
    """
    tables = {name: as_array(values) for name, values in effective.items()}
    for name, values in tables.items():
        if values.ndim != 2 or not values.size:
            raise ValueError(f'"{name}" has shape {values.shape}; it takes (n, M), n queries or 1')
        if values.min() < 0.999 or values.max() > 1.001 * n_points:
            raise ValueError(
                f'"{name}" goes from {values.min():.3g} to {values.max():.3g}; effective numbers '
                f"of {n_points} points are from 1 to {n_points}"
            )
    n_rows = sum(values.shape[1] for values in tables.values())
    figure = NotebookFigure(8.6, ROW_HEIGHT * (n_rows + 0.6 * len(tables)) + 0.9)
    axis = figure.subplots()
    y, ticks, labels, drawn, quantiles = 0.0, [], [], {}, []
    for k, (name, values) in enumerate(tables.items()):
        colour = COLOURS[k % len(COLOURS)]
        drawn[name] = values.mean(0)
        for m, of_head in enumerate(values.T):
            low, first, third, high = np.quantile(of_head, QUANTILES)
            quantiles.append((low, first, third, high))
            axis.plot([low, high], [y, y], color=colour, lw=1.2, solid_capstyle="butt")
            axis.plot([first, third], [y, y], color=colour, lw=5, solid_capstyle="butt")
            axis.plot(drawn[name][m], y, "o", color=colour, mec="white", ms=7, zorder=4)
            ticks.append(y)
            labels.append(f"{name}, head {m}" if m == 0 else f"head {m}")
            y += 1
        y += 0.6
    axis.axvline(n_points, color=text_colour(), lw=1, ls=":")
    axis.set(yticks=ticks, yticklabels=labels, ylim=(y - 0.8, -0.8), xlim=(0.8, n_points + 0.2))
    axis.set_xticks(range(1, n_points + 1))
    axis.set_xlabel(f"effective number of points, of {n_points}")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", lw=0.5, alpha=0.4)
    axis.spines[["left", "right", "top"]].set_visible(False)
    if title:
        axis.set_title(title, fontsize=11)
    drawn["quantiles"] = np.array(quantiles)
    return figure, drawn
