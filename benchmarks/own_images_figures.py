"""The figures of own_images.py: learning curves, and what a detector finds and misses."""

import numpy as np
from matplotlib.lines import Line2D

from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.evaluation.errors import ErrorRecord, count_errors
from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.labels import label_boxes
from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_image_array, draw_box, panel_grid

N_IMAGES = 6
# {what became of it: (colour, line style)}; the boxes of objects for missed ones, else detections
OUTCOMES = {
    "found": (COLOURS[0], "-"),
    "missed": (COLOURS[4], (0, (3, 1.5))),
    "wrong detection": ("black", (0, (1, 1))),
}


def plot_learning(kinds: dict[str, list[list]], title: str) -> NotebookFigure:
    """Draw AP and AP50 of the validation split against minutes of training.

    Args:
        kinds: {kind of run: the curve of each seed, [[minutes, AP, AP50], ...]}.
        title: Of the figure.

    Returns:
        The figure, with a colour for each kind and a line for each seed.
    """
    figure = NotebookFigure(9, 3.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    styles = ("-", "--", "-.", ":")
    for column, (axis, metric) in enumerate(zip(panels, ("AP", "AP50"), strict=True), start=1):
        for n, (kind, curves) in enumerate(kinds.items()):
            for seed, curve in enumerate(curves):
                points = np.array([[0, 0, 0], *curve])  # minute 0: nothing is found
                axis.plot(
                    points[:, 0],
                    100 * points[:, column],
                    color=COLOURS[n % len(COLOURS)],
                    ls=styles[n % len(styles)],
                    marker="o",
                    ms=3,
                    lw=1.3,
                    label=kind if seed == 0 else None,
                )
        axis.set(xlabel="minutes of training", ylabel=f"{metric}, validation images")
        axis.grid(alpha=0.3)
    panels[0].set(xlim=(0, None), ylim=(0, None))  # of both; only now, when all curves are there
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=10)
    return figure


def plot_found(images: CocoDetection, records: list[ErrorRecord], title: str) -> NotebookFigure:
    """Draw what a detector finds and misses on some images, evenly spaced among all with objects.

    Args:
        images: The data set that was evaluated.
        records: From `classify_errors`, of all its images.
        title: Of the figure; the numbers of all images are added.

    Returns:
        The figure.
    """
    with_objects = np.flatnonzero(images.object_counts())
    places = np.linspace(0, len(with_objects) - 1, min(N_IMAGES, len(with_objects)))
    shown = [images[i] for i in with_objects[places.round().astype(int)]]
    figure, panels = panel_grid(len(shown), 0.75, width=3.4, columns=3, colour_bar=0.1)
    for axis, (image, target) in zip(panels, shown, strict=True):
        pixels = as_image_array(image)
        height, width = pixels.shape[:2]
        axis.imshow(pixels, extent=(0, width, height, 0), interpolation="antialiased")
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        of_image = [record for record in records if record.image_id == target["image_id"]]
        of_image.sort(key=lambda record: list(OUTCOMES).index(outcome(record)), reverse=True)
        boxes = np.array([box_of(record) for record in of_image]).reshape(-1, 4)
        colours = [OUTCOMES[outcome(record)][0] for record in of_image]
        for box, record in zip(boxes, of_image, strict=True):
            colour, style = OUTCOMES[outcome(record)]
            draw_box(axis, box, colour, lw=1.3, ls=style)
        label_boxes(
            axis, boxes, [text_of(record, images.categories) for record in of_image], colours
        )
    figure.legend(
        handles=[Line2D([], [], color=c, ls=s, label=name) for name, (c, s) in OUTCOMES.items()],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        handlelength=3.5,
    )
    counts = count_errors(records)
    found, missed = counts.pop("correct"), counts.pop("missed")
    figure.suptitle(
        f"{title}: {found} found, {missed} missed and {sum(counts.values())} wrong detections on "
        f"{len(images)} images",
        fontsize=9,
    )
    return figure


def outcome(record: ErrorRecord) -> str:
    """The key of OUTCOMES that a record belongs to."""
    return {"correct": "found", "missed": "missed"}.get(record.kind, "wrong detection")


def box_of(record: ErrorRecord) -> tuple[float, ...]:
    """The box to draw: that of the detection, or of the object that was missed."""
    box = record.true_box if record.box is None else record.box
    assert box is not None
    return box


def text_of(record: ErrorRecord, categories: dict[int, str]) -> str:
    """The category, predicted or missed, and the score of a wrong detection."""
    label = record.true_label if record.label is None else record.label
    assert label is not None
    name = category_text(label, categories[label])
    return f"{name} {record.score:.2f}" if outcome(record) == "wrong detection" else name
