"""Boxes over an image, with their categories and scores."""

import numpy as np
from matplotlib.patches import Rectangle

from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.labels import label_boxes
from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_image_array


def plot_boxes(
    image,
    boxes,
    labels=None,
    scores=None,
    categories: dict[int, str] | None = None,
    title: str | None = None,
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw boxes over an image, each with its category and score, if they are given.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        boxes: (n, 4) (x1, y1, x2, y2) in pixels, with (0, 0) at the image's corner.
        labels: (n,) integers.
        scores: (n,).
        categories: {label: name}; a label without a name is written as a number.
        title: Of the figure.

    Returns:
        The figure, and "boxes" (n, 4) and "texts" (n,) as drawn.

    Raises:
        ValueError: For boxes of another shape, for numbers that are NaN or infinite, or another
            number of labels or scores than boxes.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    boxes = as_array(boxes).reshape(-1, 4) if len(boxes) == 0 else as_array(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes has shape {boxes.shape}; it takes (n, 4), xyxy in pixels")
    for name, values in (("boxes", boxes), ("scores", scores)):
        if values is not None and not np.isfinite(as_array(values)).all():
            raise ValueError(f"{name} hold NaN or infinity; the model that made them is broken")
    for name, values in (("labels", labels), ("scores", scores)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes came with {len(values)} {name}; give one each")
    names = [""] * len(boxes)
    if labels is not None:
        known = {label: category_text(label, name) for label, name in (categories or {}).items()}
        names = [known.get(int(label), str(int(label))) for label in labels]
    texts = names
    if scores is not None:
        scored = zip(names, as_array(scores), strict=True)
        texts = [f"{name} {score:.2f}".strip() for name, score in scored]
    labels = np.zeros(len(boxes), int) if labels is None else as_array(labels)
    figure = NotebookFigure(6, 6 * height / width + (0.4 if title else 0.1))
    axis = figure.subplots()
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        colour = COLOURS[int(label) % len(COLOURS)]
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="white", lw=3))
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=1.6))
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    label_boxes(axis, boxes, texts, [COLOURS[int(label) % len(COLOURS)] for label in labels])
    if title:
        axis.set_title(title, fontsize=10)
    return figure, {"boxes": boxes, "texts": np.array(texts)}
