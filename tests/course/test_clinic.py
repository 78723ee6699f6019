"""The clinic of lesson 12: each fault has one cure, and what a machine can see of it is named."""

import itertools

import pytest
import torch

from ddetr_edu.course import checks
from ddetr_edu.course.clinic import CURES, FAULTS, errors_named, training_images
from ddetr_edu.course.clinic_training import (
    EVAL_EVERY,
    STEPS,
    fine_tune,
    read_log,
    starting_detector,
)
from ddetr_edu.course.exercises.lesson_12_clinic import (
    DIAGNOSES,
    PATIENTS,
    patient_images,
    patient_log,
    try_cure,
)
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.faults import DataError
from ddetr_edu.data.objects import CORNERS, SWAPPED, read_objects
from ddetr_edu.data.validate import validate_dataset

NAMED = {  # the faults of annotations, and what is said about them
    "nothing": [],
    "corners": [CORNERS],
    "x and y swapped": [SWAPPED],
    "ids off by one": ["annotations of unlisted categories"],
    "next image": [],  # nothing is wrong with the numbers
}


@pytest.mark.parametrize("fault", NAMED)
def test_validate_names_what_a_machine_can_see(fault, tmp_path):
    training_images(FAULTS[fault]).write(tmp_path, "train")
    (report,) = validate_dataset(tmp_path)
    assert list(report.errors) == NAMED[fault] == errors_named(FAULTS[fault])
    if NAMED[fault]:
        with pytest.raises(DataError):
            CocoDetection(tmp_path, "train")
    else:
        dataset, expected = CocoDetection(tmp_path, "train"), training_images(FAULTS[fault])
        assert dataset.faults == ""
        for (image, target), (same, careless) in zip(dataset, expected, strict=True):
            assert torch.equal(image, same)
            assert torch.equal(target["boxes"], careless["boxes"])
            assert torch.equal(target["labels"], careless["labels"])


def read(boxes, size) -> list[str]:
    """The kinds of faults of some boxes in an image of a size (H, W)."""
    images = {1: {"id": 1, "height": size[0], "width": size[1]}}
    annotations = [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes]
    faults = []
    read_objects(annotations, images, "file.json", faults.append)
    return [fault.kind for fault in faults]


def test_x_and_y_are_not_taken_for_swapped_by_chance():
    inside, beyond = [10.0, 20, 30, 40], [10.0, 70, 20, 50]  # the second ends at y = 120
    assert read([inside] * 9 + [beyond] * 3, (100, 150)) == [SWAPPED]
    # Two boxes may leave their image by mistake, and a tenth of many as well.
    assert read([inside] * 3 + [beyond] * 2, (100, 150)) == ["boxes partly outside the image"] * 2
    assert len(read([inside] * 40 + [beyond] * 4, (100, 150))) == 4
    # One box that would not be inside in the other way, either, is enough to know better.
    assert SWAPPED not in read([inside] * 9 + [beyond] * 3 + [[120.0, 10, 20, 20]], (100, 150))
    assert SWAPPED not in read([inside] * 9 + [beyond] * 3, (110, 110))


def test_every_fault_has_one_cure():
    right = training_images().annotations
    for fault, word in itertools.product(FAULTS, CURES):
        change = FAULTS[fault].then(CURES[word])
        cured = training_images(change).annotations == right
        is_right = cured and change.lr == pytest.approx(1) and change.pixels == pytest.approx(1)
        assert is_right == (fault == word), (fault, word)
    assert list(CURES) == list(DIAGNOSES)
    assert set(FAULTS) < set(CURES)
    assert set(PATIENTS.values()) == set(FAULTS) - {"nothing"}


def test_patients_look_as_their_faults_do():
    right = training_images()
    for patient, fault in PATIENTS.items():
        images = patient_images(patient)
        in_annotations = bool(NAMED.get(fault)) or fault == "next image"
        assert (images.annotations != right.annotations) == in_annotations
    swapped = training_images(FAULTS["ids off by one"])
    labels = {
        a["category_id"]: b["category_id"]
        for a, b in zip(right.annotations, swapped.as_read, strict=True)
    }
    assert all(read == (label - 2) % 6 + 1 for label, read in labels.items())
    ((image, boxes, labels),) = right.annotated([5])
    assert image is right.images[5]
    assert boxes == [a["bbox"] for a in right.annotations if a["image_id"] == 5]


def test_pixel_values_are_divided_before_they_are_normalised():
    right, wrong = (starting_detector(FAULTS[f]) for f in ("nothing", "normalisation"))
    image = torch.rand(3, 96, 128)
    batch, _ = right._make_batch([image / 255])
    same, _ = wrong._make_batch([image])
    torch.testing.assert_close(same, batch)


def test_a_confirmed_answer_says_so(monkeypatch):
    monkeypatch.setattr("ddetr_edu.course.exercises.lesson_12_clinic.confirm", lambda: "cured")
    right = dict(PATIENTS)
    assert checks.clinic.check(right).message == "passed: all 6 answers are right; cured"
    passed, message, _ = checks.clinic.check({**right, "A": "centres"})
    assert not passed and "cured" not in message
    assert DIAGNOSES["centres"].shows in message


def test_there_is_no_other_cure():
    with pytest.raises(ValueError, match='one of "nothing", "corners"'):
        try_cure("A", "sleep")


# The log that comes with the lessons.


def test_the_log_is_what_training_gives():
    for fault in ("nothing", "corners"):
        _, log = fine_tune(FAULTS[fault], steps=1, eval_every=2)
        first = next(line for line in read_log()[fault] if line["step"] == 1)
        assert log[-1]["class"] == pytest.approx(first["class"], rel=0.02)
        assert log[-1]["box"] == pytest.approx(first["box"], rel=0.02)


def test_the_curves_are_as_the_text_says():
    logs = {fault: log for fault, log in read_log().items()}
    assert list(logs) == list(FAULTS)
    last = {fault: [line["AP"] for line in log if "AP" in line][-1] for fault, log in logs.items()}
    steps = [line["step"] for line in logs["nothing"] if "AP" in line]
    assert steps == list(range(0, STEPS + 1, EVAL_EVERY))
    assert last["nothing"] > 0.7
    assert max(ap for fault, ap in last.items() if fault != "nothing") < 0.1
    assert last["next image"] < 0.05
    swapped = [line["AP"] for line in logs["x and y swapped"] if "AP" in line]
    assert max(swapped) < 0.05 < 0.4 < [line["AP"] for line in logs["nothing"] if "AP" in line][1]

    def end(fault: str, loss: str) -> float:
        """The mean of a loss in the last steps, in multiples of that of the right training."""
        tail = {
            f: [line[loss] for line in logs[f] if loss in line][-8:] for f in (fault, "nothing")
        }
        return sum(tail[fault]) / sum(tail["nothing"])

    assert end("ids off by one", "box") < 2  # the boxes are learned, and so are the wrong names:
    names = [line["class"] for line in logs["ids off by one"] if "class" in line]
    assert sum(names[-8:]) < 0.3 * sum(names[:8])
    assert end("corners", "box") > 3
    for loss in ("class", "box"):
        for fault in ("x and y swapped", "next image", "normalisation"):
            assert end(fault, loss) > 3
    box = [line["box"] for line in logs["learning rate too high"] if "box" in line]
    assert max(box) > 2 * box[0]
    assert patient_log("right") == logs["nothing"]
