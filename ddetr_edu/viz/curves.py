"""The curves of a training run: its losses and its average precision."""

import json
from pathlib import Path

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure

LOSSES = {"loss_label": "class", "loss_l1": "L1", "loss_giou": "GIoU"}


def plot_curves(
    log: str | Path, path: str | Path | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a run's metrics.jsonl: the last layer's losses on the left, AP on the right.

    Args:
        log: The metrics.jsonl.
        path: Where to write the figure as PNG, if given.

    Returns:
        The figure, and for each curve (n, 2) of (step, value).
    """
    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    curves = {
        name: np.array([(l["step"], l[name]) for l in lines if name in l]).reshape(-1, 2)
        for name in (*LOSSES, "AP", "AP50")
    }
    figure = NotebookFigure(9, 3.4)
    left, right = figure.subplots(1, 2, sharex=True)
    for colour, (name, label) in zip(COLOURS, LOSSES.items(), strict=False):
        if len(curves[name]):
            left.plot(*curves[name].T, color=colour, lw=1.2, label=label)
    left.set(xlabel="step", ylabel="weighted loss of the last layer", ylim=(0, None))
    for colour, style, name in zip(COLOURS, ("o-", "s--"), ("AP50", "AP"), strict=False):
        if len(curves[name]):
            right.plot(*curves[name].T, style, color=colour, label=name)
    right.set(xlabel="step", ylabel="average precision, validation set", ylim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False)
    if path:
        figure.savefig(path)
    return figure, curves
