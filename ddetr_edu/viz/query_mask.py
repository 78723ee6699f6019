"""Which query may attend to which: the attention mask of a decoder with added queries."""

import numpy as np
from matplotlib.colors import to_rgb

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array

BLOCKED = (0.93, 0.93, 0.93)


def plot_query_mask(
    attn_mask, sizes: dict[str, int], padding=None, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw an attention mask as a table: the query of a row may attend to that of a coloured cell.

    Each part of the queries has a colour, which is that of the columns that belong to it. Grey
    cells are blocked, and columns of padding are hatched.

    Args:
        attn_mask: (Lq, Lq) bool, True = blocked: the row does not attend to the column.
        sizes: {the name of a part: how many queries it has}, in the order of the queries.
        padding: (Lq,) bool, True for the queries that stand for no object.
        title: Of the figure.

    Returns:
        The figure, and "allowed" (Lq, Lq) bool.

    Raises:
        ValueError: If the parts do not have as many queries as the mask.
    """
    allowed = ~as_array(attn_mask).astype(bool)
    n_queries, total = len(allowed), sum(sizes.values())
    if total != n_queries:
        raise ValueError(f"the parts have {total} queries, but the mask has {n_queries}")
    parts = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    palette = np.array([to_rgb(COLOURS[part % 6]) for part in range(len(sizes))])
    cells = np.where(allowed[..., None], palette[parts][None], BLOCKED)
    figure = NotebookFigure(6.4, 5.8 + (0.3 if title else 0))
    axis = figure.subplots()
    axis.imshow(cells, extent=(0, n_queries, n_queries, 0), interpolation="nearest")
    for k in range(n_queries + 1):
        is_border = k in np.cumsum([0, *sizes.values()])
        for line in (axis.axhline, axis.axvline):
            line(k, color="black" if is_border else "white", lw=1.6 if is_border else 0.8)
    hatched = [] if padding is None else np.flatnonzero(as_array(padding)).tolist()
    for column in hatched:
        axis.axvspan(column, column + 1, facecolor="none", edgecolor="0.45", hatch="////", lw=0)
    ends = np.cumsum(list(sizes.values()))
    middles = ends - np.array(list(sizes.values())) / 2
    axis.set_xticks(middles, list(sizes), fontsize=9)
    axis.set_yticks(middles, list(sizes), fontsize=9, rotation=90, va="center")
    axis.tick_params(length=0)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set(xlabel="is attended to", ylabel="attends")
    if title:
        axis.set_title(title, fontsize=11)
    return figure, {"allowed": allowed}
