"""Which query was given which object: lines over the picture, and the costs as a table."""

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_picture

MOST_QUERIES = 24  # rows of costs that can still be read
MOST_LABELS = 10  # objects that have room for the number of their query, too


def plot_matching(
    picture, boxes, target_boxes, cost, queries, objects, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw predicted boxes, objects and the lines that match them; beside it every cost.

    Objects are drawn solid and labelled with their number and, up to 10 of them, their query's,
    queries dashed in the same colour, queries without an object thin and grey. Of more than 24
    queries those with an object are shown, and of the others the cheapest for any object.

    picture:      PIL image, (3, H, W) tensor or (H, W, 3) array
    boxes:        (Q, 4) of the queries; target_boxes: (T, 4) of the objects; xyxy in pixels
    cost:         (Q, T)
    queries, objects: the matched pairs, two index arrays of equal length
    Returns: the figure, and "lines" (pairs, 2, 2), from each query's centre to its object's, in
        pixels, "cost" (Q, T) and "shown", the queries whose costs are drawn, in the order drawn.
    """
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    boxes, target_boxes, cost = as_array(boxes), as_array(target_boxes), as_array(cost)
    queries, objects = as_array(queries), as_array(objects)
    shown = queries_worth_showing(cost, queries)
    figure = NotebookFigure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    left.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0))

    for query in shown:
        if query not in queries:
            draw_box(left, boxes[query], color="0.35", lw=0.7)
    lines = []
    for query, target in zip(queries, objects, strict=True):
        colour = COLOURS[target % len(COLOURS)]
        draw_box(left, target_boxes[target], color=colour, lw=2.4)
        draw_box(left, boxes[query], color=colour, lw=1.6, ls="--")
        line = np.array([centre(boxes[query]), centre(target_boxes[target])])
        left.plot(*line.T, "o-", color=colour, ms=4, lw=1.4, mec="black", mew=0.5)
        lines.append(line)
        x, y = target_boxes[target, 0], target_boxes[target, 1]
        left.annotate(
            f"{target}: query {query}" if len(target_boxes) <= MOST_LABELS else f"{target}",
            (x, y),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=7,
            annotation_clip=True,
            bbox={"facecolor": "white", "edgecolor": colour, "pad": 0.8, "alpha": 0.85},
        )
    left.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    image = right.imshow(cost[shown], cmap="cividis", aspect="auto")
    rows = np.searchsorted(shown, queries)
    right.plot(objects, rows, "o", color="white", mec="red", mew=2, ms=9)
    right.set(xlabel="object", ylabel="query", xticks=range(cost.shape[1]))
    right.set_yticks(range(len(shown)), [str(query) for query in shown])
    right.set_title("cost of each pair; circles: the assignment", fontsize=10)
    right.tick_params(labelsize=8)
    figure.colorbar(image, ax=right)
    if title:
        left.set_title(title, fontsize=10)
    return figure, {"lines": np.array(lines).reshape(-1, 2, 2), "cost": cost, "shown": shown}


def queries_worth_showing(cost: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Which of the rows of cost (Q, T) to draw: all if they are few, the matched ones always."""
    cheapest = cost.min(axis=1, initial=np.inf)
    cheapest[queries] = -np.inf
    count = max(MOST_QUERIES, len(queries))
    return np.sort(np.argsort(cheapest, kind="stable")[:count])


def plot_matching_by_layer(
    picture,
    boxes,
    target_boxes,
    cost,
    queries,
    names: list[str] | None = None,
    title: str | None = None,
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw which query each object gets after each decoder layer, and what the pair costs.

    A panel for each layer: objects solid and numbered, the boxes of their queries dashed in the
    same colour, and a line from centre to centre. The table has a row for each object: the number
    of its query, framed where it is another one than a layer before.

    picture:      PIL image, (3, H, W) tensor or (H, W, 3) array
    boxes:        (layers, Q, 4) of the queries; target_boxes: (T, 4) of the objects; xyxy in pixels
    cost:         (layers, Q, T);  queries: (layers, T), the query of each object, -1 for none
    names:        of the objects
    Returns: the figure, and "queries" (layers, T), their "cost" (layers, T), nan without a query,
        "lines" (layers, T, 2, 2) from the query's centre to the object's, in pixels, and "changed"
        (layers, T), True where the query is another one than a layer before.
    Raises: ValueError for shapes that do not fit together, or without an object.
    """
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    boxes, target_boxes = as_array(boxes), as_array(target_boxes)
    cost, queries = as_array(cost), as_array(queries)
    n_layers, n_objects = queries.shape
    if not n_objects or boxes.shape[:2] != cost.shape[:2] or cost.shape[::2] != queries.shape:
        raise ValueError(
            f"boxes {boxes.shape}, cost {cost.shape} and queries {queries.shape} do not fit; they "
            "are (layers, Q, 4), (layers, Q, T) and (layers, T) with at least one object"
        )
    names = names or [""] * n_objects
    layer, object_ = np.indices(queries.shape)
    found = queries >= 0
    paid = np.where(found, cost[layer, queries, object_], np.nan)
    lines = np.stack([centre(boxes[layer, queries]), centre(target_boxes[object_])], axis=-2)
    lines[~found] = np.nan
    changed = np.zeros_like(found)
    changed[1:] = queries[1:] != queries[:-1]

    columns = min(n_layers, 3)
    rows = -(-n_layers // columns)
    tall = max(rows * (2.7 * height / width + 0.35), 0.3 * n_objects + 1.0) + 0.3
    beside = 0.55 * n_layers + 2.4
    figure = NotebookFigure(2.7 * columns + beside, tall)
    left, right = figure.subfigures(1, 2, width_ratios=[2.7 * columns, beside])
    axes = list(left.subplots(rows, columns, squeeze=False).flat)
    for l, axis in enumerate(axes[:n_layers]):
        axis.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0), interpolation="nearest")
        for t, box in enumerate(target_boxes):
            colour = COLOURS[t % len(COLOURS)]
            draw_box(axis, box, color=colour, lw=2.2)
            axis.annotate(
                f"{t}", box[:2], fontsize=6, ha="center", va="center",
                bbox={"facecolor": "white", "edgecolor": colour, "pad": 0.6},
            )  # fmt: skip
            if found[l, t]:
                draw_box(axis, boxes[l, queries[l, t]], color=colour, lw=1.4, ls="--")
                axis.plot(*lines[l, t].T, "o-", color=colour, ms=3.5, lw=1.4, mec="black", mew=0.5)
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axis.set_title(f"after layer {l}", fontsize=10)
    for axis in axes[n_layers:]:
        axis.remove()

    table = right.subplots()
    image = table.imshow(paid.T, cmap="cividis", aspect="auto")
    middle = np.nanmean([np.nanmin(paid), np.nanmax(paid)]) if found.any() else 0
    for l, t in np.ndindex(queries.shape):
        table.annotate(
            f"{queries[l, t]}" if found[l, t] else "none", (l, t), ha="center", va="center",
            fontsize=8, color="white" if paid[l, t] < middle else "black",
        )  # fmt: skip
        if changed[l, t]:
            for colour, line in (("black", 3.6), ("white", 1.6)):
                draw_box(table, np.array([l - 0.44, t - 0.42, l + 0.44, t + 0.42]), color=colour,
                         lw=line)  # fmt: skip
    table.set(xticks=range(n_layers), yticks=range(n_objects), xlabel="decoder layer")
    table.set_yticklabels([f"{t} {name}".strip() for t, name in enumerate(names)], fontsize=8)
    for t, label in enumerate(table.get_yticklabels()):
        label.set_bbox({"facecolor": "white", "edgecolor": COLOURS[t % len(COLOURS)], "pad": 1.5})
    table.set_title("query of each object", fontsize=10)
    right.colorbar(image, ax=table, label="cost of the pair")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, {"queries": queries, "cost": paid, "lines": lines, "changed": changed}


def draw_box(axis, box: np.ndarray, **style) -> None:
    """Draw the outline of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def centre(box: np.ndarray) -> np.ndarray:
    """The centres (..., 2) (x, y) of boxes (..., 4) (x1, y1, x2, y2)."""
    return (box[..., :2] + box[..., 2:]) / 2
