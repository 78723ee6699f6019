"""Whole numbers that belong to the pixels of several levels, such as how often each is read."""

import numpy as np

from ddetr_edu.viz.style import WEIGHT_MAP, NotebookFigure, as_array


def plot_pixel_counts(
    counts: dict[str, object], spatial_shapes: list[tuple[int, int]]
) -> tuple[NotebookFigure, dict[str, list[np.ndarray]]]:
    """Draw counts of tokens as maps: a column of panels for each kind, a row for each level.

    All panels have one scale of colours.

    Args:
        counts: {title: (S,) whole numbers}.
        spatial_shapes: (H, W) of each level.

    Returns:
        The figure, and for each title the map (H, W) of each level.

    Raises:
        ValueError: If there is not a number for each token.
    """
    areas = [height * width for height, width in spatial_shapes]
    drawn = {}
    for title, of_tokens in counts.items():
        numbers = as_array(of_tokens)
        if numbers.shape != (sum(areas),):
            raise ValueError(f'"{title}" has shape {numbers.shape}; there are {sum(areas)} tokens')
        parts = np.split(numbers, np.cumsum(areas)[:-1])
        drawn[title] = [p.reshape(s) for p, s in zip(parts, spatial_shapes, strict=True)]
    heights = [height / width for height, width in spatial_shapes]
    figure = NotebookFigure(9.2, 3.9 * sum(heights) + 0.5)
    panels = figure.subplots(
        len(areas), len(counts), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    largest = max(level.max() for levels in drawn.values() for level in levels)
    for column, (title, levels) in zip(panels.T, drawn.items(), strict=True):
        for level, (axis, of_pixels) in enumerate(zip(column, levels, strict=True)):
            axis.imshow(of_pixels, cmap=WEIGHT_MAP, vmin=0, vmax=largest)
            for (row, x), count in np.ndenumerate(of_pixels):
                colour = "black" if count > 0.6 * largest else "white"
                style = dict(ha="center", va="center", fontsize=7, color=colour)
                axis.text(x, row, f"{count:g}", **style)
            axis.set(xticks=[], yticks=[], title=title if level == 0 else "")
            axis.set_ylabel(f"level {level}")
    return figure, drawn
