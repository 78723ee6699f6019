"""Which query is matched with which object: lines over the image, and the costs as a table."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ddetr_edu.viz.fonts import one_line, readable
from ddetr_edu.viz.labels import label_boxes, letters_of
from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_image_array

MAX_QUERIES = 24  # rows of costs that can still be read
MAX_LABELS = 10  # objects whose labels have room for the number of their query


def plot_matching(
    image, boxes, target_boxes, cost, queries, objects, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw objects, the predicted boxes matched with them, and the cost of every pair.

    Objects are solid and labelled with their number (up to 10 of them also with that of their
    query), the boxes of their queries are dashed in the same colour, and those of queries without
    an object are thin and grey. Of more than 24 queries, those with an object are shown, and of
    the others the cheapest for any object.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        boxes: (Lq, 4) of the queries, xyxy in pixels.
        target_boxes: (T, 4) of the objects, xyxy in pixels.
        cost: (Lq, T).
        queries: (pairs,), the query of each matched pair.
        objects: (pairs,), its object.
        title: Of the panel on the left.

    Returns:
        The figure, and "lines" (pairs, 2, 2), from the centre of each query's box to that of its
        object, in pixels, "cost" (Lq, T), and "shown", the queries whose costs are drawn, in the
        order drawn.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    boxes, target_boxes, cost = as_array(boxes), as_array(target_boxes), as_array(cost)
    queries, objects = as_array(queries), as_array(objects)
    shown = queries_worth_showing(cost, queries)
    figure = NotebookFigure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    left.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0))

    for query in shown:
        if query not in queries:
            draw_outline(left, boxes[query], color="0.35", lw=0.7)
    lines = []
    for query, target in zip(queries, objects, strict=True):
        colour = COLOURS[target % len(COLOURS)]
        draw_outline(left, target_boxes[target], color=colour, lw=2.4)
        draw_outline(left, boxes[query], color=colour, lw=1.6, ls="--")
        line = np.array([centre(boxes[query]), centre(target_boxes[target])])
        left.plot(*line.T, "o-", color=colour, ms=4, lw=1.4, mec="black", mew=0.5)
        lines.append(line)
    left.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    texts = [f"{target}: query {query}" for query, target in zip(queries, objects, strict=True)]
    if len(target_boxes) > MAX_LABELS:
        texts = [f"{target}" for target in objects]
    visible = target_boxes[objects].clip(0, (width, height, width, height))
    label_boxes(left, visible, texts, [COLOURS[target % len(COLOURS)] for target in objects])
    heatmap = right.imshow(cost[shown], cmap="cividis", aspect="auto")
    rows = np.searchsorted(shown, queries)
    right.plot(objects, rows, "o", color="white", mec="red", mew=2, ms=9)
    right.set(xlabel="object", ylabel="query", xticks=range(cost.shape[1]))
    right.set_yticks(range(len(shown)), [str(query) for query in shown])
    right.set_title("cost of each pair (circles: matched)", fontsize=10)
    right.tick_params(labelsize=8)
    figure.colorbar(heatmap, ax=right)
    if title:
        left.set_title(title, fontsize=10)
    return figure, {"lines": np.array(lines).reshape(-1, 2, 2), "cost": cost, "shown": shown}


def queries_worth_showing(cost: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Choose the queries whose costs to draw: all if they are few, the matched ones always.

    Args:
        cost: (Lq, T).
        queries: (pairs,), the matched queries.

    Returns:
        Their numbers, in rising order.
    """
    cheapest = cost.min(axis=1, initial=np.inf)
    cheapest[queries] = -np.inf
    count = max(MAX_QUERIES, len(queries))
    return np.sort(np.argsort(cheapest, kind="stable")[:count])


def plot_matching_by_layer(
    image,
    boxes,
    target_boxes,
    cost,
    queries,
    names: list[str] | None = None,
    title: str | None = None,
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw which query is matched with each object after each decoder layer, and at what cost.

    There is a panel for each layer: objects are solid and numbered, the boxes of their queries
    dashed in the same colour, with a line from centre to centre. The table has a row for each
    object with the number of its query, framed where it has changed since the layer before.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        boxes: (layers, Lq, 4) of the queries, xyxy in pixels.
        target_boxes: (T, 4) of the objects, xyxy in pixels.
        cost: (layers, Lq, T).
        queries: (layers, T), the query of each object, -1 for none.
        names: (T,) of the objects.
        title: Of the figure.

    Returns:
        The figure, and "queries" (layers, T), their "cost" (layers, T), nan without a query,
        "lines" (layers, T, 2, 2) from the centre of the query's box to that of the object, in
        pixels, and "changed" (layers, T), True where the query has changed since the layer before.

    Raises:
        ValueError: For shapes that do not fit together, or without an object.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    boxes, target_boxes = as_array(boxes), as_array(target_boxes)
    cost, queries = as_array(cost), as_array(queries)
    n_layers, n_objects = queries.shape
    if not n_objects or boxes.shape[:2] != cost.shape[:2] or cost.shape[::2] != queries.shape:
        raise ValueError(
            f"boxes {boxes.shape}, cost {cost.shape} and queries {queries.shape} do not fit; they "
            "are (layers, Lq, 4), (layers, Lq, T) and (layers, T) with at least one object"
        )
    names = names or [""] * n_objects
    layer, object_ = np.indices(queries.shape)
    matched = queries >= 0
    pair_cost = np.where(matched, cost[layer, queries, object_], np.nan)
    lines = np.stack([centre(boxes[layer, queries]), centre(target_boxes[object_])], axis=-2)
    lines[~matched] = np.nan
    changed = np.zeros_like(matched)
    changed[1:] = queries[1:] != queries[:-1]

    columns = min(n_layers, 3)
    rows = -(-n_layers // columns)
    total_height = max(rows * (2.7 * height / width + 0.35), 0.3 * n_objects + 1.0) + 0.3
    shown = [f"{t} {readable(one_line(name))}".strip() for t, name in enumerate(names)]
    table_width = 0.55 * n_layers + max(2.4, 1.2 + 0.07 * max(map(letters_of, shown)))
    figure = NotebookFigure(2.7 * columns + table_width, total_height)
    halves: Any = figure.subfigures(1, 2, width_ratios=[2.7 * columns, table_width])
    left, right = halves
    axes = list(left.subplots(rows, columns, squeeze=False).flat)
    for l, axis in enumerate(axes[:n_layers]):
        axis.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0), interpolation="nearest")
        for t, box in enumerate(target_boxes):
            colour = COLOURS[t % len(COLOURS)]
            draw_outline(axis, box, color=colour, lw=2.2)
            axis.annotate(
                f"{t}",
                box[:2],
                fontsize=7,
                ha="center",
                va="center",
                bbox={"facecolor": "white", "edgecolor": colour, "pad": 0.6},
            )
            if matched[l, t]:
                draw_outline(axis, boxes[l, queries[l, t]], color=colour, lw=1.4, ls="--")
                axis.plot(*lines[l, t].T, "o-", color=colour, ms=3.5, lw=1.4, mec="black", mew=0.5)
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axis.set_title(f"after layer {l}", fontsize=10)
    for axis in axes[n_layers:]:
        axis.remove()

    table = right.subplots()
    heatmap = table.imshow(pair_cost.T, cmap="cividis", aspect="auto")
    middle = np.nanmean([np.nanmin(pair_cost), np.nanmax(pair_cost)]) if matched.any() else 0
    for l, t in np.ndindex(queries.shape):
        table.annotate(
            f"{queries[l, t]}" if matched[l, t] else "none",
            (l, t),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if pair_cost[l, t] < middle else "black",
        )
        if changed[l, t]:
            for colour, line in (("black", 3.6), ("white", 1.6)):
                draw_outline(
                    table, np.array([l - 0.44, t - 0.42, l + 0.44, t + 0.42]), color=colour, lw=line
                )
    table.set(xticks=range(n_layers), yticks=range(n_objects), xlabel="decoder layer")
    table.set_yticklabels(shown, fontsize=8)
    for t, label in enumerate(table.get_yticklabels()):
        label.set_bbox({"facecolor": "white", "edgecolor": COLOURS[t % len(COLOURS)], "pad": 1.5})
    table.set_title("matched query", fontsize=10)
    right.colorbar(heatmap, ax=table, label="matching cost")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"queries": queries, "cost": pair_cost, "lines": lines, "changed": changed}


def draw_outline(axis: Axes, box: np.ndarray, **style) -> None:
    """Draw the outline of a box.

    Args:
        axis: The panel.
        box: (4,) (x1, y1, x2, y2).
        style: Arguments of `Rectangle`.
    """
    x1, y1, x2, y2 = box
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def centre(box: np.ndarray) -> np.ndarray:
    """(..., 4) (x1, y1, x2, y2) -> (..., 2) (x, y)"""
    return (box[..., :2] + box[..., 2:]) / 2
