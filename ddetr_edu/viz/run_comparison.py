"""The curves of several training runs side by side: loss, changes of the matching, and AP."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure

LAST_LAYER = ("loss_label", "loss_l1", "loss_giou")
STYLES = ("-", "--", "-.", ":")


def plot_runs(logs: dict[str, list[dict]]) -> tuple[NotebookFigure, dict[str, dict]]:
    """Draw the logs of several runs: loss of the last layer, share of changed matches, AP.

    Args:
        logs: {the name of a run: its entries, as `ddetr train --log-matches` writes them}.

    Returns:
        The figure, and for "loss", "changes" and "AP" {name: (n, 2)}, (step, value) of each point.
    """
    drawn: dict[str, dict[str, np.ndarray]] = {"loss": {}, "changes": {}, "AP": {}}
    for name, log in logs.items():
        losses = [
            (e["step"], sum(e[loss] for loss in LAST_LAYER)) for e in log if "loss_label" in e
        ]
        drawn["loss"][name] = np.array(losses).reshape(-1, 2)
        for curve, key in (("changes", "match_changes"), ("AP", "AP")):
            values = [(entry["step"], entry[key]) for entry in log if key in entry]
            drawn[curve][name] = np.array(values).reshape(-1, 2)
    labels = {
        "loss": "loss of the last layer",
        "changes": "objects with another query",
        "AP": "average precision (AP)",
    }
    figure = NotebookFigure(11, 3.7)
    panels = figure.subplots(1, 3)
    for axis, (curve, label) in zip(panels, labels.items(), strict=True):
        for k, (name, points) in enumerate(drawn[curve].items()):
            axis.plot(*points.T, STYLES[k % 4], color=COLOURS[k % 6], lw=1.6, label=name)
        axis.set(xlabel="step", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=9)
    return figure, drawn
