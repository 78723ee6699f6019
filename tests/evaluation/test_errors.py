"""The kinds of error, each in detections of which exactly one thing is wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from ddetr_edu.data.coco import coco_ground_truth
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.evaluation.coco_metrics import score
from ddetr_edu.evaluation.errors import (
    ERRORS,
    ErrorRecord,
    classify_errors,
    confusion_matrix,
    count_errors,
    worst_errors,
)

CAT, DOG, BRUSH = 3, 7, 90  # ids with gaps
CAT_BOX, DOG_BOX, BRUSH_BOX = [10, 20, 60, 40], [80, 70, 40, 45], [30, 10, 50, 90]
CROWD_BOX = [100, 5, 40, 100]


def annotation(image, category, box, crowd=0):
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": crowd,
    }


TRUTH = [
    annotation(5, CAT, CAT_BOX),
    annotation(5, DOG, DOG_BOX),
    annotation(23, BRUSH, BRUSH_BOX),
    annotation(23, CAT, CROWD_BOX, crowd=1),
]


def found(image, category, box, score=0.9):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


RIGHT = [found(5, CAT, CAT_BOX), found(5, DOG, DOG_BOX, 0.8), found(23, BRUSH, BRUSH_BOX, 0.7)]
WITHOUT_DOG = [RIGHT[0], RIGHT[2]]
NEAR_DOG = [100, 70, 40, 45]  # half its width aside: an IoU of 1/3
ON_DOG = [82, 70, 40, 45]  # an IoU of 38/42


def evaluated(detections, truth=TRUTH) -> COCOeval:
    """Three images; number 11 has no object."""
    images = [{"id": i, "width": 150, "height": 120, "file_name": ""} for i in (5, 11, 23)]
    categories = {CAT: "cat", DOG: "dog", BRUSH: "brush"}
    return score(
        detections,
        SimpleNamespace(
            image_ids=[5, 11, 23], ground_truth=lambda: coco_ground_truth(images, truth, categories)
        ),
    )


def only(kind, records) -> ErrorRecord:
    """The record of the one thing that is wrong."""
    (wrong,) = [r for r in records if r.kind != "correct"]
    assert wrong.kind == kind
    return wrong


def test_nothing_is_wrong_with_the_ground_truth():
    records = classify_errors(evaluated(RIGHT))
    assert [r.kind for r in records] == ["correct"] * 3
    assert [(r.image_id, r.label, r.true_label) for r in records] == [
        (5, CAT, CAT),
        (5, DOG, DOG),
        (23, BRUSH, BRUSH),
    ]
    assert records[1].box == records[1].true_box == (80, 70, 120, 115)
    assert all(r.iou == pytest.approx(1) for r in records)


def test_missed():
    wrong = only("missed", classify_errors(evaluated(WITHOUT_DOG)))
    assert (wrong.image_id, wrong.true_label, wrong.true_box) == (5, DOG, (80, 70, 120, 115))
    assert wrong.label is wrong.box is wrong.score is None


def test_duplicate():
    wrong = only("duplicate", classify_errors(evaluated([*RIGHT, found(5, DOG, ON_DOG, 0.6)])))
    assert (wrong.label, wrong.true_label, wrong.score) == (DOG, DOG, 0.6)
    assert wrong.iou == pytest.approx(38 / 42)
    # Of two, the one with the lower score is the duplicate, even if its box is the better one.
    better = [*WITHOUT_DOG, found(5, DOG, ON_DOG, 0.8), found(5, DOG, DOG_BOX, 0.6)]
    assert only("duplicate", classify_errors(evaluated(better))).iou == pytest.approx(1)


def test_localization():
    wrong = only(
        "localization", classify_errors(evaluated([*WITHOUT_DOG, found(5, DOG, NEAR_DOG)]))
    )
    assert (wrong.label, wrong.true_label, wrong.iou) == (DOG, DOG, pytest.approx(1 / 3))
    assert wrong.box == (100, 70, 140, 115) and wrong.true_box == (80, 70, 120, 115)


def test_classification():
    wrong = only(
        "classification", classify_errors(evaluated([*WITHOUT_DOG, found(5, CAT, ON_DOG)]))
    )
    assert (wrong.label, wrong.true_label, wrong.iou) == (CAT, DOG, pytest.approx(38 / 42))


def test_both_class_and_localization():
    records = classify_errors(evaluated([*RIGHT, found(5, BRUSH, NEAR_DOG)]))
    wrong = only("both", records)
    assert (wrong.label, wrong.true_label, wrong.iou) == (BRUSH, DOG, pytest.approx(1 / 3))
    # A detection that is wrong in both leaves its object missed.
    records = classify_errors(evaluated([*WITHOUT_DOG, found(5, BRUSH, NEAR_DOG)]))
    kinds = [r.kind for r in records if r.image_id == 5]
    assert kinds == ["correct", "both", "missed"]


@pytest.mark.parametrize(
    "image, category, box",
    [
        (11, CAT, [10, 10, 30, 30]),  # an image without an object
        (5, CAT, [5, 80, 20, 20]),  # far from every object
        (5, CAT, [65, 55, 100, 20]),  # touching the cat and the dog
        (23, DOG, [105, 10, 30, 60]),  # only a crowd of its own class makes it ignored
    ],
)
def test_background(image, category, box):
    wrong = only("background", classify_errors(evaluated([*RIGHT, found(image, category, box)])))
    assert wrong.true_box is wrong.true_label is wrong.object_id is None
    assert wrong.label == category and wrong.iou < 0.1


def test_a_crowd_is_no_object_and_its_detections_are_ignored():
    assert len(classify_errors(evaluated([*RIGHT, found(23, CAT, [105, 10, 30, 60])]))) == 3


@pytest.mark.parametrize(
    "height, kind", [(50, "correct"), (49, "localization"), (10, "localization"), (9, "background")]
)
def test_the_thresholds_of_the_iou_are_a_half_and_a_tenth(height, kind):
    truth = [annotation(5, CAT, [0, 0, 10, 100])]
    records = classify_errors(evaluated([found(5, CAT, [0, 0, 10, height])], truth))
    assert records[0].kind == kind and records[0].iou == pytest.approx(height / 100)
    assert len(records) == (2 if kind == "background" else 1)  # then the object is missed, too


def test_where_two_kinds_apply_the_larger_overlap_takes_precedence():
    truth = [annotation(5, CAT, [0, 0, 50, 100]), annotation(5, DOG, [10, 0, 50, 100])]
    both_there = [found(5, CAT, [0, 0, 50, 100], 0.9), found(5, DOG, [10, 0, 50, 100], 0.8)]
    # on the cat with 45/55, on the dog with 45/55: a duplicate of its own class
    wrong = only(
        "duplicate",
        classify_errors(evaluated([*both_there, found(5, DOG, [5, 0, 50, 100], 0.7)], truth)),
    )
    assert wrong.true_label == DOG
    # a third of the cat, nearly all of the dog: of the wrong class, though a cat is near
    wrong = only(
        "classification",
        classify_errors(evaluated([*both_there, found(5, CAT, [25, 0, 35, 100], 0.7)], truth)),
    )
    assert wrong.true_label == DOG and wrong.iou == pytest.approx(0.7)


def test_only_detections_from_the_threshold_on_are_classified():
    detections = [*WITHOUT_DOG, found(5, DOG, DOG_BOX, 0.4), found(11, CAT, CAT_BOX, 0.3)]
    assert only("missed", classify_errors(evaluated(detections))).true_label == DOG
    assert only("background", classify_errors(evaluated(detections), 0.3)).image_id == 11
    assert count_errors(classify_errors(evaluated(detections), 0.4))["correct"] == 3
    assert count_errors(classify_errors(evaluated(detections), 1.0))["missed"] == 3


def noisy(scenes, count=9, seed=0) -> list[dict]:
    """Detections of every kind: objects moved, relabelled, repeated, and random boxes."""
    random = np.random.default_rng(seed)
    truth, detections = scenes.ground_truth(), []
    for a in truth.anns.values():
        for _ in range(random.integers(0, 4)):
            box = np.array(a["bbox"]) * (1 + 0.15 * random.normal(size=4))
            label = a["category_id"] if random.random() < 0.6 else random.integers(1, 7)
            detections.append(found(a["image_id"], int(label), box.tolist(), random.random()))
    for image in scenes.image_ids:
        box = [*random.random(2) * 100, *random.random(2) * 60 + 5]
        detections.append(found(image, 2, box, random.random()))
    return detections


def test_what_is_correct_is_what_cocos_recall_counts():
    coco = score(noisy(Shapes(7, seed=3)), Shapes(7, seed=3))
    records = classify_errors(coco, 0.0)
    for k, label in enumerate(coco.params.catIds):
        objects = [a for a in coco.cocoGt.anns.values() if a["category_id"] == label]
        right = sum(r.kind == "correct" and r.label == label for r in records)
        assert right / len(objects) == pytest.approx(coco.eval["recall"][0, k, 0, -1])
    assert min(count_errors(records).values()) > 0  # every kind occurred


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_every_object_and_every_detection_counts_once(threshold):
    scenes = Shapes(7, seed=3)
    detections, truth = noisy(scenes), scenes.ground_truth()
    records = classify_errors(score(detections, scenes), threshold)
    labels = list(scenes.categories)
    matrix = confusion_matrix(records, labels)
    assert matrix.shape == (7, 7) and matrix[-1, -1] == 0
    for k, label in enumerate(labels):
        assert matrix[k].sum() == len(truth.getAnnIds(catIds=[label]))
        counted = [d for d in detections if d["category_id"] == label and d["score"] >= threshold]
        assert matrix[:, k].sum() == len(counted)
        assert matrix[k, k] == sum(r.kind == "correct" and r.label == label for r in records)
    assert len([r for r in records if r.label is not None]) == sum(
        d["score"] >= threshold for d in detections
    )
    assert set(count_errors(records)) == {"correct", *ERRORS}


def test_the_confusion_of_one_dog():
    def rows(*detections):
        matrix = confusion_matrix(
            classify_errors(evaluated([*WITHOUT_DOG, *detections])), [CAT, DOG, BRUSH]
        )
        return {
            tuple(map(int, cell)): int(matrix[tuple(cell)])
            for cell in np.argwhere(matrix)
            if matrix[tuple(cell)]
        }

    right = {(0, 0): 1, (2, 2): 1}
    cat_on_dog, brush_on_dog = found(5, CAT, ON_DOG, 0.6), found(5, BRUSH, ON_DOG, 0.7)
    assert rows() == {**right, (1, 3): 1}  # not found
    assert rows(RIGHT[1]) == {**right, (1, 1): 1}
    assert rows(cat_on_dog) == {**right, (1, 0): 1}
    assert rows(found(5, DOG, NEAR_DOG)) == {**right, (1, 3): 1, (3, 1): 1}
    # Of two wrong classes the one with the higher score counts; the other is on background.
    assert rows(cat_on_dog, brush_on_dog) == {**right, (1, 2): 1, (3, 0): 1}
    # Once it is found, wrong classes are on background, whatever they score.
    assert rows(found(5, DOG, DOG_BOX, 0.5), cat_on_dog) == {**right, (1, 1): 1, (3, 0): 1}


def test_the_worst_have_the_highest_scores_and_the_missed_are_the_largest():
    duplicates = [
        ErrorRecord("duplicate", n, CAT, (0, 0, 1, 1), s) for n, s in enumerate((0.5, 0.9, 0.7))
    ]
    missed = [
        ErrorRecord("missed", n, true_box=(0, 0, side, 10)) for n, side in enumerate((3, 2, 9))
    ]
    assert [r.image_id for r in worst_errors(duplicates + missed, "duplicate", 2)] == [1, 2]
    assert [r.image_id for r in worst_errors(duplicates + missed, "missed", 9)] == [2, 0, 1]
    assert worst_errors(duplicates, "both", 3) == []
