"""The report of an evaluation: curves, confusion, the worst errors, and their numbers."""

import json
import math
from pathlib import Path

from pycocotools.cocoeval import COCOeval

from ddetr_edu.detector import check_threshold
from ddetr_edu.evaluation.errors import (
    ERRORS,
    ErrorRecord,
    classify_errors,
    confusion_matrix,
    count_errors,
    worst_errors,
)
from ddetr_edu.files import atomic_write
from ddetr_edu.viz import plot_confusion, plot_crops, plot_precision_by_size, plot_precision_recall
from ddetr_edu.viz.fonts import category_text

COLUMNS = 6  # errors of each kind in the gallery


def write_report(
    folder: Path, coco: COCOeval, dataset, numbers: dict, threshold: float = 0.5
) -> str:
    """Analyse an evaluation; write figures and numbers.json to a folder.

    - precision_recall.png: by IoU threshold and by category
    - sizes.png: AP, AP50 and AP75 of small, medium and large objects
    - confusion.png: as which class the objects of each class were predicted
    - errors.png: the worst errors of each kind of ERRORS

    Args:
        folder: An existing folder.
        coco: From `ddetr_edu.evaluation.coco_metrics.score`.
        dataset: What it was scored on.
        numbers: "metrics", "sizes" and "categories" {id: numbers}, for numbers.json.
        threshold: The lowest score of the detections in confusion.png and errors.png.

    Returns:
        A summary of three lines.

    Raises:
        ValueError: For a threshold outside 0 to 1.
        OSError: If the files cannot be written.
    """
    check_threshold(threshold)
    labels, names = coco.params.catIds, [dataset.categories[i] for i in coco.params.catIds]
    shown = [category_text(label, name) for label, name in zip(labels, names, strict=True)]
    records = classify_errors(coco, threshold)
    counts, matrix = count_errors(records), confusion_matrix(records, labels)
    subject = f"{len(dataset)} images, detections with a score of at least {threshold:g}"

    figures = {}
    figures["precision_recall"], curves = plot_precision_recall(
        coco.eval["precision"][:, :, :, 0, -1],
        coco.params.iouThrs,
        coco.params.recThrs,
        shown,
        objects=matrix[:-1].sum(1),
        title=f"{len(dataset)} images: precision against recall",
    )
    figures["sizes"], _ = plot_precision_by_size(
        numbers["sizes"], title=f"{len(dataset)} images: average precision by size"
    )
    figures["confusion"], _ = plot_confusion(matrix, shown, title=subject)
    index = {image_id: n for n, image_id in enumerate(dataset.image_ids)}

    def crop(record: ErrorRecord) -> dict:
        return {
            "image": dataset[index[record.image_id]][0],
            "predicted": record.box,
            "ground_truth": record.true_box,
            "caption": caption(record, dict(zip(labels, shown, strict=True))),
        }

    figures["errors"], _ = plot_crops(
        {
            f"{kind}, {counts[kind]}: {meaning}": [
                crop(record) for record in worst_errors(records, kind, COLUMNS)
            ]
            for kind, meaning in ERRORS.items()
        },
        COLUMNS,
        title=f"{subject}: the worst errors",
    )
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    content = {
        **numbers,
        "categories": [
            {"id": int(i), "name": dataset.categories[i], **row}
            for i, row in numbers["categories"].items()
        ],
        "precision_recall": {
            "iou_thresholds": coco.params.iouThrs.tolist(),
            "recalls": coco.params.recThrs.tolist(),
            **{name: values.tolist() for name, values in curves.items()},
        },
        "threshold": threshold,
        "counts": counts,
        "confusion": {"names": [*names, "background"], "counts": matrix.tolist()},
        "errors": [vars(record) for record in records if record.kind != "correct"],
    }
    atomic_write(folder / "numbers.json", json.dumps(rounded(content)).encode())
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    files = ", ".join([*(f"{name}.png" for name in figures), "numbers.json"])
    return f"{subject}:\n{summary}\nwrote {files} to {folder}"


def caption(record: ErrorRecord, categories: dict[int, str]) -> str:
    """The lines below a crop, such as "predicted cat 0.90", "ground truth dog", "IoU 0.43".

    Args:
        record: The error to describe.
        categories: {label: name}.

    Returns:
        One to three lines, each short enough for a narrow crop.
    """
    if record.label is None:
        assert record.true_label is not None and record.true_box is not None
        x1, y1, x2, y2 = record.true_box
        return f"{categories[record.true_label]}, {x2 - x1:.0f} x {y2 - y1:.0f} px"
    predicted = f"predicted {categories[record.label]} {record.score:.2f}"
    if record.true_label is None:
        return predicted
    iou = math.floor(100 * record.iou) / 100  # 0.499 is not yet 0.50
    return f"{predicted}\nground truth {categories[record.true_label]}\nIoU {iou:.2f}"


def rounded(content):
    """The same numbers, names and lists, with floats rounded to five decimals."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    return round(content, 5) if isinstance(content, float) else content
