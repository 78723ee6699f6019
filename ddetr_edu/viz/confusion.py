"""A confusion matrix of a detector."""

import numpy as np

from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.style import NotebookFigure, as_array

MAX_CATEGORIES = 20  # rows that can still be read


def plot_confusion(
    matrix, categories: list[str], title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a confusion matrix: rows are the ground truth, columns the predicted classes.

    Colours are shares of a row, numbers are counts. The background column holds the missed objects,
    and the background row the detections without an object: there is none, or it has a better
    detection.

    Args:
        matrix: (K+1, K+1) counts, as of `confusion_matrix` in evaluation/errors.py.
        categories: K names. Of more than 20, the 20 with the most objects are drawn, and the
            others together as "other".
        title: Of the figure.

    Returns:
        The figure, and, as drawn, "counts" (n, n), "shares" (n, n) and "names" (n,).

    Raises:
        ValueError: For a matrix of another shape.
    """
    matrix = as_array(matrix)
    count = len(categories)
    if matrix.shape != (count + 1, count + 1):
        raise ValueError(
            f"a confusion matrix of {count} categories is {(count + 1, count + 1)}, with a row and "
            f"a column for the background, but this one has shape {matrix.shape}"
        )
    groups: list[list[int]] = [[k] for k in range(count)]
    categories = [category_text(k, name) for k, name in enumerate(categories)]
    names = list(categories)
    if count > MAX_CATEGORIES:
        order = np.argsort(-matrix[:-1].sum(1), kind="stable").tolist()
        kept = order[:MAX_CATEGORIES]
        groups = [[k] for k in kept] + [order[MAX_CATEGORIES:]]
        names = [categories[k] for k in kept] + ["other"]
    groups.append([count])
    counts = np.array([[matrix[np.ix_(r, c)].sum() for c in groups] for r in groups])
    shares = counts / counts.sum(1, keepdims=True).clip(1)

    n = len(counts)
    figure = NotebookFigure(max(5.0, 0.44 * n + 2.4), max(4.0, 0.36 * n + 2.0))
    axis = figure.subplots()
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts):
        axis.annotate(
            f"{counts[row, column]}",
            (column, row),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.55 else "black",
        )
    axis.axhline(n - 1.5, color="black", lw=1.2)
    axis.axvline(n - 1.5, color="black", lw=1.2)
    axis.set(xticks=range(n), yticks=range(n), xlabel="predicted class", ylabel="ground truth")
    names.append("background")
    axis.set_xticklabels(names, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticklabels(names, fontsize=8)
    figure.colorbar(shown, ax=axis, label="share of the row", shrink=0.9)
    if title:
        axis.set_title(title, fontsize=10)
    return figure, {"counts": counts, "shares": shares, "names": np.array(names)}
