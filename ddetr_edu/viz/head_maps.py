"""The tensors of deformable attention: tokens, a map for each image and head, samples, output."""

import numpy as np
from matplotlib.axes import Axes

from ddetr_edu.viz.style import NotebookFigure, as_array

MARKS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "*": "star", "P": "plus"}
ROW_HEIGHT, UNIT = 1.4, 1.45  # inches: of a map, and the width of a panel of ratio 1
RATIOS = {"tokens": 0.45, "map": 1.0, "samples": 0.9, "output": 0.6}


def plot_head_maps(
    value, spatial_shapes: list[tuple[int, int]], locations, samples, output
) -> tuple[NotebookFigure, dict]:
    """Draw the tensors of deformable attention from left to right, in the order they arise.

    Each head has three channels, which are shown as red, green and blue. First come the tokens of
    each image; then, for each image and head, its map on every level with the points of each query;
    then the colours sampled there; and last the output, in which heads are side by side.

    Convention: locations are (x, y) fractions of their level, x to the right and y down.

    Args:
        value: (N, S, M, 3), in [0, 1].
        spatial_shapes: (H, W) of each level.
        locations: (N, Lq, M, L, P, 2).
        samples: (N, Lq, M, L, P, 3), what was read there.
        output: (N, Lq, M*3).

    Returns:
        The figure, and what it shows: "tokens" (N, S, M, 3); "maps", "points" and "samples", for
        each level (N*M, H, W, 3), (N*M, Lq, P, 2) in pixels and (N*M, Lq, P, 3); and "columns"
        (N, Lq, M, 3).

    Raises:
        ValueError: If the heads do not have three channels, or S does not fit the levels.
    """
    value, locations, samples, output = map(as_array, (value, locations, samples, output))
    n_images, n_tokens, n_heads, channels = value.shape
    if channels != 3:
        raise ValueError(f"each head has {channels} channels; it takes 3, to show them as a colour")
    if n_tokens != sum(height * width for height, width in spatial_shapes):
        raise ValueError(f"value has {n_tokens} tokens, which are not those of {spatial_shapes}")
    n_queries, n_maps = locations.shape[1], n_images * n_heads

    def by_map(array: np.ndarray) -> np.ndarray:
        """(N, x, M, ...) -> (N*M, x, ...)"""
        return array.swapaxes(1, 2).reshape(n_maps, array.shape[1], *array.shape[3:])

    ends = np.cumsum([height * width for height, width in spatial_shapes])
    tokens = np.split(by_map(value), ends[:-1], axis=1)  # (N*M, H*W, 3) of each level
    drawn = {
        "tokens": value,
        "maps": [t.reshape(n_maps, *hw, 3) for t, hw in zip(tokens, spatial_shapes, strict=True)],
        "points": [
            by_map(locations[:, :, :, level]) * (width, height)
            for level, (height, width) in enumerate(spatial_shapes)
        ],
        "samples": [by_map(samples[:, :, :, level]) for level in range(len(spatial_shapes))],
        "columns": output.reshape(n_images, n_queries, n_heads, 3),
    }
    kinds = ["tokens", *["map", "samples"] * len(spatial_shapes), "output"]
    ratios = [RATIOS[kind] for kind in kinds]
    figure = NotebookFigure(UNIT * sum(ratios) + 1.6, ROW_HEIGHT * n_maps + 0.7)
    grid = figure.add_gridspec(n_maps, len(kinds), width_ratios=ratios)
    queries = [f"q{q}, {list(MARKS.values())[q % len(MARKS)]}" for q in range(n_queries)]
    heads = [f"m{m}" for m in range(n_heads)]
    for n in range(n_images):
        rows = slice(n * n_heads, (n + 1) * n_heads)
        left = _show_colours(figure.add_subplot(grid[rows, 0]), value[n])
        left.set_xticks(range(n_heads), heads)
        left.set_ylabel(f"image {n}: {n_tokens} tokens", fontsize=9)
        for end in ends[:-1]:  # where the next level begins
            left.axhline(end - 0.5, color="white", lw=2)
        right = _show_colours(figure.add_subplot(grid[rows, -1]), drawn["columns"][n])
        right.set_xticks(range(n_heads), heads)
        right.set_yticks(range(n_queries), queries)
        right.yaxis.tick_right()
        if n == 0:
            _name(left, "value", "N, S, M·D", (n_images, n_tokens, n_heads * 3))
            _name(right, "output", "N, Lq, M·D", output.shape)
    for k, level in np.ndindex(n_maps, len(spatial_shapes)):
        axis = figure.add_subplot(grid[k, 1 + 2 * level])
        _show_map(axis, drawn["maps"][level][k], drawn["points"][level][k])
        sheet = drawn["samples"][level][k]
        beside = _show_colours(figure.add_subplot(grid[k, 2 + 2 * level]), sheet)
        beside.set_yticks(range(n_queries), [f"q{q}" for q in range(n_queries)])
        if level == 0:
            axis.set_ylabel(f"image {k // n_heads}, head {k % n_heads}", fontsize=9)
        if k == n_maps - 1:
            beside.set_xticks(range(sheet.shape[1]), [f"p{p}" for p in range(sheet.shape[1])])
        if k == 0:
            _name(axis, f"maps, level {level}", "N·M, D, H, W", (n_maps, 3, *spatial_shapes[level]))
            _name(beside, "samples", "N·M, D, Lq, P", (n_maps, 3, *sheet.shape[:2]))
    return figure, drawn


def _name(axis: Axes, name: str, letters: str, shape: tuple[int, ...]) -> None:
    axis.set_title(f"{name}\n({letters})\n{tuple(map(int, shape))}", fontsize=9)


def _show_colours(axis: Axes, colours: np.ndarray) -> Axes:
    """A table of colours, which fills its panel."""
    axis.imshow(colours.clip(0, 1), aspect="auto", interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.tick_params(length=0, labelsize=9)
    axis.spines[:].set_color("0.5")
    return axis


def _show_map(axis: Axes, colours: np.ndarray, points: np.ndarray) -> None:
    """A map (H, W, 3) with points (Lq, P, 2) in its pixels, each query with a mark of its own."""
    height, width = colours.shape[:2]
    axis.imshow(colours.clip(0, 1), extent=(0, width, height, 0), interpolation="nearest")
    for q, of_query in enumerate(points):
        mark = list(MARKS)[q % len(MARKS)]
        axis.plot(*of_query.T, mark, ms=3.8, color="white", mec="black", mew=0.7)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.spines[:].set_color("0.5")


def plot_maps(rows: dict) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw colour maps in rows, each row under its name.

    Args:
        rows: For each name, maps (k, H, W, 3) in [0, 1].

    Returns:
        The figure, and the maps of each row.
    """
    drawn = {name: as_array(maps) for name, maps in rows.items()}
    columns = max(map(len, drawn.values()))
    figure = NotebookFigure(1.9 * columns, 1.9 * len(drawn))
    strips = figure.subfigures(len(drawn), 1, squeeze=False)[:, 0]
    for strip, (name, maps) in zip(strips, drawn.items(), strict=True):
        strip.suptitle(name, fontsize=10)
        for k, colours in enumerate(maps):
            axis = strip.add_subplot(1, columns, k + 1)
            axis.imshow(colours.clip(0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.5")
    return figure, drawn
