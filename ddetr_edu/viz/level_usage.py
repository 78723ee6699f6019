"""Which levels are used for which sizes of objects."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, LEVEL_MARKS, NotebookFigure, as_array, text_colour


def plot_level_usage_by_size(
    sides, mass, strides=None, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the share of attention weight that each level gets, against the size of the object.

    A mark is one object on one level; the lines are means over objects of similar size (an eighth
    of them each, or fewer). If the line of a level rises to the right, larger objects use more of
    that level.

    Args:
        sides: (n,), the square root of the area of each object's box, in px.
        mass: (n, L), the attention weight on each level, in any unit.
        strides: (L,), px of the image between two pixels of each level, for the legend.
        title: Of the figure.

    Returns:
        The figure, and "sides" (n,) in rising order, "shares" (n, L) with rows that sum to 1;
        "mean_sides" (b,) and "mean_shares" (b, L) of the lines.

    Raises:
        ValueError: If there is no object or the shapes do not fit.
    """
    sides, mass = as_array(sides), as_array(mass)
    if mass.ndim != 2 or len(mass) != len(sides) or not len(sides):
        raise ValueError(
            f"sides has shape {sides.shape} and mass {mass.shape}; they are (n,) and (n, L) of at "
            "least one object: lower the threshold if there is no detection"
        )
    order = np.argsort(sides, kind="stable")
    sides, shares = sides[order], (mass / mass.sum(-1, keepdims=True))[order]
    groups = np.array_split(np.arange(len(sides)), min(8, -(-len(sides) // 3)))
    mean_sides = np.array([np.exp(np.log(sides[g]).mean()) for g in groups])
    mean_shares = np.array([shares[g].mean(0) for g in groups])
    figure = NotebookFigure(7.6, 4.2)
    axis = figure.subplots()
    for level in range(shares.shape[1]):
        colour, mark = COLOURS[level % len(COLOURS)], LEVEL_MARKS[level % len(LEVEL_MARKS)]
        name = f"level {level}" + ("" if strides is None else f", stride {strides[level]:.0f} px")
        axis.plot(sides, shares[:, level], mark, color=colour, ms=4, alpha=0.35, mew=0)
        axis.plot(
            mean_sides,
            mean_shares[:, level],
            mark,
            ls="-",
            color=colour,
            lw=2,
            ms=8,
            mec="black",
            mew=0.6,
            label=name,
        )
    axis.axhline(1 / shares.shape[1], color=text_colour(), lw=0.8, ls=":", label="uniform")
    axis.set_xscale("log", base=2)
    axis.set_xlim(sides[0] / 1.3, sides[-1] * 1.3)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.set(
        xlabel="square root of the box's area, px",
        ylim=(0, None),
        ylabel="share of the query's attention weight",
    )
    axis.grid(alpha=0.3)
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9
    )
    if title:
        axis.set_title(title, fontsize=11)
    return figure, {
        "sides": sides,
        "shares": shares,
        "mean_sides": mean_sides,
        "mean_shares": mean_shares,
    }
