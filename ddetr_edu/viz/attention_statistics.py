"""Offsets and weights of every attention, as numbers, as histograms, and as warnings in words."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour

MAX_QUERIES = 1000  # of an attention, evenly spaced: an encoder has 20,000, which are much alike


def attention_statistics(records, head_norms: dict | None = None) -> list[dict[str, Any]]:
    """Measure how far each head samples, at how many points, and how much of it is outside.

    Args:
        records: As of `capture`.
        head_norms: {name of the attention: (M,)}, how large the output of each head can get, if
            known.

    Returns:
        For each record a dict: "name"; for each head (M,): "reach", the median over queries of the
        mean distance of its points, as a multiple of the reach P of the initial star; "reach_p99",
        the 99th percentile instead of the median; "effective_points", the mean over queries of exp
        of the entropy of the weights, from 1 to L*P; "outside", the share of its weight outside
        the image; "query_sensitivity", how much offsets and weights differ from query to query;
        "head_norm", if given; and for each query and head (n, M): "reach_by_query" and
        "effective_points_by_query".
    """
    rows = []
    for record in records:
        n_queries = record.weights.shape[1]
        sample = slice(None, None, -(-n_queries // MAX_QUERIES))
        offsets, locations, weights = (
            as_array(values[:, sample]).reshape(-1, *values.shape[2:]).astype(np.float32)
            for values in (record.offsets, record.locations, record.weights)
        )  # (n, M, L, P, 2), (n, M, L, P, 2), (n, M, L, P)
        n_points = weights.shape[-1]
        distance = np.abs(offsets).max(-1) / n_points  # the star ends on a square: largest of x, y
        reach = (distance * weights).sum((2, 3))  # (n, M), as the weights sum to 1
        log_weights = np.log(np.maximum(weights, 1e-30))
        effective_points = np.exp(-(weights * log_weights).sum((2, 3)))  # (n, M)
        outside = ((locations < 0) | (locations > 1)).any(-1)
        row = {
            "name": record.name,
            "reach": np.median(reach, axis=0),
            "reach_p99": np.percentile(reach, 99, axis=0),
            "effective_points": effective_points.mean(0),
            "outside": (outside * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3)),
            "query_sensitivity": offsets.std(0).mean((1, 2, 3)) + weights.std(0).sum((1, 2)),
            "reach_by_query": reach,
            "effective_points_by_query": effective_points,
        }
        if head_norms is not None:
            row["head_norm"] = as_array(head_norms[record.name])
        rows.append(row)
    return rows


def attention_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Say what is wrong with an attention, in one sentence for each affected head.

    The limits are wide: neither an untrained model nor a well-trained one comes near them.

    Args:
        rows: As of `attention_statistics`.

    Returns:
        The warnings.
    """
    warnings = []
    for row in rows:
        sensitivity, norm = row["query_sensitivity"], row.get("head_norm", np.ones(1))
        # In an untrained model no head depends on its query, and none is to blame.
        trained = sensitivity.max() > 1e-3
        constant = sensitivity < 0.01 * sensitivity.max() if trained else sensitivity < 0
        weak = np.broadcast_to(norm < 0.01 * norm.max(), sensitivity.shape)
        for head in range(len(sensitivity)):
            outside, points, reach = (
                row[key][head] for key in ("outside", "effective_points", "reach")
            )
            for wrong, words in (
                (weak[head], "dead, its output is near zero whatever it reads"),
                (constant[head], "dead, it samples the same way for every query; others do not"),
                (outside > 0.95, f"dead, {outside:.0%} of its weight lies outside the image"),
                (points < 1.01, "collapsed weights, a single point has all the weight"),
                (reach > 10, f"runaway offsets, {reach:.0f} times the reach of the initial star"),
            ):
                if wrong:
                    warnings.append(f"{row['name']}, head {head}: {words}")
    return warnings


def plot_statistics(
    records, head_norms: dict | None = None, title: str | None = None
) -> tuple[NotebookFigure, dict[str, Any]]:
    """Draw reach, effective points and weight outside the image, one line for each attention.

    The first two columns are histograms over queries and heads, and the bars of the third are
    means; short lines are single heads. Warnings are written below.

    Args:
        records: As of `capture`.
        head_norms: As for `attention_statistics`.
        title: Of the figure.

    Returns:
        The figure, and "rows" of `attention_statistics`, "warnings", a list of sentences, and
        "table", the rows as text.

    Raises:
        ValueError: If there is no record.
    """
    if not len(records):
        raise ValueError("there is no record; run the model inside the block of capture")
    rows = attention_statistics(records, head_norms)
    warnings = attention_warnings(rows)
    max_points = records[0].weights[0, 0, 0].numel()
    shown = [f"Warning: {line}" for line in warnings[:8]] or ["No warnings"]
    if len(warnings) > 8:
        shown.append(f"... and {len(warnings) - 8} more")
    figure = NotebookFigure(11, 0.52 * len(rows) + 1.1 + 0.2 * len(shown))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    _draw_histograms(left, rows, "reach", np.geomspace(2**-5, 2**6, 67))
    _draw_histograms(middle, rows, "effective_points", np.linspace(1, max_points, 67))
    for line, row in _lines(rows):
        right.barh(line + 0.3, row["outside"].mean(), 0.6, color=_colour(row), alpha=0.6)
        _draw_heads(right, row["outside"], line + 0.3)
    for axis, label in (
        (left, "reach, as a multiple of the initial star's"),
        (middle, f"effective number of points, of {max_points}"),
        (right, "share of the weight outside the image"),
    ):
        for line, _ in _lines(rows):
            axis.axhline(line, color=text_colour(), lw=0.5, alpha=0.5)
        axis.set_xlabel(label, fontsize=9)
        axis.tick_params(axis="y", length=0)
        axis.spines[["left", "right", "top"]].set_visible(False)
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    left.axvline(1, color=text_colour(), lw=0.8, ls=":")
    middle.set_xticks(np.unique(np.linspace(1, max_points, 6).round()))
    right.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    right.set_xlim(0, max(0.1, *(row["outside"].max() * 1.1 for row in rows)))
    left.set(ylim=(-0.3, len(rows)), yticks=np.arange(len(rows)) + 0.2)
    left.set_yticklabels([row["name"] for row in reversed(rows)], fontsize=9)
    figure.supxlabel("\n".join(shown), x=0.01, ha="left", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"rows": rows, "warnings": warnings, "table": format_table(rows)}


def _lines(rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The line of the figure that each row stands on: the first row at the top."""
    return [(len(rows) - 1 - i, row) for i, row in enumerate(rows)]


def _colour(row: dict[str, Any]) -> str:
    return COLOURS[0] if "encoder" in row["name"] else COLOURS[1]


def _draw_histograms(axis: Axes, rows: list[dict[str, Any]], key: str, bins: np.ndarray) -> None:
    """One histogram over queries and heads on the line of each row, with marks of the heads."""
    for line, row in _lines(rows):
        counts, _ = np.histogram(row[f"{key}_by_query"].clip(bins[0], bins[-1]), bins)
        heights = line + 0.8 * counts / counts.max()
        axis.stairs(heights, bins, baseline=line, fill=True, color=_colour(row), alpha=0.6)
        _draw_heads(axis, row[key].clip(bins[0], bins[-1]), line)


def _draw_heads(axis: Axes, values: np.ndarray, y: float) -> None:
    """A short vertical line for each head."""
    axis.plot(values, np.full(len(values), y), "|", color=text_colour(), ms=9, mew=1.4)


def format_table(rows: list[dict[str, Any]]) -> str:
    """Write the statistics as text.

    Args:
        rows: As of `attention_statistics`.

    Returns:
        A heading, and a line for each attention with the means over its heads.
    """
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'attention':{width}}  reach  reach p99  effective points  outside"]
    lines += [
        f"{row['name']:{width}}  {row['reach'].mean():5.2f}  {row['reach_p99'].mean():9.2f}  "
        f"{row['effective_points'].mean():16.2f}  {row['outside'].mean():7.1%}"
        for row in rows
    ]
    return "\n".join(lines)
