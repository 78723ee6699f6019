"""What is wrong with each detection: one verdict for every detection and every missed object."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

FOUND, NEAR = 0.5, 0.1  # the IoU that finds an object, and the least that is about one at all

# Each kind of error, and what it says in a sentence.
ERRORS = {
    "missed": "an object neither found, nor misplaced, nor taken for another class",
    "doubled": "its object already has a detection of the right class with a higher score",
    "misplaced": f"the right class, but an IoU of only {NEAR} to {FOUND}",
    "wrong class": f"an IoU of {FOUND} or more with an object of another class",
    "both": f"another class, and an IoU of only {NEAR} to {FOUND}",
    "background": f"an IoU below {NEAR} with every object: nothing is there",
}

# In this order: kind, whether the object is of the detection's class, and the least IoU with it.
RULES = (
    ("doubled", True, FOUND),
    ("wrong class", False, FOUND),
    ("misplaced", True, NEAR),
    ("both", False, NEAR),
)


@dataclass(frozen=True)
class Verdict:
    """About one detection and the object it is nearest to, or about an object that was missed.

    Boxes are (x1, y1, x2, y2) in pixels. Without a detection `label`, `box` and `score` are None,
    without an object `object_id`, `true_label` and `true_box`.
    """

    kind: str  # "correct", or one of ERRORS
    image_id: int
    label: int | None = None
    box: tuple[float, ...] | None = None
    score: float | None = None
    object_id: int | None = None
    true_label: int | None = None
    true_box: tuple[float, ...] | None = None
    iou: float = 0.0


def judge(coco: COCOeval, threshold: float = 0.5) -> list[Verdict]:
    """Give each detection that scores at least `threshold`, and each missed object, its verdict.

    What is correct is COCO's decision at an IoU of 0.5: detections choose in the order of their
    scores, each the free object of its class that it overlaps most. Detections that lie in a crowd
    of their class are passed over, as COCO does. The others are errors of six kinds, told apart by
    their IoU with the objects of the picture; where two fit, the larger overlap decides first:

    - doubled: at least 0.5 with an object of its class, which has a better detection
    - wrong class: at least 0.5 with an object of another class
    - misplaced: 0.1 to 0.5 with an object of its class
    - both: 0.1 to 0.5 with an object of another class
    - background: less than 0.1 with everything
    - missed: an object without a detection, be it correct, misplaced or of the wrong class

    coco: after its evaluate(), from `ddetr_edu.training.evaluate.score`
    Returns: the verdicts, picture by picture, in each from high score to low and the missed last.
    Source: the error types and thresholds of Bolya et al., TIDE (arXiv 2008.08115), section 2.2;
        there a misplaced detection is never called one of the wrong class.
    """
    objects_of, counts = coco_matches(coco)
    verdicts = []
    for image_id in map(int, coco.params.imgIds):
        objects = [
            o
            for o in coco.cocoGt.imgToAnns[image_id]
            if not o["iscrowd"] and o["category_id"] in coco.params.catIds
        ]
        found = [
            d
            for d in coco.cocoDt.imgToAnns[image_id]
            if d["score"] >= threshold and d["id"] in counts
        ]
        found.sort(key=lambda d: -d["score"])
        verdicts += judge_picture(image_id, found, objects, objects_of)
    return verdicts


def coco_matches(coco: COCOeval) -> tuple[dict[int, int], set[int]]:
    """COCO's decisions at IoU 0.5, of objects of every size.

    Returns: {detection id: object id} of those that are correct, and the ids of all detections
        that count, for or against the detector.
    """
    objects_of, counts = {}, set()
    for entry in coco.evalImgs:
        if entry is None or entry["aRng"] != coco.params.areaRng[0]:
            continue
        rows = zip(entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True)
        for detection, match, ignored in rows:
            if not ignored:
                counts.add(detection)
                if match:
                    objects_of[detection] = int(match)
    return objects_of, counts


def judge_picture(
    image_id: int, found: list[dict], objects: list[dict], objects_of: dict[int, int]
) -> list[Verdict]:
    """The verdicts of one picture, as `judge` explains; annotations in COCO's format."""
    verdicts, explained = [], set()
    place = {o["id"]: n for n, o in enumerate(objects)}
    if found and objects:
        overlaps = mask.iou(
            [d["bbox"] for d in found], [o["bbox"] for o in objects], [0] * len(objects)
        )
    else:
        overlaps = np.zeros((len(found), len(objects)))
    for detection, overlap in zip(found, overlaps, strict=True):
        same = np.array([o["category_id"] == detection["category_id"] for o in objects], bool)
        nearest = {own: np.where(same == own, overlap, -1) for own in (True, False)}
        kind, n = "background", None
        if detection["id"] in objects_of:
            kind, n = "correct", place[objects_of[detection["id"]]]
        else:
            for rule, own, least in RULES:
                if nearest[own].max(initial=-1) >= least:
                    kind, n = rule, int(nearest[own].argmax())
                    break
        if kind in ("correct", "misplaced", "wrong class"):
            explained.add(n)
        verdicts.append(
            Verdict(
                kind,
                image_id,
                detection["category_id"],
                corners(detection),
                detection["score"],
                **({} if n is None else about(objects[n])),
                iou=float(overlap.max(initial=0) if n is None else overlap[n]),
            )
        )
    missed = (o for n, o in enumerate(objects) if n not in explained)
    return verdicts + [Verdict("missed", image_id, **about(o)) for o in missed]


def about(annotation: dict) -> dict:
    """What a verdict says of its object."""
    return {
        "object_id": annotation["id"],
        "true_label": annotation["category_id"],
        "true_box": corners(annotation),
    }


def corners(annotation: dict) -> tuple[float, ...]:
    """COCO's box [x, y, w, h] as (x1, y1, x2, y2)."""
    x, y, w, h = annotation["bbox"]
    return x, y, x + w, y + h


def count_errors(verdicts: list[Verdict]) -> dict[str, int]:
    """How many verdicts there are of each kind, "correct" first."""
    counts = Counter(v.kind for v in verdicts)
    return {kind: counts[kind] for kind in ("correct", *ERRORS)}


def confusion_matrix(verdicts: list[Verdict], labels: list[int]) -> np.ndarray:
    """What each object was taken for: rows the true classes, columns the found ones.

    The last column is for objects that no detection has found, the last row for detections for
    which no object is left: (K+1, K+1) whole numbers. An object counts once, in the column of its
    class if that was found, or else of the best detection of another class with an IoU of at least
    0.5; a detection counts once, too. So rows add up to the objects of a class, and columns to its
    detections.

    verdicts: in the order of `judge`;  labels: of the K classes
    """
    place = {label: n for n, label in enumerate(labels)}
    nothing = len(labels)
    matrix = np.zeros((nothing + 1, nothing + 1), dtype=int)
    free = {v.object_id: v.true_label for v in verdicts if v.object_id is not None}
    # Correct detections first: the others take what these leave, in the order of their scores.
    for verdict in sorted(verdicts, key=lambda v: v.kind != "correct"):
        if verdict.label is None:
            continue
        row = nothing
        if verdict.kind in ("correct", "wrong class") and verdict.object_id in free:
            row = place[free.pop(verdict.object_id)]
        matrix[row, place[verdict.label]] += 1
    for label in free.values():
        matrix[place[label], nothing] += 1
    return matrix


def worst(verdicts: list[Verdict], kind: str, count: int) -> list[Verdict]:
    """The worst errors of a kind: the surest detections, or the largest of the missed objects."""

    def how_bad(verdict: Verdict) -> float:
        if verdict.score is not None:
            return verdict.score
        x1, y1, x2, y2 = verdict.true_box
        return (x2 - x1) * (y2 - y1)

    return sorted((v for v in verdicts if v.kind == kind), key=how_bad, reverse=True)[:count]
