"""Lesson 12: its exercises in other styles, what its text relies on, and how it reads labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ddetr_edu as dd
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.checkpoints.transfer import adopt_parameters
from ddetr_edu.course import checks
from ddetr_edu.course.clinic import FAULTS, training_images
from ddetr_edu.course.exercises.lesson_12_clinic import patient_log
from ddetr_edu.course.small_scenes import SIZE, small_scene, write_yolo
from ddetr_edu.data.voc import VocOptions, read_voc
from ddetr_edu.data.yolo import read_yolo
from ddetr_edu.data.yolo_labels import LabelFiles
from ddetr_edu.evaluation.coco_metrics import detect, score
from ddetr_edu.evaluation.errors import classify_errors, count_errors

# The exercises.


def test_class_indices_are_those_of_the_library():
    for category_ids, known_ids in checks.class_indices.cases().values():
        detector = SimpleNamespace(labels=sorted(known_ids.tolist()))
        target = {
            "boxes": torch.tensor([[0.0, 0, 1, 1]] * len(category_ids)),
            "labels": category_ids,
        }
        expected = dd.Detector.prepare_target(detector, target, (2, 2))["labels"]
        assert torch.equal(checks.class_indices.solution(category_ids, known_ids), expected)


def fail(fault):
    raise AssertionError(fault)


def test_label_files_are_read_as_in_the_library(tmp_path):
    names = {n: f"category {n}" for n in range(10)}
    for text, (height, width) in checks.read_yolo.cases().values():
        Image.new("L", (width, height)).save(tmp_path / "photo.png")
        (tmp_path / "photo.txt").write_text(text)
        read = LabelFiles(tmp_path, names, False, fail).read(tmp_path / "photo.png")
        expected = [[1 + int(o["category"].split()[1]), *o["bbox"]] for o in read.objects]
        result = checks.read_yolo.solution(text, (height, width))
        np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("case", ["one of two is known", "all are known, in another order"])
def test_classes_are_adopted_as_in_the_library(case, build):
    _, names, _, trained_names = checks.adopt_classes.cases()[case]
    trained = build(categories=dict(enumerate(trained_names)))
    model = build(seed=1, categories=dict(enumerate(names))).model
    new = {n: p.clone() for n, p in model.state_dict().items() if "class_head.weight" in n}
    adopt_parameters(model, dict(enumerate(names)), trained)
    old, adopted = trained.model.state_dict(), model.state_dict()
    assert len(new) > 1
    for key, weight in new.items():
        expected = checks.adopt_classes.solution(weight, names, old[key], trained_names)
        assert torch.equal(adopted[key], expected)


def test_right_answers_in_other_styles():
    def by_searching(category_ids, known_ids):
        return torch.searchsorted(known_ids.sort().values, category_ids)

    def by_counting(category_ids, known_ids):
        return (known_ids[None] < category_ids[:, None]).sum(1).tolist()

    def by_table(category_ids, known_ids):
        index = {i: k for k, i in enumerate(sorted(known_ids.numpy()))}
        return [index[i] for i in category_ids.numpy()]

    def by_numpy(text, size):
        rows = []
        for line in text.split("\n"):
            values = np.array(line.split(), dtype=float)
            if not len(values):
                continue
            if len(values) == 5:
                low, high = values[1:3] - values[3:] / 2, values[1:3] + values[3:] / 2
            else:
                corners = values[1:].reshape(-1, 2)
                low, high = corners.min(0), corners.max(0)
            rows.append([values[0] + 1, *(low * size[::-1]), *((high - low) * size[::-1])])
        return rows

    def by_where(weight, names, trained_weight, trained_names):
        return torch.stack(
            [
                trained_weight[trained_names.index(n)] if n in trained_names else row
                for n, row in zip(names, weight, strict=True)
            ]
        )

    def by_product(weight, names, trained_weight, trained_names):
        same = torch.tensor([[float(a == b) for b in trained_names] for a in names]).double()
        return same @ trained_weight + (1 - same.sum(1, keepdim=True)) * weight

    for exercise, answer in [
        (checks.class_indices, by_searching),
        (checks.class_indices, by_counting),
        (checks.class_indices, by_table),
        (checks.read_yolo, by_numpy),
        (checks.adopt_classes, by_where),
        (checks.adopt_classes, by_product),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# What the text relies on.


def test_by_hand(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "photo.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    (tmp_path / "photo.txt").write_text("2 0.5 0.25 0.25 0.5\n")
    (tmp_path / "photo.xml").write_text(
        "<annotation><filename>photo.png</filename><object><name>bird</name><bndbox><xmin>49</xmin><ymin>101</ymin>"
        "<xmax>148</xmax><ymax>200</ymax></bndbox></object></annotation>"
    )
    read = [read_yolo(tmp_path, None, fail)]
    read += [read_voc(tmp_path, None, VocOptions(boxes), fail) for boxes in ("pixels", "corners")]
    found = []
    for labelled in read:
        ((photo,),) = labelled.splits.values()
        found.append(photo.objects[0]["bbox"])
    assert found == [[240, 0, 160, 240], [48, 100, 100, 100], [49, 101, 99, 99]]


def test_small_scenes_have_whole_objects_only():
    for index in range(20):
        scene = small_scene(14, index)
        assert scene.image.size == SIZE[::-1]
        assert 1 <= len(scene.boxes) == len(scene.labels) <= 2
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= SIZE[::-1]).all()
        sides = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1)
        assert (sides >= 14).all() and (sides <= 48).all()
    again = small_scene(14, 3)
    assert again.image.tobytes() == small_scene(14, 3).image.tobytes()


def test_a_labelling_tools_export(tmp_path):
    write_yolo(tmp_path / "photos", 5)
    labelled = read_yolo(tmp_path / "photos", None, fail)
    ((*photos, empty),) = labelled.splits.values()
    assert len(photos) == 5 and empty.objects == []
    for index, photo in enumerate(photos):
        scene = small_scene(14, index)
        xyxy = scene.boxes
        boxes = [o["bbox"] for o in photo.objects]
        np.testing.assert_allclose(boxes, np.c_[xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], atol=2e-3)
        labels = {name: i for i, name in labelled.categories.items()}
        assert [labels[o["category"]] for o in photo.objects] == scene.labels.tolist()


def test_what_a_good_detector_finds_in_each_file():
    detections = detect(dd.load(shipped_checkpoint()), training_images(), show_progress=False)
    found = {}
    for threshold in (0.4, 0.5, 0.6):  # a score near the threshold would be one of luck
        for fault in ("nothing", "corners", "x and y swapped", "ids off by one", "next image"):
            compared = score(detections, training_images(FAULTS[fault]))
            n = count_errors(classify_errors(compared, threshold))["correct"]
            assert found.setdefault(fault, n) == n
    assert len(training_images().annotations) == 35
    assert found == {
        "nothing": 35,
        "corners": 10,
        "x and y swapped": 3,
        "ids off by one": 0,
        "next image": 0,
    }


def test_what_the_curves_show_before_the_first_step():
    right, black, jumping = (patient_log(patient)[:5] for patient in ("right", "B", "F"))
    assert black[0]["AP"] < right[0]["AP"] == jumping[0]["AP"] < 0.05
    assert black[1]["box"] == pytest.approx(4 * right[1]["box"], rel=0.1)
    for loss in ("class", "box"):
        assert jumping[1][loss] == pytest.approx(right[1][loss], rel=1e-3)
        assert max(line[loss] for line in jumping[2:]) > 3 * jumping[1][loss]
