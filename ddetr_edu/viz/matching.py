"""Which query was given which object: lines over the picture, and the costs as a table."""

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_picture


def plot_matching(
    picture, boxes, target_boxes, cost, queries, objects, title: str | None = None
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw predicted boxes, objects and the lines that match them; beside it every cost.

    Objects are drawn solid and labelled with their number and their query's, queries dashed in the
    same colour, queries without an object thin and grey.

    picture:      PIL image, (3, H, W) tensor or (H, W, 3) array
    boxes:        (Q, 4) of the queries; target_boxes: (T, 4) of the objects; xyxy in pixels
    cost:         (Q, T)
    queries, objects: the matched pairs, two index arrays of equal length
    Returns: the figure, and "lines" (pairs, 2, 2), from each query's centre to its object's, in
        pixels, and "cost" (Q, T).
    """
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    boxes, target_boxes, cost = as_array(boxes), as_array(target_boxes), as_array(cost)
    queries, objects = as_array(queries), as_array(objects)
    figure = NotebookFigure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    left.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0))

    def draw(box, **style):
        x1, y1, x2, y2 = box
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))

    for query, box in enumerate(boxes):
        if query not in queries:
            draw(box, color="0.35", lw=0.7)
    lines = []
    for query, target in zip(queries, objects, strict=True):
        colour = COLOURS[target % len(COLOURS)]
        draw(target_boxes[target], color=colour, lw=2.4)
        draw(boxes[query], color=colour, lw=1.6, ls="--")
        line = np.array([centre(boxes[query]), centre(target_boxes[target])])
        left.plot(*line.T, "o-", color=colour, ms=4, lw=1.4, mec="black", mew=0.5)
        lines.append(line)
        x, y = target_boxes[target, 0], target_boxes[target, 1]
        left.annotate(
            f"{target}: query {query}",
            (x, y),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=7,
            annotation_clip=True,
            bbox={"facecolor": "white", "edgecolor": colour, "pad": 0.8, "alpha": 0.85},
        )
    left.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    image = right.imshow(cost, cmap="cividis", aspect="auto")
    right.plot(objects, queries, "o", color="white", mec="red", mew=2, ms=9)
    right.set(
        xlabel="object", ylabel="query", xticks=range(cost.shape[1]), yticks=range(cost.shape[0])
    )
    right.set_title("cost of each pair; circles: the assignment", fontsize=10)
    right.tick_params(labelsize=8)
    figure.colorbar(image, ax=right)
    if title:
        left.set_title(title, fontsize=10)
    return figure, {"lines": np.array(lines).reshape(-1, 2, 2), "cost": cost}


def centre(box: np.ndarray) -> np.ndarray:
    """The centre (x, y) of a box (x1, y1, x2, y2)."""
    return (box[:2] + box[2:]) / 2
