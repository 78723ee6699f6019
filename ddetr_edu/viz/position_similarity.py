"""How similar the position embeddings of tokens are: what a position "looks like" to a model."""

from collections.abc import Sequence

import numpy as np

from ddetr_edu.viz.style import WEIGHT_MAP, NotebookFigure, as_array, panel_grid


def plot_position_similarity(
    embeddings: dict, tokens: Sequence[tuple[int, int]], title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw how similar the position embedding of a token is to those of all others.

    A row of panels for each kind of embedding, a panel for each token, which is marked by a cross.
    The similarity is the cosine of the angle between two embeddings: 1 if they are the same. Each
    row has a scale of colours of its own, from the lowest similarity to 1.

    Args:
        embeddings: The name of a kind -> (C, H, W).
        tokens: (row, column) of the tokens to compare with all others.
        title: Of the figure.

    Returns:
        The figure, and for each kind the similarities, (n, H, W) in the order of the tokens.

    Raises:
        ValueError: For an embedding of another shape, or a token that is not on the map.
    """
    drawn = {}
    for name, values in embeddings.items():
        embedding = as_array(values)
        if embedding.ndim != 3:
            raise ValueError(
                f'the embedding "{name}" has shape {embedding.shape}; it takes (C, H, W): pick an '
                "image of the batch first"
            )
        _, height, width = embedding.shape
        for row, column in tokens:
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(
                    f"there is no token in row {row}, column {column} of a map of {height} rows "
                    f"and {width} columns"
                )
        unit = embedding / np.linalg.norm(embedding, axis=0)
        drawn[name] = np.stack(
            [np.einsum("chw,c->hw", unit, unit[:, row, column]) for row, column in tokens]
        )
    n = len(tokens)
    figure, panels = panel_grid(
        n * len(drawn), height / width, columns=n, title_height=0.5, margin=0.5 if title else 0.1
    )
    for k, (name, similarities) in enumerate(drawn.items()):
        row_of_panels = panels[k * n : (k + 1) * n]
        for axis, (row, column), similarity in zip(
            row_of_panels, tokens, similarities, strict=True
        ):
            image = axis.imshow(similarity, cmap=WEIGHT_MAP, vmin=similarities.min(), vmax=1)
            axis.plot(column, row, "+", color="black", ms=11, mew=2)
            axis.set_title(f"{name}\ntoken in row {row}, column {column}", fontsize=10)
            axis.set(xticks=[], yticks=[])
        figure.colorbar(image, ax=row_of_panels, label="cosine similarity", shrink=0.9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn
