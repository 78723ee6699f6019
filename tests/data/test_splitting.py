"""Splits are balanced and repeatable, copies stay together, and a folder is written whole."""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from shutil import copyfile

import pytest
from labelled_sets import boxes, read_split, save_image, save_text

from ddetr_edu.cli.main import main
from ddetr_edu.data import coco_writing
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.labelled import LabelledImage
from ddetr_edu.data.shapes import write_shapes_set
from ddetr_edu.data.split_names import split_in, split_of
from ddetr_edu.data.splitting import split_images


def make_images(folder, objects, name="{:03d}.jpg"):
    """Images (of no pixels) with these categories; the files differ."""
    images = []
    for n, categories in enumerate(objects):
        path = save_text(folder / name.format(n), f"image {n:05d}")
        images.append(LabelledImage(path, None, [{"category": c} for c in categories]))
    return images


def count(images):
    return Counter(o["category"] for image in images for o in image.objects)


@pytest.mark.parametrize("seed", range(4))
def test_every_category_is_divided_in_proportion(tmp_path, seed):
    draw = random.Random(seed)
    # Categories of very different frequency, some images with several, one in ten with none.
    frequencies = {"a": 0.9, "b": 0.4, "c": 0.1, "d": 0.03}
    objects = [
        [c for c, p in frequencies.items() for _ in range(draw.randint(1, 4)) if draw.random() < p]
        for _ in range(400)
    ]
    images = make_images(tmp_path, objects)
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    splits = split_images(images, shares, seed)
    assert {split: len(found) for split, found in splits.items()} == {
        "train": 280,
        "val": 80,
        "test": 40,
    }
    assert sorted(i.path for found in splits.values() for i in found) == [i.path for i in images]
    total = count(images)
    for split, share in shares.items():
        for category, n in total.items():
            assert abs(count(splits[split])[category] - share * n) <= 2, (split, category)
    # A random choice would not be: this is what the order by category is for.
    draw.shuffle(images)
    worst = max(abs(count(images[:80])[c] - 0.2 * n) for c, n in total.items())
    assert worst > 3


def test_the_same_seed_makes_the_same_splits_in_any_order(tmp_path):
    images = make_images(tmp_path, [["a"]] * 30)
    paths = [
        [i.path for i in split_images(given, {"train": 0.8, "val": 0.2}, seed)["val"]]
        for given, seed in ((images, 0), (images[::-1], 0), (images, 1))
    ]
    assert paths[0] == paths[1] != paths[2]


def test_variants_and_copies_of_an_image_stay_together(tmp_path):
    """Transitively: 1.jpg is a copy of a variant of 0, which is a copy of a variant of 2."""
    images = []
    for n in range(20):
        for variant in "abc":
            path = tmp_path / f"{n}_jpg.rf.{variant}{n:x}.jpg"
            images.append(LabelledImage(save_text(path, f"{n} {variant}"), None, []))
    shutil.copy(images[0].path, tmp_path / "z-copy.jpg")
    shutil.copy(images[6].path, images[1].path)  # a variant of 2, and one of 0
    images.append(LabelledImage(tmp_path / "z-copy.jpg", None, []))
    shutil.copy(tmp_path / "3_jpg.rf.b3.jpg", tmp_path / "7_jpg.rf.z7.jpg")  # joins 3 and 7
    images.append(LabelledImage(tmp_path / "7_jpg.rf.z7.jpg", None, []))
    for seed in range(5):
        splits = split_images(images, {"train": 0.7, "val": 0.3}, seed)
        where = {i.path.name: split for split, found in splits.items() for i in found}
        assert len(where) == len(images)
        for n in range(20):
            names = [name for name in where if name.startswith(f"{n}_")]
            assert len({where[name] for name in names}) == 1
        assert where["3_jpg.rf.a3.jpg"] == where["7_jpg.rf.a7.jpg"]
        joined = ("0_jpg.rf.a0.jpg", "z-copy.jpg", "2_jpg.rf.a2.jpg")
        assert len({where[name] for name in joined}) == 1


def test_each_split_has_an_image_or_is_refused(tmp_path):
    images = make_images(tmp_path, [["a"], ["a"], ["b"]])
    splits = split_images(images, {"train": 0.98, "val": 0.01, "test": 0.01}, 0)
    assert [len(found) for found in splits.values()] == [1, 1, 1]
    copies = [LabelledImage(images[0].path, None, []) for _ in range(4)]
    for seed in range(5):  # four copies, which fill train, and one other image
        splits = split_images([*copies, images[1]], {"train": 0.8, "val": 0.2}, seed)
        assert sorted(len(found) for found in splits.values()) == [1, 4]
    with pytest.raises(ValueError, match="2 different images cannot be divided into 3 splits"):
        split_images(images[:2], {"train": 0.98, "val": 0.01, "test": 0.01}, 0)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("training", "train"),
        ("instances_train2017", "train2017"),
        ("valid", "val"),
        ("annotations_validation", "val"),
        ("testing", "test"),
        ("default", ""),
        ("trains", ""),
        ("interval", ""),
    ],
)
def test_the_names_of_splits(name, split):
    assert split_in(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/images/a.jpg", "train"),
        ("images/val2017/a.jpg", "val2017"),
        ("obj_valid_data/a.jpg", "val"),
        ("train/test/a.jpg", "test"),
        ("train_station/a.jpg", ""),
        ("train.jpg", ""),
    ],
)
def test_the_folders_of_splits(path, split):
    assert split_of(Path("/data/train") / path, Path("/data/train")) == split


# ddetr data split ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_shapes_set(folder, train=15, val=5, seed=2)
    return folder


def call(*words):
    return main(["data", *map(str, words)])


def test_split_divides_all_images_anew(shapes, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("split", shapes, "--out", out, "--val", 0.2, "--test", 0.1, "--seed", 7) == 0
    assert "train: 14 images" in capsys.readouterr().out
    found = {split: boxes(out, split) for split in ("train", "val", "test")}
    assert [len(images) for images in found.values()] == [14, 4, 2]
    original = {}
    for split in ("train", "val"):
        for name, rows in boxes(shapes, split).items():
            original[(shapes / split / name).read_bytes()] = rows
    actual = {
        (out / split / name).read_bytes(): rows
        for split, images in found.items()
        for name, rows in images.items()
    }
    assert actual == original
    assert read_split(out, "test")["categories"] == read_split(shapes, "train")["categories"]
    assert call("validate", out) == 0
    assert call("split", shapes, "--out", tmp_path / "again", "--test", 0.1, "--seed", 7) == 0
    for split in found:
        assert read_split(out, split) == read_split(tmp_path / "again", split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--val", 0), "shares of the images"),
        (("--val", 0.7, "--test", 0.3), "shares of the images"),
        (("--val", -0.1, "--test", 0.3), "shares of the images"),
    ],
)
def test_shares_are_checked(shapes, tmp_path, options, message, capsys):
    assert call("split", shapes, "--out", tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err


def test_split_takes_only_coco_s_layout(tmp_path, capsys):
    assert call("split", tmp_path, "--out", tmp_path / "out") == 1
    assert "is not a COCO data set" in capsys.readouterr().err


# Writing ------------------------------------------------------------------------------------------


def test_nothing_that_exists_is_overwritten(shapes, tmp_path, capsys):
    out = tmp_path / "out"
    save_text(out / "mine.txt", "precious")
    assert call("split", shapes, "--out", out) == 1
    assert "out exists already" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert call("split", shapes, "--out", out) == 0  # an empty folder is no loss
    assert call("split", shapes, "--out", out / "mine.txt" / "x") == 0
    file = save_text(tmp_path / "file", "precious")
    assert call("split", shapes, "--out", file) == 1 and file.read_text() == "precious"


def test_a_folder_inside_the_source_is_refused(shapes, capsys):
    assert call("split", shapes, "--out", shapes / "out") == 1
    assert "is inside" in capsys.readouterr().err and not (shapes / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(shapes, tmp_path, monkeypatch, error, capsys):
    calls = []

    def copy(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise error
        return copyfile(source, target)

    monkeypatch.setattr(coco_writing, "copyfile", copy)
    code = call("split", shapes, "--out", tmp_path / "new" / "out")
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert len(calls) == 3 and list((tmp_path / "new").iterdir()) == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_images_are_copied_or_linked(shapes, tmp_path):
    for name, options in (("copies", []), ("links", ["--link"])):
        assert call("split", shapes, "--out", tmp_path / name, *options) == 0
        file = next((tmp_path / name / "train").iterdir())
        assert file.stat().st_nlink == (2 if options else 1)
        assert os.access(file, os.W_OK)


def test_a_copy_is_made_where_no_link_can_be(shapes, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert call("split", shapes, "--out", tmp_path / "out", "--link") == 0
    assert len(CocoDetection(tmp_path / "out", "train", strict=True)) == 16


@pytest.mark.parametrize("options", [[], ["--link"]])
def test_links_to_images_are_followed(shapes, tmp_path, options):
    folder = tmp_path / "set"
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    for path in (shapes / "train").iterdir():
        (folder / "train" / path.name).symlink_to(path)
    data = json.dumps(read_split(shapes, "train"))
    save_text(folder / "annotations" / "instances_train.json", data)
    assert call("split", folder, "--out", tmp_path / "out", *options) == 0
    for path in (tmp_path / "out").rglob("*.png"):
        assert not path.is_symlink() and path.is_file()


def test_the_source_is_not_changed(shapes, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in shapes.rglob("*")}
    assert call("split", shapes, "--out", tmp_path / "out") == 0
    assert {p: p.stat().st_mtime_ns for p in shapes.rglob("*")} == before


def test_names_that_differ_in_capitals_only_are_told_apart(tmp_path):
    """Some file systems take them for one."""
    for n, name in enumerate(("a/x.jpg", "b/X.jpg", "b/c.jpg", "b-c.jpg")):
        save_image(tmp_path / "set" / "images" / name, seed=n)
    save_text(tmp_path / "set" / "data.yaml", "train: images\nnames: [cat]\n")
    save_text(tmp_path / "set" / "labels" / "a" / "x.txt", "0 0.5 0.5 0.5 0.5")
    out = tmp_path / "out"
    assert call("convert", "--from", "yolo", tmp_path / "set", "--out", out, "--val", 0) == 0
    names = list(boxes(out, "train"))
    assert names == sorted(names) and len({name.casefold() for name in names}) == 4
    assert boxes(out, "train")["x.jpg"] and not boxes(out, "train")["images-b-X.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "--out", "out"), "nowhere does not exist"),
        ((".", "--out", "out", "--val", "1"), "--val is 1"),
        ((".", "--out", "out", "--images", "gone"), "gone does not exist"),
    ],
)
def test_an_error_in_the_arguments_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("convert", "--from", "voc", *words) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
