"""Which query each object is matched with in the course of a training."""

import colorsys

import numpy as np
from matplotlib.ticker import MaxNLocator

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array

GOLDEN = 0.618034  # neighbouring queries get hues that are far apart
NO_QUERY = (0.6, 0.6, 0.6)


def plot_match_history(
    steps, queries, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the query of each object at several steps of a training, and how many have changed.

    Each row of the lower panel is an object, each column a step, and each colour a query (grey: no
    query). A row of one colour is an object that keeps its query. The line above is the share of
    the objects whose colour differs from that of the column before.

    Args:
        steps: (E,), in ascending order.
        queries: (E, T), the number of the query of each object, -1 for none.
        title: Of the figure.

    Returns:
        The figure, and "queries" (E, T) and "changes" (E - 1,), the shares.

    Raises:
        ValueError: For another number of steps than of matchings.
    """
    steps, queries = as_array(steps), as_array(queries)
    if len(steps) != len(queries):
        raise ValueError(f"{len(queries)} matchings came with {len(steps)} steps; give one each")
    changes = (queries[1:] != queries[:-1]).mean(axis=1)
    colours = np.array([_colour(query) for query in queries.T.flat])
    figure = NotebookFigure(9.6, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])
    above.plot(np.arange(1, len(steps)), changes, "o-", color=COLOURS[0], ms=3.5, lw=1.4)
    above.set(ylabel="changed", ylim=(0, 1), yticks=[0, 0.5, 1])
    above.set_yticklabels(["0%", "50%", "100%"])
    above.grid(alpha=0.3)
    above.spines[["top", "right"]].set_visible(False)
    below.imshow(
        colours.reshape(*queries.T.shape, 3), aspect="auto", interpolation="nearest", origin="upper"
    )
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 6)).round().astype(int))
    is_round = np.isin(steps, MaxNLocator(5).tick_values(steps[0], steps[-1]))
    if len(steps) > 6 and is_round.sum() > 1:
        shown = np.flatnonzero(is_round)
    below.set_xticks(shown, [f"{steps[k]}" for k in shown])
    below.set(xlabel="step", ylabel="object", yticks=[])
    if title:
        above.set_title(title, fontsize=11)
    return figure, {"queries": queries, "changes": changes}


def _colour(query: int) -> tuple[float, float, float]:
    """A hue for each query; consecutive ones differ in brightness, too."""
    if query < 0:
        return NO_QUERY
    return colorsys.hsv_to_rgb(query * GOLDEN % 1, 0.75, (0.95, 0.7, 0.5)[query % 3])
