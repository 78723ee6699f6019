"""What each class was taken for."""

import numpy as np

from ddetr_edu.viz.style import NotebookFigure, as_array

MOST_CATEGORIES = 20  # rows that can still be read


def plot_confusion(
    matrix, categories: list[str], title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a confusion matrix: rows the true classes, columns the found ones.

    Colours are shares of a row, numbers are counts. The last column holds the objects that were
    not found (missed), the last row the surplus: detections for which no object is left, because
    it has a better one or because only background is there.

    matrix: (K+1, K+1) counts, as `confusion_matrix` in training/errors.py makes them
    categories: K names. Of more than 20, the 20 with the most objects are drawn, and the others
        together as "other".
    Returns: the figure, and, as drawn, "counts" (n, n), "shares" (n, n) and "names" (n,).
    Raises: ValueError for a matrix of another shape.
    """
    matrix = as_array(matrix)
    count = len(categories)
    if matrix.shape != (count + 1, count + 1):
        raise ValueError(
            f"a confusion matrix of {count} categories is {(count + 1, count + 1)}, with a row and "
            f"a column for nothing, but this one has shape {matrix.shape}"
        )
    groups, names = [[k] for k in range(count)], list(categories)
    if count > MOST_CATEGORIES:
        order = np.argsort(-matrix[:-1].sum(1), kind="stable")
        kept = order[:MOST_CATEGORIES]
        groups = [[k] for k in kept] + [order[MOST_CATEGORIES:]]
        names = [categories[k] for k in kept] + ["other"]
    groups.append([count])
    counts = np.array([[matrix[np.ix_(r, c)].sum() for c in groups] for r in groups])
    shares = counts / counts.sum(1, keepdims=True).clip(1)

    n = len(counts)
    figure = NotebookFigure(max(5.0, 0.44 * n + 2.4), max(4.0, 0.36 * n + 2.0))
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts):
        axis.annotate(
            f"{counts[row, column]}", (column, row), ha="center", va="center", fontsize=8,
            color="white" if shares[row, column] > 0.55 else "black",
        )  # fmt: skip
    axis.axhline(n - 1.5, color="black", lw=1.2)
    axis.axvline(n - 1.5, color="black", lw=1.2)
    axis.set(xticks=range(n), yticks=range(n), xlabel="found class", ylabel="true class")
    axis.set_xticklabels([*names, "not found"], fontsize=8, rotation=45, ha="right",
                         rotation_mode="anchor")  # fmt: skip
    axis.set_yticklabels([*names, "surplus"], fontsize=8)
    figure.colorbar(image, ax=axis, label="share of the row", shrink=0.9)
    if title:
        axis.set_title(title, fontsize=10)
    return figure, {"counts": counts, "shares": shares, "names": np.array([*names, "nothing"])}
