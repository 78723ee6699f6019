"""What is wrong with each detection: every detection and every missed object is classified."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from ddetr_edu.detector import check_threshold

# From the first IoU on a detection has found an object; below the second it is on background.
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1

# Each kind of error, and what it means.
ERRORS = {
    "missed": "no detection is correct or has only a localization or classification error",
    "duplicate": "the object already has a detection of the right class with a higher score",
    "localization": f"the right class, but an IoU of only {BACKGROUND_IOU} to {FOREGROUND_IOU}",
    "classification": f"an IoU of {FOREGROUND_IOU} or more with an object of another class",
    "both": f"another class, and an IoU of only {BACKGROUND_IOU} to {FOREGROUND_IOU}",
    "background": f"an IoU below {BACKGROUND_IOU} with every object",
}

# In this order: kind, whether the object is of the detection's class, and the lowest IoU with it.
RULES = (
    ("duplicate", True, FOREGROUND_IOU),
    ("classification", False, FOREGROUND_IOU),
    ("localization", True, BACKGROUND_IOU),
    ("both", False, BACKGROUND_IOU),
)


@dataclass(frozen=True)
class ErrorRecord:
    """A classified detection and the object that it is about, or an object that was missed.

    Boxes are (x1, y1, x2, y2) in pixels. A missed object has no `label`, `box` and `score`, a
    detection on background no `object_id`, `true_label` and `true_box`.
    """

    kind: str  # "correct", or one of ERRORS
    image_id: int
    label: int | None = None  # predicted
    box: tuple[float, ...] | None = None
    score: float | None = None
    object_id: int | None = None  # of the ground truth's annotation
    true_label: int | None = None
    true_box: tuple[float, ...] | None = None
    iou: float = 0.0  # of both boxes; on background, the highest with any object


def classify_errors(coco: COCOeval, threshold: float = 0.5) -> list[ErrorRecord]:
    """Classify each detection that scores at least `threshold`, and each missed object.

    Which detections are correct is COCO's decision at an IoU of 0.5: in the order of their scores,
    each takes the free object of its class that it overlaps most. Detections inside a crowd of
    their class are ignored, as COCO does. The others are errors of six kinds, told apart by their
    IoU with the objects of the image; where two kinds apply, the larger overlap takes precedence:

    - duplicate: at least 0.5 with an object of its class, which has a better detection
    - classification: at least 0.5 with an object of another class
    - localization: 0.1 to 0.5 with an object of its class
    - both: 0.1 to 0.5 with an object of another class
    - background: less than 0.1 with every object
    - missed: an object without a detection that is correct or a localization or classification
      error

    Source: the error types and thresholds of Bolya et al., TIDE (arXiv 2008.08115), section 2.2;
        there a localization error is never called a classification error.

    Args:
        coco: After its evaluate(), from `ddetr_edu.evaluation.coco_metrics.score`.
        threshold: The lowest score of a detection.

    Returns:
        The records, image by image; in each image from high score to low, and missed objects last.

    Raises:
        ValueError: For a threshold outside 0 to 1.
    """
    check_threshold(threshold)
    matched, counted = coco_matches(coco)
    records = []
    for image_id in map(int, coco.params.imgIds):
        objects = [
            o
            for o in coco.cocoGt.imgToAnns[image_id]
            if not o["iscrowd"] and o["category_id"] in coco.params.catIds
        ]
        detections = [
            d
            for d in coco.cocoDt.imgToAnns[image_id]
            if d["score"] >= threshold and d["id"] in counted
        ]
        detections.sort(key=lambda d: -d["score"])
        records += classify_image_errors(image_id, detections, objects, matched)
    return records


def coco_matches(coco: COCOeval) -> tuple[dict[int, int], set[int]]:
    """COCO's matching at an IoU of 0.5, of objects of every size.

    Args:
        coco: After its evaluate().

    Returns:
        {detection id: object id} of the correct detections, and the ids of all detections that
        count, for or against the detector.
    """
    matched: dict[int, int] = {}
    counted: set[int] = set()
    for entry in coco.evalImgs:
        if entry is None or entry["aRng"] != coco.params.areaRng[0]:
            continue
        rows = zip(entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True)
        for detection, match, ignored in rows:
            if not ignored:
                counted.add(detection)
                if match:
                    matched[detection] = int(match)
    return matched, counted


def classify_image_errors(
    image_id: int, detections: list[dict], objects: list[dict], matched: dict[int, int]
) -> list[ErrorRecord]:
    """The records of one image, as `classify_errors` explains.

    Args:
        image_id: The image.
        detections: COCO annotations, from high score to low.
        objects: COCO annotations.
        matched: {detection id: object id} of the correct detections.

    Returns:
        One record for each detection, in their order, then one for each missed object.
    """
    records: list[ErrorRecord] = []
    explained: set[int] = set()  # indices of objects that are not missed
    index = {o["id"]: n for n, o in enumerate(objects)}
    if detections and objects:
        ious = mask.iou(
            [d["bbox"] for d in detections], [o["bbox"] for o in objects], [0] * len(objects)
        )
    else:
        ious = np.zeros((len(detections), len(objects)))
    for detection, iou in zip(detections, ious, strict=True):
        same = np.array([o["category_id"] == detection["category_id"] for o in objects], bool)
        nearest = {
            same_class: np.where(same == same_class, iou, -1) for same_class in (True, False)
        }
        kind, n = "background", None
        if detection["id"] in matched:
            kind, n = "correct", index[matched[detection["id"]]]
        else:
            for rule, same_class, min_iou in RULES:
                if nearest[same_class].max(initial=-1) >= min_iou:
                    kind, n = rule, int(nearest[same_class].argmax())
                    break
        if n is not None and kind in ("correct", "localization", "classification"):
            explained.add(n)
        records.append(
            ErrorRecord(
                kind,
                image_id,
                detection["category_id"],
                to_xyxy(detection["bbox"]),
                detection["score"],
                **({} if n is None else ground_truth_fields(objects[n])),
                iou=float(iou.max(initial=0) if n is None else iou[n]),
            )
        )
    missed = (o for n, o in enumerate(objects) if n not in explained)
    return records + [ErrorRecord("missed", image_id, **ground_truth_fields(o)) for o in missed]


def ground_truth_fields(annotation: dict) -> dict:
    """The fields of an ErrorRecord about its object, from a COCO annotation."""
    return {
        "object_id": annotation["id"],
        "true_label": annotation["category_id"],
        "true_box": to_xyxy(annotation["bbox"]),
    }


def to_xyxy(bbox: list[float]) -> tuple[float, ...]:
    """COCO's box [x, y, w, h] as (x1, y1, x2, y2)."""
    x, y, w, h = bbox
    return x, y, x + w, y + h


def count_errors(records: list[ErrorRecord]) -> dict[str, int]:
    """How many records there are of each kind.

    Args:
        records: From `classify_errors`.

    Returns:
        {kind: number}, "correct" first, then every kind of ERRORS.
    """
    counts = Counter(record.kind for record in records)
    return {kind: counts[kind] for kind in ("correct", *ERRORS)}


def confusion_matrix(records: list[ErrorRecord], labels: list[int]) -> np.ndarray:
    """As which class each object was predicted: rows are the ground truth, columns predictions.

    An object counts once: in the column of its class if it has a correct detection, or else of the
    best detection of another class with an IoU of at least 0.5, or else in the last column, of
    objects predicted as background. A detection counts once, too: those left without an object are
    in the last row, background. So rows sum to the objects of a class, columns to its detections.

    Args:
        records: In the order of `classify_errors`.
        labels: Those of the K classes.

    Returns:
        (K+1, K+1) integers, the last row and column for background.
    """
    index = {label: n for n, label in enumerate(labels)}
    background = len(labels)
    matrix = np.zeros((background + 1, background + 1), dtype=int)
    free = {
        record.object_id: index[record.true_label]
        for record in records
        if record.object_id is not None and record.true_label is not None
    }
    # Correct detections first: the others take what these leave, in the order of their scores.
    for record in sorted(records, key=lambda record: record.kind != "correct"):
        if record.label is None:
            continue
        row = background
        if record.object_id is not None and record.kind in ("correct", "classification"):
            row = free.pop(record.object_id, background)
        matrix[row, index[record.label]] += 1
    for row in free.values():
        matrix[row, background] += 1
    return matrix


def worst_errors(records: list[ErrorRecord], kind: str, count: int) -> list[ErrorRecord]:
    """The worst errors of a kind: the highest scores, or the largest of the missed objects.

    Args:
        records: From `classify_errors`.
        kind: One of ERRORS.
        count: Return at most this many.

    Returns:
        The worst, worst first.
    """

    def badness(record: ErrorRecord) -> float:
        if record.score is not None:
            return record.score
        assert record.true_box is not None  # without a detection there is an object
        x1, y1, x2, y2 = record.true_box
        return (x2 - x1) * (y2 - y1)

    return sorted((r for r in records if r.kind == kind), key=badness, reverse=True)[:count]
