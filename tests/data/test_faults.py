"""Every planted fault is found, counted and named; and what is refused elsewhere is found here."""

import json
import re
import shutil

import pytest
from PIL import Image
from test_coco import COCO_MINI, WRONG_BOXES, WRONG_ENTRIES, example, needs_coco_mini, write

from ddetr_edu.data import CocoDetection, DataError, find_faults, write_shapes_set


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A data set without fault: 4 + 2 scenes of shapes."""
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


def faults(folder) -> dict[str, int]:
    """{kind: how many} over the whole data set."""
    counts = {}
    for findings in find_faults(folder):
        for kind, sentences in findings.faults.items():
            counts[kind] = counts.get(kind, 0) + len(sentences)
    return counts


def remarks(folder) -> dict[str, int]:
    return {kind: len(s) for f in find_faults(folder) for kind, s in f.remarks.items()}


def opens_and_reads(folder) -> bool:
    try:
        for split in ("train", "val"):
            list(CocoDetection(folder, split))
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
        with Image.open(folder / "val" / "copy.png") as picture:
            width, height = picture.size
        data["images"].append({"id": 77, "file_name": "copy.png", "width": width, "height": height})

    change(folder, edit, "val")


def listed_twice(data):
    data["images"].append({**data["images"][0], "id": 99})


def provenance(folder):
    rows = [{"file_name": "000001.png", "sha256": "0" * 64}]
    (folder / "provenance.json").write_text(json.dumps({"pictures": {"train": rows}}))


PLANTED = {  # name: (what is done to the folder, {kind: count}, does CocoDetection refuse it too)
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
    "missing": (lambda f: (f / "train" / "000003.png").unlink(), {"pictures missing": 1}, True),
    "damaged": (damage, {"pictures unreadable or of another size": 1}, True),
    "text": (
        lambda f: [(f / "val" / f"00000{i}.png").write_text("no") for i in (1, 2)],
        {"pictures unreadable or of another size": 2},
        True,
    ),
    "size": (
        lambda f: Image.new("RGB", (5, 7)).save(f / "val" / "000001.png"),
        {"pictures unreadable or of another size": 1},
        True,
    ),
    "id": (
        entry("images", id="1"),
        {"entries without an id": 1, "annotations of unlisted pictures": 6},
        True,
    ),
    "no number": (
        lambda f: change(f, lambda data: data["annotations"].append(7)),
        {"entries without an id": 1},
        True,
    ),
    "twice": (
        lambda f: change(f, lambda data: data["annotations"].append(data["annotations"][0])),
        {"ids that occur twice": 1},
        True,
    ),
    "no name": (entry("images", file_name=None), {"pictures without a name": 1}, True),
    "no size": (entry("images", width=0), {"pictures without a size": 1}, True),
    "category name": (
        entry("categories", name=None),
        {"categories without a name": 1, "categories that differ between splits": 1},
        True,
    ),
    "picture id": (
        entry("annotations", image_id=99),
        {"annotations of unlisted pictures": 1},
        True,
    ),
    "category": (
        entry("annotations", category_id=99),
        {"annotations of unlisted categories": 1},
        True,
    ),
    "zero": (entry("annotations", bbox=[3, 4, 0, 5]), {"boxes of no width or height": 1}, True),
    "NaN": (
        entry("annotations", bbox=[3, 4, float("nan"), 5]),
        {"boxes that are not four finite numbers": 1},
        True,
    ),
    "outside": (
        entry("annotations", bbox=[3, 4, 500, 5]),
        {"boxes outside their picture": 1},
        True,
    ),
    "crowd": (
        entry("annotations", iscrowd=2),
        {"annotations with an odd area or iscrowd": 1},
        True,
    ),
    "listed twice": (lambda f: change(f, listed_twice), {"pictures listed twice": 1}, False),
    "in both": (in_both, {"pictures in two splits": 1}, False),
    "categories": (
        lambda f: change(f, lambda data: data["categories"][3].update(name="comet"), "val"),
        {"categories that differ between splits": 1},
        False,
    ),
    "provenance": (provenance, {"pictures that changed since they were fetched": 1}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_found_and_nothing_else(name, folder):
    plant, kinds, refused = PLANTED[name]
    plant(folder)
    assert faults(folder) == kinds
    if refused:
        assert not opens_and_reads(folder)
    elif not kinds:
        assert opens_and_reads(folder)


def test_all_faults_are_found_in_one_go(folder):
    for name in ("missing", "damaged", "in both", "category", "zero"):
        PLANTED[name][0](folder)
    change(folder, lambda data: data["annotations"][1].update(bbox=[1]))
    assert sum(faults(folder).values()) == 5  # "category" and "zero" are of the same annotation
    report = "\n".join(map(str, find_faults(folder)))
    assert "train: 4 pictures" in report and "4 wrong" in report and "1 wrong" in report
    assert "000003.png, which does not exist" in report and "same picture" in report


@pytest.mark.parametrize("kind, update, message", WRONG_ENTRIES)
def test_what_opening_refuses_the_report_names_in_the_same_words(kind, update, message, tmp_path):
    data = example()
    data[kind][0].update(update)
    assert_named(write(tmp_path, data), message)


@pytest.mark.parametrize("box, message", WRONG_BOXES)
def test_likewise_boxes(box, message, tmp_path):
    data = example()
    data["annotations"][1].update(bbox=box)
    assert_named(write(tmp_path, data), message)


def assert_named(folder, message):
    (findings,) = find_faults(folder)
    sentences = [s for kind in findings.faults.values() for s in kind]
    assert any(re.search(message, sentence) for sentence in sentences)
    with pytest.raises(DataError) as refused:
        CocoDetection(folder, "train")
    assert str(refused.value) in sentences


def test_what_may_be_meant_is_only_remarked(folder):
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
    assert faults(folder) == {} and opens_and_reads(folder)
    found = remarks(folder)
    assert found["crowds, which training leaves out"] == 1
    assert found["pictures without an object"] == 1
    assert found["files that no image names"] == 1
    assert found["categories without an object"] >= 1
    assert found["file names in two splits, for different pictures"] == 2


def test_only_the_first_examples_are_shown(folder):
    change(folder, lambda data: [a.update(category_id=99) for a in data["annotations"]])
    train, *_ = find_faults(folder)
    lines = str(train).splitlines()
    assert sum("names category 99" in line for line in lines) == 3
    assert any(f"and {train.count() - 3} more" in line for line in lines)


def test_no_data_set(tmp_path):
    with pytest.raises(DataError, match="is not a COCO data set"):
        find_faults(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="has no split; add"):
        find_faults(tmp_path)


@needs_coco_mini
def test_real_coco_is_without_fault():
    assert faults(COCO_MINI) == {}
    assert remarks(COCO_MINI)["crowds, which training leaves out"] == 9
