"""How the scores of several queries for one object change from layer to layer."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array


def plot_score_by_layer(
    scores: dict, threshold: float = 0.5
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the score of each query as a proposal and after each decoder layer.

    Each line is a query, and all of them mean the same object. Those that are above the dashed line
    at the right end are detections: one is as it should be, and the others are duplicates.

    Args:
        scores: The title of each panel -> (1 + layers, n), of n queries.
        threshold: The lowest score of a detection, from 0 to 1.

    Returns:
        The figure, and the scores (1 + layers, n) of each panel.
    """
    drawn = {title: as_array(values) for title, values in scores.items()}
    figure = NotebookFigure(4.8 * len(drawn), 3.5)
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axis, (title, values) in zip(panels, drawn.items(), strict=True):
        stages = ["proposal", *(str(k) for k in range(len(values) - 1))]
        axis.axhline(threshold, color="0.5", lw=1, ls="--")
        for query, of_query in enumerate(values.T):
            axis.plot(stages, of_query, "o-", color=COLOURS[query % 6], ms=4, lw=1.8)
        n_above = int((values[-1] >= threshold).sum())
        axis.set_title(f"{title}: {n_above} of {values.shape[1]} above {threshold:g}", fontsize=11)
        axis.set(ylim=(0, 1), xlabel="after decoder layer")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("score for the object's class")
    return figure, drawn
