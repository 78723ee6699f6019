"""The kinds of error, each in detections of which exactly one thing is wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from ddetr_edu.data import Shapes
from ddetr_edu.data.coco import coco_ground_truth
from ddetr_edu.training.errors import (
    ERRORS,
    Verdict,
    confusion_matrix,
    count_errors,
    judge,
    worst,
)
from ddetr_edu.training.evaluate import score

CAT, DOG, BRUSH = 3, 7, 90  # ids with gaps
CAT_BOX, DOG_BOX, BRUSH_BOX = [10, 20, 60, 40], [80, 70, 40, 45], [30, 10, 50, 90]
CROWD_BOX = [100, 5, 40, 100]


def annotation(image, category, box, crowd=0):
    return {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3],
            "iscrowd": crowd}  # fmt: skip


TRUTH = [annotation(5, CAT, CAT_BOX), annotation(5, DOG, DOG_BOX), annotation(23, BRUSH, BRUSH_BOX),
         annotation(23, CAT, CROWD_BOX, crowd=1)]  # fmt: skip


def found(image, category, box, score=0.9):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


RIGHT = [found(5, CAT, CAT_BOX), found(5, DOG, DOG_BOX, 0.8), found(23, BRUSH, BRUSH_BOX, 0.7)]
WITHOUT_DOG = [RIGHT[0], RIGHT[2]]
NEAR_DOG = [100, 70, 40, 45]  # half its width aside: an IoU of 1/3
ON_DOG = [82, 70, 40, 45]  # an IoU of 38/42


def evaluated(detections, truth=TRUTH) -> COCOeval:
    """Three pictures; number 11 has no object."""
    images = [{"id": i, "width": 150, "height": 120, "file_name": ""} for i in (5, 11, 23)]
    categories = {CAT: "cat", DOG: "dog", BRUSH: "brush"}
    return score(
        detections,
        SimpleNamespace(
            image_ids=[5, 11, 23],
            ground_truth=lambda: coco_ground_truth(images, truth, categories),
        ),
    )


def only(kind, verdicts) -> Verdict:
    """The verdict on the one thing that is wrong."""
    (wrong,) = [v for v in verdicts if v.kind != "correct"]
    assert wrong.kind == kind
    return wrong


def test_nothing_is_wrong_with_the_truth():
    verdicts = judge(evaluated(RIGHT))
    assert [v.kind for v in verdicts] == ["correct"] * 3
    assert [(v.image_id, v.label, v.true_label) for v in verdicts] == [
        (5, CAT, CAT), (5, DOG, DOG), (23, BRUSH, BRUSH)]  # fmt: skip
    assert verdicts[1].box == verdicts[1].true_box == (80, 70, 120, 115)
    assert all(v.iou == pytest.approx(1) for v in verdicts)


def test_missed():
    wrong = only("missed", judge(evaluated(WITHOUT_DOG)))
    assert (wrong.image_id, wrong.true_label, wrong.true_box) == (5, DOG, (80, 70, 120, 115))
    assert wrong.label is wrong.box is wrong.score is None


def test_doubled():
    wrong = only("doubled", judge(evaluated([*RIGHT, found(5, DOG, ON_DOG, 0.6)])))
    assert (wrong.label, wrong.true_label, wrong.score) == (DOG, DOG, 0.6)
    assert wrong.iou == pytest.approx(38 / 42)
    # Of two, the one with the lower score is the double, also where its box is the better one.
    better = [*WITHOUT_DOG, found(5, DOG, ON_DOG, 0.8), found(5, DOG, DOG_BOX, 0.6)]
    assert only("doubled", judge(evaluated(better))).iou == pytest.approx(1)


def test_misplaced():
    wrong = only("misplaced", judge(evaluated([*WITHOUT_DOG, found(5, DOG, NEAR_DOG)])))
    assert (wrong.label, wrong.true_label, wrong.iou) == (DOG, DOG, pytest.approx(1 / 3))
    assert wrong.box == (100, 70, 140, 115) and wrong.true_box == (80, 70, 120, 115)


def test_wrong_class():
    wrong = only("wrong class", judge(evaluated([*WITHOUT_DOG, found(5, CAT, ON_DOG)])))
    assert (wrong.label, wrong.true_label, wrong.iou) == (CAT, DOG, pytest.approx(38 / 42))


def test_both_class_and_place():
    verdicts = judge(evaluated([*RIGHT, found(5, BRUSH, NEAR_DOG)]))
    wrong = only("both", verdicts)
    assert (wrong.label, wrong.true_label, wrong.iou) == (BRUSH, DOG, pytest.approx(1 / 3))
    # So wrong a detection does not speak for its object.
    verdicts = judge(evaluated([*WITHOUT_DOG, found(5, BRUSH, NEAR_DOG)]))
    kinds = [v.kind for v in verdicts if v.image_id == 5]
    assert kinds == ["correct", "both", "missed"]


@pytest.mark.parametrize(
    "image, category, box",
    [
        (11, CAT, [10, 10, 30, 30]),  # a picture without an object
        (5, CAT, [5, 80, 20, 20]),  # far from every object
        (5, CAT, [65, 55, 100, 20]),  # touching the cat and the dog
        (23, DOG, [105, 10, 30, 60]),  # only a crowd of its own class excuses
    ],
)
def test_background(image, category, box):
    wrong = only("background", judge(evaluated([*RIGHT, found(image, category, box)])))
    assert wrong.true_box is wrong.true_label is wrong.object_id is None
    assert wrong.label == category and wrong.iou < 0.1


def test_a_crowd_is_no_object_and_excuses_its_class():
    assert len(judge(evaluated([*RIGHT, found(23, CAT, [105, 10, 30, 60])]))) == 3


@pytest.mark.parametrize(
    "height, kind", [(50, "correct"), (49, "misplaced"), (10, "misplaced"), (9, "background")]
)
def test_an_iou_of_half_finds_and_one_of_a_tenth_is_about_an_object(height, kind):
    truth = [annotation(5, CAT, [0, 0, 10, 100])]
    verdicts = judge(evaluated([found(5, CAT, [0, 0, 10, height])], truth))
    assert verdicts[0].kind == kind and verdicts[0].iou == pytest.approx(height / 100)
    assert len(verdicts) == (2 if kind == "background" else 1)  # then the object is missed, too


def test_where_two_kinds_fit_the_larger_overlap_decides():
    truth = [annotation(5, CAT, [0, 0, 50, 100]), annotation(5, DOG, [10, 0, 50, 100])]
    both_there = [found(5, CAT, [0, 0, 50, 100], 0.9), found(5, DOG, [10, 0, 50, 100], 0.8)]
    # on the cat with 45/55, on the dog with 45/55: a double of its own class
    wrong = only("doubled", judge(evaluated([*both_there, found(5, DOG, [5, 0, 50, 100], 0.7)],
                                            truth)))  # fmt: skip
    assert wrong.true_label == DOG
    # a third of the cat, nearly all of the dog: of the wrong class, though a cat is near
    wrong = only("wrong class", judge(evaluated([*both_there, found(5, CAT, [25, 0, 35, 100], 0.7)],
                                                truth)))  # fmt: skip
    assert wrong.true_label == DOG and wrong.iou == pytest.approx(0.7)


def test_only_detections_from_the_threshold_on_are_judged():
    detections = [*WITHOUT_DOG, found(5, DOG, DOG_BOX, 0.4), found(11, CAT, CAT_BOX, 0.3)]
    assert only("missed", judge(evaluated(detections))).true_label == DOG
    assert only("background", judge(evaluated(detections), 0.3)).image_id == 11
    assert count_errors(judge(evaluated(detections), 0.4))["correct"] == 3
    assert count_errors(judge(evaluated(detections), 1.0))["missed"] == 3


def noisy(scenes, count=9, seed=0) -> list[dict]:
    """Detections of every kind: objects moved, relabelled, repeated, and boxes out of the blue."""
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
    verdicts = judge(coco, 0.0)
    for place, label in enumerate(coco.params.catIds):
        objects = [a for a in coco.cocoGt.anns.values() if a["category_id"] == label]
        right = sum(v.kind == "correct" and v.label == label for v in verdicts)
        assert right / len(objects) == pytest.approx(coco.eval["recall"][0, place, 0, -1])
    assert min(count_errors(verdicts).values()) > 0  # every kind occurred


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_every_object_and_every_detection_counts_once(threshold):
    scenes = Shapes(7, seed=3)
    detections, truth = noisy(scenes), scenes.ground_truth()
    verdicts = judge(score(detections, scenes), threshold)
    labels = list(scenes.categories)
    matrix = confusion_matrix(verdicts, labels)
    assert matrix.shape == (7, 7) and matrix[-1, -1] == 0
    for place, label in enumerate(labels):
        assert matrix[place].sum() == len(truth.getAnnIds(catIds=[label]))
        judged = [d for d in detections
                  if d["category_id"] == label and d["score"] >= threshold]  # fmt: skip
        assert matrix[:, place].sum() == len(judged)
        assert matrix[place, place] == sum(v.kind == "correct" and v.label == label
                                           for v in verdicts)  # fmt: skip
    assert len([v for v in verdicts if v.label is not None]) == sum(
        d["score"] >= threshold for d in detections
    )
    assert set(count_errors(verdicts)) == {"correct", *ERRORS}


def test_the_confusion_of_one_dog():
    def rows(*detections):
        matrix = confusion_matrix(judge(evaluated([*WITHOUT_DOG, *detections])), [CAT, DOG, BRUSH])
        return {tuple(map(int, place)): int(matrix[tuple(place)])
                for place in np.argwhere(matrix) if matrix[tuple(place)]}  # fmt: skip

    right = {(0, 0): 1, (2, 2): 1}
    cat_on_dog, brush_on_dog = found(5, CAT, ON_DOG, 0.6), found(5, BRUSH, ON_DOG, 0.7)
    assert rows() == {**right, (1, 3): 1}  # not found
    assert rows(RIGHT[1]) == {**right, (1, 1): 1}
    assert rows(cat_on_dog) == {**right, (1, 0): 1}
    assert rows(found(5, DOG, NEAR_DOG)) == {**right, (1, 3): 1, (3, 1): 1}
    # The better of two wrong ones is what it was taken for; the other is one too many.
    assert rows(cat_on_dog, brush_on_dog) == {**right, (1, 2): 1, (3, 0): 1}
    # Once it is found, wrong ones are too many, whatever they score.
    assert rows(found(5, DOG, DOG_BOX, 0.5), cat_on_dog) == {**right, (1, 1): 1, (3, 0): 1}


def test_the_worst_are_the_surest_and_of_the_missed_the_largest():
    doubles = [Verdict("doubled", n, CAT, (0, 0, 1, 1), s) for n, s in enumerate((0.5, 0.9, 0.7))]
    missed = [Verdict("missed", n, true_box=(0, 0, side, 10)) for n, side in enumerate((3, 2, 9))]
    assert [v.image_id for v in worst(doubles + missed, "doubled", 2)] == [1, 2]
    assert [v.image_id for v in worst(doubles + missed, "missed", 9)] == [2, 0, 1]
    assert worst(doubles, "both", 3) == []
