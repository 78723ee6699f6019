"""Training runs beside each other: a row for each run, a column for each quantity of its log."""

from collections.abc import Mapping, Sequence

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure


def plot_run_grid(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    quantities: Mapping[str, str],
    reference: Sequence[Mapping[str, float]] | None = None,
) -> tuple[NotebookFigure, dict[str, dict[str, np.ndarray]]]:
    """Draw quantities of the logs of runs against the number of steps.

    The panels of a column have one scale. With a reference, that is the scale of the reference, and
    a curve that leaves the panel is larger.

    Args:
        runs: {title of a row: the lines of a metrics.jsonl, each with "step"}.
        quantities: {name in the log: title of a column}.
        reference: The log of a run to draw in grey in each row.

    Returns:
        The figure, and {run: {name: (n, 2) of (step, value)}}, without the reference.

    Raises:
        ValueError: If there is no run or no quantity, or if no log holds a quantity.
    """
    if not runs or not quantities:
        raise ValueError("there is nothing to draw; give at least one run and one quantity")
    drawn = {run: {name: curve_of(log, name) for name in quantities} for run, log in runs.items()}
    figure = NotebookFigure(3.1 * len(quantities) + 0.4, 1.7 * len(runs) + 0.6)
    panels = figure.subplots(len(runs), len(quantities), sharex=True, sharey="col", squeeze=False)
    for column, (name, title) in enumerate(quantities.items()):
        usual = curve_of(reference or [], name)
        if not len(usual) and not any(len(curves[name]) for curves in drawn.values()):
            raise ValueError(f'no log has "{name}"; its lines have it only if it was measured')
        for axis, curves in zip(panels[:, column], drawn.values(), strict=True):
            if len(usual):
                axis.plot(*usual.T, color="0.6", lw=1.2, marker=mark_of(usual), ms=3)
            curve = curves[name]
            axis.plot(*curve.T, color=COLOURS[0], lw=1.4, marker=mark_of(curve), ms=4)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        if len(usual):
            largest = 1.1 * usual[:, 1].max() or 1.0
        else:
            largest = None  # whatever the largest value of the column needs
        panels[0, column].set_ylim(0, largest)
        panels[0, column].set_title(title, fontsize=10)
        panels[-1, column].set_xlabel("step")
    for row, run in zip(panels, runs, strict=True):
        row[0].set_ylabel(run)
    return figure, drawn


def curve_of(log: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """One quantity of a log.

    Args:
        log: Its lines.
        name: Of the quantity; not every line need have it.

    Returns:
        (n, 2) of (step, value).
    """
    return np.array([(line["step"], line[name]) for line in log if name in line]).reshape(-1, 2)


def mark_of(curve: np.ndarray) -> str:
    """A dot for each of a few values, and none for many."""
    return "o" if len(curve) <= 12 else ""
