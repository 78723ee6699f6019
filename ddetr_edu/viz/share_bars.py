"""How several quantities are divided between the same parts: a bar for each of them."""

from collections.abc import Mapping

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, text_colour

SMALLEST_WRITTEN = 0.02  # a smaller share has no room for its number
HEIGHT = 0.5  # of a bar; the numbers stand above it, where every page can show them


def plot_shares(
    quantities: Mapping[str, Mapping[str, float]],
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a bar of equal length for each quantity, divided between the parts.

    Where a colour is wide in one bar and narrow in another, that part counts for much of the one
    quantity and for little of the other.

    Args:
        quantities: {quantity: {part: amount}}; a part that is missing has none of it.

    Returns:
        The figure, and for each quantity the shares (n,) of the parts, in the order in which they
        first occur.

    Raises:
        ValueError: If a quantity has no amount above 0, or one below.
    """
    parts = list(dict.fromkeys(part for amounts in quantities.values() for part in amounts))
    shares = {}
    for name, amounts in quantities.items():
        values = np.array([float(amounts.get(part, 0)) for part in parts])
        if values.min(initial=0) < 0 or not values.sum() > 0:
            raise ValueError(f'the amounts of "{name}" are {dict(amounts)}; they cannot be shared')
        shares[name] = values / values.sum()
    figure = NotebookFigure(9, 0.65 * len(shares) + 1.1)
    axis = figure.subplots()
    for number, part in enumerate(parts):
        colour = COLOURS[number % len(COLOURS)]
        for row, values in enumerate(shares.values()):
            start, share = values[:number].sum(), values[number]
            label = part if row == 0 else None
            axis.barh(row, share, left=start, height=HEIGHT, color=colour, label=label)
            if share >= SMALLEST_WRITTEN:
                axis.text(
                    start + share / 2,
                    row - HEIGHT / 2,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="bottom",
                    color=text_colour(),
                    fontsize=9,
                )
    axis.set(yticks=range(len(shares)), yticklabels=list(shares), xlim=(0, 1))
    axis.invert_yaxis()  # the first one on top
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
    figure.legend(loc="outside upper center", ncols=len(parts), frameon=False, fontsize=9)
    return figure, shares
