"""An evaluation that can be looked at: curves, confusion, the worst errors, and their numbers."""

import json
import math
from pathlib import Path

from pycocotools.cocoeval import COCOeval

from ddetr_edu.training.errors import (
    ERRORS,
    Verdict,
    confusion_matrix,
    count_errors,
    judge,
    worst,
)
from ddetr_edu.viz import (
    plot_confusion,
    plot_crops,
    plot_precision_by_size,
    plot_precision_recall,
)

COLUMNS = 6  # errors of each kind in the gallery


def write_pictures(
    folder: Path, coco: COCOeval, dataset, numbers: dict, threshold: float = 0.5
) -> str:
    """Write what an evaluation found into a folder, as pictures, and as numbers.json.

    - precision_recall.png: by IoU threshold and by category
    - sizes.png: AP, AP50 and AP75 of small, medium and large objects
    - confusion.png: what each class was taken for
    - errors.png: the worst errors of each kind of training/errors.py

    coco: from `ddetr_edu.training.evaluate.score`;  dataset: what it was scored on
    numbers: "metrics", "sizes" and "categories" {id: numbers}, for numbers.json
    threshold: the score from which a detection counts as an answer, in the last two pictures
    Returns: what it says of them, in three lines.
    """
    labels, names = coco.params.catIds, [dataset.categories[i] for i in coco.params.catIds]
    verdicts = judge(coco, threshold)
    counts, matrix = count_errors(verdicts), confusion_matrix(verdicts, labels)
    answers = f"{len(dataset)} pictures, detections that score {threshold:g} or more"

    figures = {}
    figures["precision_recall"], curves = plot_precision_recall(
        coco.eval["precision"][:, :, :, 0, -1], coco.params.iouThrs, coco.params.recThrs, names,
        objects=matrix[:-1].sum(1), title=f"{len(dataset)} pictures: precision against recall",
    )  # fmt: skip
    figures["sizes"], _ = plot_precision_by_size(
        numbers["sizes"], title=f"{len(dataset)} pictures: average precision by size"
    )
    figures["confusion"], _ = plot_confusion(matrix, names, title=answers)
    place = {image_id: n for n, image_id in enumerate(dataset.image_ids)}

    def crop(verdict: Verdict) -> dict:
        return {
            "picture": dataset[place[verdict.image_id]][0],
            "found": verdict.box,
            "true": verdict.true_box,
            "caption": caption(verdict, dataset.categories),
        }

    figures["errors"], _ = plot_crops(
        {
            f"{kind}, {counts[kind]}: {meaning}": [
                crop(v) for v in worst(verdicts, kind, COLUMNS)
            ]
            for kind, meaning in ERRORS.items()
        },
        COLUMNS,
        title=f"{answers}: the surest errors of each kind, the largest missed",
    )  # fmt: skip
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
        "confusion": {"names": [*names, "nothing"], "counts": matrix.tolist()},
        "errors": [vars(v) for v in verdicts if v.kind != "correct"],
    }
    (folder / "numbers.json").write_text(json.dumps(rounded(content)))
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    files = ", ".join([*(f"{name}.png" for name in figures), "numbers.json"])
    return f"{answers}:\n{said}\nwrote {files} to {folder}"


def caption(verdict: Verdict, categories: dict[int, str]) -> str:
    """One or two lines: what was found with which score, and what is there."""
    if verdict.label is None:
        x1, y1, x2, y2 = verdict.true_box
        return f"{categories[verdict.true_label]}, {x2 - x1:.0f} x {y2 - y1:.0f} px"
    found = f"found {categories[verdict.label]} {verdict.score:.2f}"
    if verdict.true_label is None:
        return found
    same = verdict.label == verdict.true_label
    iou = math.floor(100 * verdict.iou) / 100  # 0.499 is not yet 0.50
    return f"{found}\nis {'this' if same else categories[verdict.true_label]}, IoU {iou:.2f}"


def rounded(content):
    """The same numbers, names and lists, with floats of five digits after the point."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    return round(content, 5) if isinstance(content, float) else content
