"""How time and memory of dense and deformable attention grow with the number of tokens."""

import numpy as np
from matplotlib.axes import Axes

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour

MARKS = ("o", "s")  # of the first and the second kind of attention


def plot_costs(
    tokens, milliseconds: dict, kilobytes: dict
) -> tuple[NotebookFigure, dict[str, dict[str, np.ndarray]]]:
    """Draw time and memory against the number of tokens, both axes logarithmic.

    A colour stands for a kind of attention, the first word of a name; the first implementation of a
    kind is a dashed line, the second a solid one. On such axes a cost that grows with a power of
    the number of tokens is a straight line, and its slope is the exponent. The grey triangles have
    the slopes 1 and 2.

    Args:
        tokens: (n,), in ascending order.
        milliseconds: {"kind, implementation": (n,)}, NaN where it was not measured.
        kilobytes: The same names, {"kind, implementation": (n,)}.

    Returns:
        The figure, and for "time" and "memory" {name: (n, 2)}, (tokens, value) of each point drawn.
    """
    tokens = as_array(tokens)
    figure = NotebookFigure(10, 4.4)
    drawn: dict[str, dict[str, np.ndarray]] = {}
    panels = figure.subplots(1, 2)
    contents = {
        "time": ("time of a forward pass, milliseconds", milliseconds),
        "memory": ("kept for the backward pass, kilobytes", kilobytes),
    }
    for axis, (key, (label, curves)) in zip(panels, contents.items(), strict=True):
        kinds = list(dict.fromkeys(name.split(",")[0] for name in curves))
        drawn[key], seen = {}, []
        for name, values in curves.items():
            kind = name.split(",")[0]
            points = np.stack([tokens, as_array(values)], axis=1)
            points = points[~np.isnan(points[:, 1])]
            axis.plot(
                *points.T,
                MARKS[kinds.index(kind) % 2] + ("-" if kind in seen else "--"),
                color=COLOURS[2 - 2 * kinds.index(kind)] if len(kinds) <= 2 else None,
                lw=1.8,
                ms=5,
                label=name,
            )
            seen.append(kind)
            drawn[key][name] = points
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.15g}")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        _draw_slopes(axis)
    panels[0].legend(frameon=False, fontsize=9, handlelength=3.5)
    return figure, drawn


def _draw_slopes(axis: Axes) -> None:
    """Draw two triangles of one decade's width at the lower right, with the slopes 1 and 2."""
    x_high, y_low = axis.get_xlim()[1], axis.get_ylim()[0]
    right = x_high / 1.5
    left, bottom = right / 3, y_low * 1.3
    for slope in (1, 2):
        top = bottom * 3**slope
        axis.plot([left, right, right], [bottom, top, bottom], color="0.5", lw=0.9)
        axis.text(right * 1.05, top, f"{slope}", color=text_colour(), fontsize=9, va="center")
    axis.plot([left, right], [bottom, bottom], color="0.5", lw=0.9)
