"""Verdicts on claims, theme by theme, with a reader's votes below them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgba

from ddetr_edu.viz.style import COLOURS, NotebookFigure

FILL = (COLOURS[2], COLOURS[1], COLOURS[4])  # of the first word, the second and the third
INK = ("white", "black", "white")  # on these
PIXELS, BORDER = (24, 40), 1  # of a cell, in rows and columns, and what it leaves free at its rim


def plot_verdicts(
    verdicts: Mapping[str, Mapping[int, str]],
    votes: Mapping[int, str | None],
    words: Sequence[str] = ("holds", "condition", "wrong"),
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw a cell for each claim in the colour of its verdict, and below it one for the vote.

    Args:
        verdicts: {theme: {number of a claim: one of `words`}}.
        votes: {number of a claim: one of `words`, or None}; where there is none, nothing is drawn.
        words: The three that a verdict can have.

    Returns:
        The figure, and for each theme (n, 3): the claim's number, the index of the verdict among
        the words, and that of the vote, -1 for none.

    Raises:
        ValueError: If there is no claim, or for another word.
    """
    if not any(verdicts.values()):
        raise ValueError("there is nothing to draw; give at least one verdict")
    known = list(words)
    for word in [w for theme in verdicts.values() for w in theme.values()] + list(votes.values()):
        if word is not None and word not in known:
            raise ValueError(f'"{word}" is no verdict; the words are {", ".join(known)}')
    drawn = {
        theme: np.array(
            [
                (
                    number,
                    known.index(word),
                    -1 if (v := votes.get(number)) is None else known.index(v),
                )
                for number, word in of_theme.items()
            ]
        ).reshape(-1, 3)
        for theme, of_theme in verdicts.items()
    }
    n_columns = max(len(rows) for rows in drawn.values())
    voted = any((rows[:, 2] >= 0).any() for rows in drawn.values())
    step = 3 if voted else 2  # rows of a theme: verdicts, votes, nothing
    n_rows = step * len(drawn) - 1
    height, width = PIXELS
    pixels = np.zeros((n_rows * height, n_columns * width, 4))
    figure = NotebookFigure(1.9 + 0.85 * n_columns, 0.4 + 0.27 * n_rows)
    axis = figure.subplots()
    for n, rows in enumerate(drawn.values()):
        for column, (number, verdict, vote) in enumerate(rows):
            for row, index in ((step * n, verdict), (step * n + 1, vote)):
                if index < 0:
                    continue
                cell = (
                    slice(row * height + BORDER, (row + 1) * height - BORDER),
                    slice(column * width + BORDER, (column + 1) * width - BORDER),
                )
                is_verdict = row == step * n
                pixels[cell] = to_rgba(FILL[index], 1 if is_verdict else 0.75)
                text = f"{number} {known[index]}" if is_verdict else known[index]
                axis.text(
                    column + 0.5,
                    row + 0.5,
                    text,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=INK[index],
                    weight="bold" if is_verdict else "normal",
                )
    axis.imshow(pixels, extent=(0, n_columns, n_rows, 0), aspect="auto", interpolation="nearest")
    ticks = {step * n + 0.5: theme for n, theme in enumerate(drawn)}
    ticks |= {
        step * n + 1.5: "your votes"
        for n, rows in enumerate(drawn.values())
        if (rows[:, 2] >= 0).any()
    }
    axis.set(yticks=list(ticks), yticklabels=list(ticks.values()), xticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure, drawn
