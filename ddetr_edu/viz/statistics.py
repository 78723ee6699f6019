"""Offsets and weights of every attention, as numbers, as histograms, and as warnings in words."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, ink

MOST_QUERIES = 1000  # of an attention, evenly spaced: an encoder has 20,000, which are much alike


def attention_statistics(records, strengths: dict | None = None) -> list[dict]:
    """For each attention and head: how far it looks, at how many points, how much of it outside.

    records:   of `capture`
    strengths: {name of the attention: (M,)}, how large each head's output can get, if known
    Returns: for each record a dict: "name"; for each head (M,): "reach", the median over queries
        of the mean distance of its points, as a multiple of the initial star's P; "far", the same
        of the hundredth part of queries that reach farthest; "points", the mean number of points
        that count, exp of the weights' entropy: from 1 to L*P; "outside", the share of its weight
        outside the picture; "answers", how much offsets and scores differ from query to query;
        and "strength" (M,) where given.
    """
    rows = []
    for record in records:
        n_queries = record.weights.shape[1]
        some = slice(None, None, -(-n_queries // MOST_QUERIES))
        offsets, locations, weights = (
            as_array(values[:, some]).reshape(-1, *values.shape[2:]).astype(np.float32)
            for values in (record.offsets, record.locations, record.weights)
        )  # (n, M, L, P, 2), (n, M, L, P, 2), (n, M, L, P)
        n_points = weights.shape[-1]
        distance = np.abs(offsets).max(-1) / n_points  # the star ends on a square: largest of x, y
        reach = (distance * weights).sum((2, 3))  # (n, M), as the weights sum to 1
        logs = np.log(np.maximum(weights, 1e-30))
        out = ((locations < 0) | (locations > 1)).any(-1)
        row = {
            "name": record.name,
            "reach": np.median(reach, axis=0),
            "far": np.percentile(reach, 99, axis=0),
            "points": np.exp(-(weights * logs).sum((2, 3))).mean(0),
            "outside": (out * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3)),
            "answers": offsets.std(0).mean((1, 2, 3)) + weights.std(0).sum((1, 2)),
            "reaches": reach,
            "counts": np.exp(-(weights * logs).sum((2, 3))),
        }
        if strengths is not None:
            row["strength"] = as_array(strengths[record.name])
        rows.append(row)
    return rows


def warnings_of(rows: list[dict]) -> list[str]:
    """What is wrong with an attention, one sentence for each head that it is wrong with.

    The limits are wide: neither an untrained model nor a well trained one comes near them.

    rows: of `attention_statistics`
    """
    warnings = []
    for row in rows:
        answers, strength = row["answers"], row.get("strength", np.ones(1))
        # In an untrained model no head answers to its query, and none is to blame.
        silent = answers < 0.01 * answers.max() if answers.max() > 1e-3 else answers < 0
        weak = np.broadcast_to(strength < 0.01 * strength.max(), answers.shape)
        for head in range(len(answers)):
            outside, points, reach = (row[k][head] for k in ("outside", "points", "reach"))
            for wrong, words in (
                (weak[head], "dead, its output is near zero whatever it reads"),
                (silent[head], "dead, it looks the same way for every query; others do not"),
                (outside > 0.95, f"dead, {outside:.0%} of its weight lies outside the picture"),
                (points < 1.01, "collapsed weights, one point alone counts in every query"),
                (reach > 10, f"runaway offsets, {reach:.0f} times the initial star's reach"),
            ):
                if wrong:
                    warnings.append(f"{row['name']}, head {head}: {words}")
    return warnings


def plot_statistics(
    records, strengths: dict | None = None, title: str | None = None
) -> tuple[NotebookFigure, dict]:
    """Draw three columns with a line for each attention: reach, points that count, weight outside.

    Hills are histograms over queries and heads, bars and marks are the mean and the single heads.
    Warnings stand below, in words.

    records, strengths: as in `attention_statistics`
    Returns: the figure, and "rows" of `attention_statistics`, "warnings" (list of sentences), and
        "table", the rows as text.
    Raises: ValueError if there is no record.
    """
    if not len(records):
        raise ValueError("there is no record; run the model inside the block of capture")
    rows = attention_statistics(records, strengths)
    warnings = warnings_of(rows)
    most = records[0].weights[0, 0, 0].numel()
    shown = warnings[:8] + [f"... and {len(warnings) - 8} more"] * (len(warnings) > 8)
    figure = NotebookFigure(11, 0.52 * len(rows) + 1.3 + 0.2 * len(shown))
    axes = figure.subplots(1, 3, sharey=True)
    columns = (
        ("reaches", "reach", "how far it looks; 1: the first star", np.geomspace(2**-5, 2**6, 67)),
        ("counts", "points", f"points that count, of {most}", np.linspace(1, most, 67)),
        (None, "outside", "weight outside the picture", None),
    )
    for axis, (all_of, by_head, label, bins) in zip(axes, columns, strict=True):
        for i, row in enumerate(rows):
            colour = COLOURS[0] if "encoder" in row["name"] else COLOURS[1]
            base = len(rows) - 1 - i
            axis.axhline(base, color=ink(), lw=0.5, alpha=0.5)
            if all_of:
                values = row[all_of].clip(bins[0], bins[-1])
                hill, _ = np.histogram(values, bins)
                axis.stairs(base + 0.8 * hill / hill.max(), bins, baseline=base, fill=True,
                            color=colour, alpha=0.6)  # fmt: skip
                axis.plot(row[by_head].clip(bins[0], bins[-1]), np.full(len(row[by_head]), base),
                          "|", color=ink(), ms=9, mew=1.4)  # fmt: skip
            else:
                axis.barh(base + 0.3, row[by_head].mean(), 0.6, color=colour, alpha=0.6)
                axis.plot(row[by_head], np.full(len(row[by_head]), base + 0.3), "|", color=ink(),
                          ms=9, mew=1.4)  # fmt: skip
        axis.set_xlabel(label, fontsize=9)
        axis.tick_params(axis="y", length=0)
        axis.spines[["left", "right", "top"]].set_visible(False)
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    axes[0].axvline(1, color=ink(), lw=0.8, ls=":")
    axes[2].xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes[1].set_xticks(np.unique(np.linspace(1, most, 6).round()))
    axes[2].set_xlim(0, max(0.1, *(row["outside"].max() * 1.1 for row in rows)))
    axes[0].set(ylim=(-0.3, len(rows)), yticks=np.arange(len(rows)) + 0.2)
    axes[0].set_yticklabels([row["name"] for row in reversed(rows)], fontsize=9)
    text = "no warning" if not warnings else "\n".join(f"! {line}" for line in shown)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"rows": rows, "warnings": warnings, "table": table(rows)}


def table(rows: list[dict]) -> str:
    """The statistics as text: a line for each attention, means over its heads."""
    wide = max(len(row["name"]) for row in rows)
    lines = [f"{'attention':{wide}}  reach    far  points  outside"]
    lines += [
        f"{row['name']:{wide}}  {row['reach'].mean():5.2f}  {row['far'].mean():5.2f}  "
        f"{row['points'].mean():6.2f}  {row['outside'].mean():7.1%}"
        for row in rows
    ]
    return "\n".join(lines)
