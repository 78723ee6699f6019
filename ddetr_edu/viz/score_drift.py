"""How the scores of an image's detections change with the size of its batch."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array


def plot_score_drift(
    widths, scores: dict, threshold: float = 0.5
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the score of each detection of one image against the width of its batch.

    Each line is a detection. The dashed line is the threshold below which it is left out.

    Args:
        widths: (K,), of the batch in pixels, in ascending order.
        scores: The title of each panel -> (K, n), of n detections in each batch.
        threshold: From 0 to 1.

    Returns:
        The figure, and the scores (K, n) of each panel.

    Raises:
        ValueError: For scores of another number of batches than there are widths.
    """
    widths = as_array(widths)
    drawn = {title: as_array(values) for title, values in scores.items()}
    figure = NotebookFigure(9.6, 3.4)
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axis, (title, values) in zip(panels, drawn.items(), strict=True):
        if values.shape[0] != len(widths):
            raise ValueError(
                f'"{title}" has scores in {values.shape[0]} batches, but there are {len(widths)} '
                "widths"
            )
        axis.axhline(threshold, color="0.5", lw=1, ls="--")
        for k, of_detection in enumerate(values.T):
            axis.plot(widths, of_detection, "o-", color=COLOURS[k % 6], ms=4, lw=1.8)
        axis.set(xlabel="width of the batch, pixels", xticks=widths, ylim=(0, 1))
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("score of a detection")
    return figure, drawn
