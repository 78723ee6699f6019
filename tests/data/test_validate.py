"""Every planted error is found, counted and named, as is whatever `CocoDetection` rejects."""

import json
import re
import shutil

import pytest
from PIL import Image
from test_coco import COCO_MINI, WRONG_BOXES, WRONG_ENTRIES, example, needs_coco_mini, write

from ddetr_edu.data import validate
from ddetr_edu.data.annotations import DataError
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.shapes import write_shapes_set
from ddetr_edu.data.validate import validate_dataset


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A data set without errors: 4 + 2 scenes of shapes."""
    folder = tmp_path_factory.mktemp("sound")
    write_shapes_set(folder, train=4, val=2, seed=3)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "set")


def change(folder, edit, split="train"):
    """Let `edit` change the content of an annotation file."""
    file = folder / "annotations" / f"instances_{split}.json"
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))


def count_errors(folder) -> dict[str, int]:
    """{kind: number of errors} over the whole data set."""
    counts = {}
    for report in validate_dataset(folder):
        for kind, messages in report.errors.items():
            counts[kind] = counts.get(kind, 0) + len(messages)
    return counts


def count_warnings(folder) -> dict[str, int]:
    return {kind: len(m) for r in validate_dataset(folder) for kind, m in r.warnings.items()}


def opens_and_reads(folder) -> bool:
    try:
        for split in ("train", "val"):
            list(CocoDetection(folder, split, strict=True))
    except DataError:
        return False
    return True


def entry(kind, **values):
    """An edit of the first entry of a list."""
    return lambda folder: change(folder, lambda data: data[kind][0].update(values))


def damage(folder):
    path = folder / "train" / "000002.png"
    path.write_bytes(path.read_bytes()[:200])


def in_both(folder):
    shutil.copy(folder / "train" / "000001.png", folder / "val" / "copy.png")

    def edit(data):
        with Image.open(folder / "val" / "copy.png") as image:
            width, height = image.size
        data["images"].append({"id": 77, "file_name": "copy.png", "width": width, "height": height})

    change(folder, edit, "val")


def listed_twice(data):
    data["images"].append({**data["images"][0], "id": 99})


def provenance(folder):
    rows = [{"file_name": "000001.png", "sha256": "0" * 64}]
    (folder / "provenance.json").write_text(json.dumps({"images": {"train": rows}}))


# name: (what is done to the folder, {kind: count}, whether CocoDetection rejects it if strict)
PLANTED = {
    "nothing": (lambda folder: None, {}, False),
    "JSON": (
        lambda f: (f / "annotations" / "instances_val.json").write_text('{"images": ['),
        {"annotation files that cannot be read": 1},
        True,
    ),
    "list": (
        lambda f: change(f, lambda data: data.pop("images"), "val"),
        {"annotation files that cannot be read": 1},
        True,
    ),
    "folder": (lambda f: shutil.rmtree(f / "train"), {"folders missing": 1}, True),
    "missing": (
        lambda f: (f / "train" / "000003.png").unlink(),
        {"images without a file": 1},
        True,
    ),
    "damaged": (damage, {"images with a damaged file": 1}, True),
    "text": (
        lambda f: [(f / "val" / f"00000{i}.png").write_text("no") for i in (1, 2)],
        {"images with a damaged file": 2},
        True,
    ),
    "size": (
        lambda f: Image.new("RGB", (5, 7)).save(f / "val" / "000001.png"),
        {"images of another size": 1},
        True,
    ),
    "id": (
        entry("images", id=[1]),
        {"images without an id": 1, "annotations of unlisted images": 6},
        True,
    ),
    "no number": (
        lambda f: change(f, lambda data: data["annotations"].append(7)),
        {"annotations without an id": 1},
        True,
    ),
    "twice": (
        lambda f: change(f, lambda data: data["annotations"].append(data["annotations"][0])),
        {"annotations with the id of another": 1},
        True,
    ),
    "no name": (entry("images", file_name=None), {"images without a name": 1}, True),
    "no size": (entry("images", width=0), {"images without a size": 1}, True),
    "category name": (
        entry("categories", name=None),
        {"categories without a name": 1, "categories that differ between splits": 1},
        True,
    ),
    "image id": (entry("annotations", image_id=99), {"annotations of unlisted images": 1}, True),
    "category": (
        entry("annotations", category_id=99),
        {"annotations of unlisted categories": 1},
        True,
    ),
    "zero": (entry("annotations", bbox=[3, 4, 0, 5]), {"boxes of no width or height": 1}, True),
    "NaN": (
        entry("annotations", bbox=[3, 4, float("nan"), 5]),
        {"boxes without four finite numbers": 1},
        True,
    ),
    "outside": (
        entry("annotations", bbox=[3, 4, 500, 5]),
        {"boxes partly outside the image": 1},
        True,
    ),
    "crowd": (entry("annotations", iscrowd=2), {"annotations with an odd iscrowd": 1}, True),
    "listed twice": (lambda f: change(f, listed_twice), {"images listed twice": 1}, False),
    "in both": (in_both, {"images in two splits": 1}, False),
    "categories": (
        lambda f: change(f, lambda data: data["categories"][3].update(name="comet"), "val"),
        {"categories that differ between splits": 1},
        False,
    ),
    "provenance": (provenance, {"images that changed since they were downloaded": 1}, False),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_error_is_found_and_nothing_else(name, folder):
    plant, kinds, rejected = PLANTED[name]
    plant(folder)
    assert count_errors(folder) == kinds
    if rejected:
        assert not opens_and_reads(folder)
    elif not kinds:
        assert opens_and_reads(folder)


def test_all_errors_are_found_in_one_run(folder):
    for name in ("missing", "damaged", "in both", "category", "zero"):
        PLANTED[name][0](folder)
    change(folder, lambda data: data["annotations"][1].update(bbox=[1]))
    assert (
        sum(count_errors(folder).values()) == 5
    )  # "category" and "zero" are of the same annotation
    report = "\n".join(map(str, validate_dataset(folder)))
    assert "train: 3 images" in report and ": 4 errors" in report and ": 1 error\n" in report
    assert "000003.png, which does not exist" in report and "same image" in report


@pytest.mark.parametrize("kind, update, message", WRONG_ENTRIES)
def test_the_report_has_the_message_that_opening_raises(kind, update, message, tmp_path):
    data = example()
    data[kind][0].update(update)
    assert_named(write(tmp_path, data), message)


@pytest.mark.parametrize("box, message", WRONG_BOXES)
def test_the_report_has_the_message_about_a_box(box, message, tmp_path):
    data = example()
    data["annotations"][1].update(bbox=box)
    assert_named(write(tmp_path, data), message)


def assert_named(folder, message):
    (report,) = validate_dataset(folder)
    messages = [m for kind in report.errors.values() for m in kind]
    assert any(re.search(message, m) for m in messages)
    with pytest.raises(DataError) as raised:
        CocoDetection(folder, "train", strict=True)
    assert str(raised.value) in messages


def test_what_may_be_intended_is_only_a_warning(folder):
    def edit(data):
        first = data["images"][0]["id"]
        data["annotations"][0]["iscrowd"] = 1
        data["annotations"] = [
            a for a in data["annotations"] if a["image_id"] != first or a["iscrowd"]
        ]
        data["categories"].append({"id": 9, "name": "comet"})

    for split in ("train", "val"):
        change(folder, edit, split)
    (folder / "val" / "stray.png").write_bytes(b"")
    assert count_errors(folder) == {} and opens_and_reads(folder)
    found = count_warnings(folder)
    assert found["crowds, which training ignores"] == 1
    assert found["images without an object"] == 1
    assert found["files that are not listed as images"] == 1
    assert found["categories without an object"] >= 1
    assert found["file names in two splits, for different images"] == 2


def test_only_the_first_examples_are_shown(folder, monkeypatch):
    monkeypatch.setattr(validate, "MAX_ERRORS", 3)
    change(folder, lambda data: [a.update(category_id=99) for a in data["annotations"]])
    train, *_ = validate_dataset(folder)
    lines = str(train).splitlines()
    assert lines[0] == f"train: 4 images, 0 objects, 6 categories: {train.n_errors} errors"
    kind = "annotations of unlisted categories"
    assert lines[1].split(maxsplit=2) == ["error", str(train.n_errors), kind]
    assert any(line.startswith("  warning      4  images without an object") for line in lines)
    assert sum("names category 99" in line for line in lines) == 3
    assert any(f"and {train.n_errors - 3} more" in line for line in lines)
    assert train.text(all_errors=True).count("names category 99") == train.n_errors


def test_no_data_set(tmp_path):
    with pytest.raises(DataError, match="is not a COCO data set"):
        validate_dataset(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="has no split; add"):
        validate_dataset(tmp_path)


@needs_coco_mini
def test_real_coco_has_no_errors():
    assert count_errors(COCO_MINI) == {}
    assert count_warnings(COCO_MINI)["crowds, which training ignores"] == 9
