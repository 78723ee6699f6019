"""Pascal VOC's format, as its own files and as labelling tools write it."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from labelled_sets import H, W, boxes, read_split, save_image, save_text, voc_object, voc_xml
from PIL import Image

from ddetr_edu.cli.main import main
from ddetr_edu.data.coco import CocoDetection

BCCD = Path(__file__).parents[3] / "shared" / "bccd"
DIFFICULT = "<difficult>1</difficult>"
PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax>"
PART += "</bndbox></part>"
OWN = "The VOC2007 Database"


def add(folder, name, objects, xml_folder="Annotations", image_folder="JPEGImages", **options):
    """An image and its annotation file."""
    save_image(folder / image_folder / f"{name}.jpg", seed=sum(name.encode()))
    save_text(folder / xml_folder / f"{name}.xml", voc_xml(f"{name}.jpg", objects, **options))


def list_split(folder, split, names):
    save_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{n}\n" for n in names))


def convert(folder, *options):
    """The converted data set; the exit code must be 0."""
    out = folder.parent / "out"
    assert main(["data", "convert", "--from", "voc", str(folder), "--out", str(out), *options]) == 0
    return out


@pytest.fixture
def devkit(tmp_path):
    """Two images to train on and one for validation, in VOC's own layout."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    add(folder, "000001", [voc_object("dog", (11, 6, 20, 30))], database=OWN)
    add(folder, "000002", [voc_object("cat", (1, 1, W, H))], database=OWN)
    add(folder, "000003", [voc_object("dog", (9, 9, 9, 9))], database=OWN)
    list_split(folder, "train", ["000001", "000002"])
    list_split(folder, "val", ["000003"])
    return tmp_path / "VOCdevkit"


# The format ---------------------------------------------------------------------------------------


def test_voc_s_own_files_number_pixels_from_1_and_include_the_last(devkit):
    list_split(devkit / "VOC2007", "dog_train", ["000001  1", "000002 -1"])
    for name in ("000001", "000003"):
        save_image(devkit / "VOC2007" / "SegmentationClass" / f"{name}.png")
    file = devkit / "VOC2007" / "Annotations" / "000003.xml"
    save_text(file, file.read_text().replace("000003.jpg", "another.jpg"))
    out = convert(devkit)
    assert boxes(out, "train") == {
        "000001.jpg": [("dog", 10, 5, 10, 25, 0)],
        "000002.jpg": [("cat", 0, 0, W, H, 0)],
    }
    assert boxes(out, "val") == {"000003.jpg": [("dog", 8, 8, 1, 1, 0)]}
    for split in ("train", "val"):  # alphabetical, and the same in both splits
        categories = read_split(out, split)["categories"]
        assert categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        assert CocoDetection(out, split, strict=True).faults == ""


def test_tools_write_corners(devkit, capsys):
    for file in devkit.rglob("*.xml"):
        save_text(file, file.read_text().replace(OWN, "Unknown"))
    out = convert(devkit)
    assert boxes(out, "train")["000001.jpg"] == [("dog", 11, 6, 9, 24, 0)]
    assert boxes(out, "val") == {"000003.jpg": []}  # corners that coincide are no box
    printed = capsys.readouterr().out
    assert "3 boxes whose numbers are corners" in printed and "1 box of no width" in printed


@pytest.mark.parametrize(("choice", "expected"), [("pixels", 10), ("corners", 9)])
def test_the_user_can_say_what_the_numbers_are(devkit, choice, expected):
    out = convert(devkit, "--voc-boxes", choice)
    assert boxes(out, "train")["000001.jpg"][0][3] == expected


@pytest.mark.parametrize(("choice", "crowd"), [("crowd", 1), ("keep", 0)])
def test_difficult_objects_are_ignored_or_kept(devkit, choice, crowd, capsys):
    objects = [voc_object("dog", (1, 1, 9, 9), DIFFICULT), voc_object("dog", (2, 2, 8, 8))]
    add(devkit / "VOC2007", "000001", objects)
    out = convert(devkit, "--difficult", choice)
    assert [row[-1] for row in boxes(out, "train")["000001.jpg"]] == [crowd, 0]
    assert ("1 object marked as difficult" in capsys.readouterr().out) == bool(crowd)


def test_parts_of_objects_are_no_objects(devkit, capsys):
    add(devkit / "VOC2007", "000001", [voc_object("person", (5, 5, 30, 30), PART)])
    out = convert(devkit)
    assert boxes(out, "train")["000001.jpg"] == [("person", 5, 5, 25, 25, 0)]
    assert "1 part of objects" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_read_from_the_image(devkit, size):
    file = devkit / "VOC2007" / "Annotations" / "000001.xml"
    save_text(file, re.sub("<size>.*</size>", size, file.read_text()))
    image = read_split(convert(devkit), "train")["images"][0]
    assert (image["height"], image["width"]) == (H, W)


def test_a_missing_size_is_that_of_the_rotated_image(devkit):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(devkit / "VOC2007" / "JPEGImages" / "000001.jpg", exif=exif)
    file = devkit / "VOC2007" / "Annotations" / "000001.xml"
    save_text(file, re.sub("<size>.*</size>", "", file.read_text()))
    out = convert(devkit)
    image = read_split(out, "train")["images"][0]
    assert (image["height"], image["width"]) == (W, H)
    assert CocoDetection(out, "train")[0][0].shape == (3, W, H)


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-8", "utf-8"),
        ("utf-8", "utf-8 after an empty line"),
        ("utf-16", "utf-16"),
        ("latin-1", "ISO-8859-1"),
        ("gbk", "gb2312"),
        ("gbk", "GBK"),
    ],
)
def test_any_declared_encoding(devkit, encoding, declared):
    name = "Katze größer" if encoding == "latin-1" else "斑马"
    xml = voc_xml("000001.jpg", [voc_object(name, (1, 2, 30, 20))])
    declared, _, empty_line = declared.partition(" ")
    declaration = f'<?xml version="1.0" encoding="{declared}"?>\r\n' if declared else ""
    text = ("\n" if empty_line else "") + declaration + xml
    save_text(devkit / "VOC2007" / "Annotations" / "000001.xml", text.encode(encoding))
    assert boxes(convert(devkit), "train")["000001.jpg"][0][0] == name


def test_spaces_in_names_and_numbers(devkit):
    objects = [voc_object("\n  traffic\n light ", (" 1.5 ", "2", "30.25", "20.0"))]
    add(devkit / "VOC2007", "000001", objects)
    out = convert(devkit)
    assert boxes(out, "train")["000001.jpg"] == [("traffic light", 1.5, 2, 28.75, 18, 0)]


# Finding images and splits ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IMG_7.JPG", "IMG_7.jpeg", "img_7.PNG"])
def test_the_case_and_the_kind_of_the_ending_are_of_no_importance(devkit, name):
    save_image(devkit / "VOC2007" / "JPEGImages" / name)
    xml = voc_xml("IMG_7.jpg", [voc_object("cat", (1, 2, 30, 20))])
    save_text(devkit / "VOC2007" / "Annotations" / "IMG_7.xml", xml)
    list_split(devkit / "VOC2007", "train", ["IMG_7"])
    assert list(boxes(convert(devkit), "train")) == [name]


def test_an_image_is_named_as_its_xml_file_whatever_that_says(devkit, capsys):
    """LabelImg keeps the old name in a file that was renamed together with its image."""
    file = devkit / "VOC2007" / "Annotations" / "000001.xml"
    save_text(file, file.read_text().replace("000001.jpg", "000002.jpg"))
    out = convert(devkit)
    assert list(boxes(out, "train")) == ["000001.jpg", "000002.jpg"]
    assert (
        "kept 1 file with the name of another image inside (000001.xml)" in capsys.readouterr().out
    )


def test_the_name_in_the_xml_file_counts_if_no_image_is_named_as_the_file(devkit):
    save_image(devkit / "VOC2007" / "JPEGImages" / "photo.jpg", seed=4)
    xml = voc_xml("C:\\Users\\me\\photo.jpg", [voc_object("cat", (1, 2, 30, 20))])
    save_text(devkit / "VOC2007" / "Annotations" / "000007.xml", xml)
    list_split(devkit / "VOC2007", "train", ["000007"])
    assert list(boxes(convert(devkit), "train")) == ["photo.jpg"]


@pytest.mark.parametrize("line", ["000001.jpg", '"000001"', "000001   1", "JPEGImages/000001.jpg"])
def test_lines_of_lists_in_every_variant(devkit, line):
    save_text(devkit / "VOC2007" / "ImageSets" / "Main" / "train.txt", f"\ufeff{line}\r\n\r\n")
    out = convert(devkit)
    assert list(boxes(out, "train")) == ["000001.jpg"]
    report = (out / "conversion.txt").read_text()
    assert "000002.xml is in no list" in report


@pytest.mark.parametrize("other", ["train", "val"])
def test_trainval_gives_the_split_that_is_missing(devkit, other):
    lists = devkit / "VOC2007" / "ImageSets" / "Main"
    names = {"train": ["000001.jpg", "000002.jpg"], "val": ["000003.jpg"]}
    (lists / f"{other}.txt").unlink()
    list_split(devkit / "VOC2007", "trainval", ["000001", "000002", "000003"])
    out = convert(devkit, "--val", "0")
    assert {split: list(boxes(out, split)) for split in names} == names


def test_trainval_and_test_leave_a_random_split_for_validation(tmp_path, capsys):
    folder = tmp_path / "set"
    for n in range(12):
        add(folder, f"{n:03d}", [voc_object("cat", (1, 2, 30, 20))])
    list_split(folder, "trainval", [f"{n:03d}" for n in range(10)])
    list_split(folder, "test", ["010", "011"])
    out = convert(folder, "--val", "0.3", "--seed", "4")
    assert [len(boxes(out, split)) for split in ("train", "val", "test")] == [7, 3, 2]
    assert list(boxes(out, "test")) == ["010.jpg", "011.jpg"]
    said = capsys.readouterr().out
    assert "a share of 0.3 of the images was chosen for it, with seed 4" in said


def test_labelimg_writes_beside_the_images(tmp_path):
    folder = tmp_path / "photos"
    for n in range(10):
        objects = [voc_object("cat", (1, 2, 30, 20))]
        add(folder, f"IMG {n}", objects, xml_folder=".", image_folder=".")
    out = convert(folder)
    found = [list(boxes(out, split)) for split in ("train", "val")]
    assert sorted(found[0] + found[1]) == [f"IMG {n}.jpg" for n in range(10)]
    assert len(found[1]) == 2


def test_roboflow_has_a_folder_for_each_split(tmp_path):
    """The same name in two splits is not the same image."""
    folder = tmp_path / "export"
    for n, split in enumerate(("train", "valid", "test")):
        save_image(folder / split / "a.jpg", seed=n)
        box = (1, 2, 10 + n, 20)
        save_text(folder / split / "a.xml", voc_xml("a.jpg", [voc_object("cat", box)]))
    out = convert(folder)
    for n, split in enumerate(("train", "val", "test")):
        assert boxes(out, split) == {"a.jpg": [("cat", 1, 2, 9 + n, 18, 0)]}
        original = folder / ("valid" if split == "val" else split) / "a.jpg"
        assert (out / split / "a.jpg").read_bytes() == original.read_bytes()


def test_cvat_has_subfolders_of_the_same_names(tmp_path):
    folder = tmp_path / "export"
    for n, part in enumerate(("train", "val")):
        place = {"xml_folder": f"Annotations/{part}", "image_folder": f"JPEGImages/{part}"}
        add(folder, "a", [voc_object("cat", (1, 2, 10 + n, 20))], **place)
        save_image(folder / "JPEGImages" / part / "a.jpg", seed=n)
        list_split(folder, part, [f"{part}/a"])
    out = convert(folder)
    assert boxes(out, "train") == {"a.jpg": [("cat", 1, 2, 9, 18, 0)]}
    assert boxes(out, "val") == {"a.jpg": [("cat", 1, 2, 10, 18, 0)]}


# What cannot be used ------------------------------------------------------------------------------


def unlink(folder):
    (folder / "JPEGImages" / "000001.jpg").unlink()


def write_xml(text):
    return lambda folder: save_text(folder / "Annotations" / "000001.xml", text)


def write_objects(*objects):
    return write_xml(voc_xml("000001.jpg", objects))


LEFT_OUT = {
    "image": (unlink, "1 image without a file (000001.jpg)"),
    "damaged": (
        lambda f: save_text(f / "JPEGImages" / "000001.jpg", b"no image"),
        "1 image with a damaged file",
    ),
    "size": (
        lambda f: save_image(f / "JPEGImages" / "000001.jpg", (H + 1, W)),
        "1 image of another size",
    ),
    "xml": (write_xml("<annotation><object>"), "1 file of damaged XML"),
    "encoding": (write_xml(b"<annotation>\xb0\xdf"), "1 file of damaged XML"),
    "declared": (
        write_xml(b'<?xml version="1.0" encoding="klingon"?><annotation/>'),
        "1 file of damaged XML",
    ),
    "cvat": (write_xml("<annotations></annotations>"), "1 file of another XML format"),
    "listed": (
        lambda f: list_split(f, "val", ["000003", "000009"]),
        "1 image without an XML file (000009)",
    ),
    "unlisted": (
        lambda f: add(f, "000004", []),
        "1 file in no list of ImageSets/Main (000004.xml)",
    ),
    "no box": (
        write_objects("<object><name>a</name><robndbox><cx>9</cx></robndbox></object>"),
        "1 object without a box",
    ),
    "no number": (write_objects(voc_object("a", (1, "x", 9, 9))), "1 object without a box"),
    "no name": (write_objects(voc_object(" ", (1, 2, 9, 9))), "1 object without a name"),
    "inverted": (write_objects(voc_object("a", (9, 2, 1, 9))), "1 box of no width or height"),
    "outside": (write_objects(voc_object("a", (W + 9, 2, W + 20, 9))), "1 box outside the image"),
    "both splits": (
        lambda f: list_split(f, "val", ["000003", "000001"]),
        "1 image of another split (VOC2007/JPEGImages/000001.jpg)",
    ),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_cannot_be_used_is_left_out_and_counted(devkit, case, capsys):
    damage, sentence = LEFT_OUT[case]
    damage(devkit / "VOC2007")
    out = convert(devkit)
    assert f"left out {sentence}" in capsys.readouterr().out
    assert (
        sum("left out: " in line for line in (out / "conversion.txt").read_text().split("\n")) == 1
    )
    for split in ("train", "val"):
        assert CocoDetection(out, split, strict=True).faults == ""
    assert "000002.jpg" in boxes(out, "train") and "000003.jpg" in boxes(out, "val")
    assert main(["data", "validate", str(out)]) == 0


def test_an_image_without_an_xml_file_is_said(tmp_path, capsys):
    for n in range(5):
        add(tmp_path / "set", f"a{n}", [voc_object("cat", (1, 2, 30, 20))], ".", ".")
    save_image(tmp_path / "set" / "b.jpg")
    convert(tmp_path / "set")
    assert "1 image without an XML file (b.jpg)" in capsys.readouterr().out


def test_two_images_of_one_name_are_not_guessed_between(devkit, capsys):
    image = devkit / "VOC2007" / "JPEGImages" / "000001.jpg"
    save_image(image.with_suffix(".png"))
    save_image(image.with_suffix(".bmp"))
    image.unlink()
    convert(devkit)
    assert "1 image whose name fits two files (000001.jpg)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: [x.unlink() for x in f.rglob("*.xml")], "has no XML file"),
        (lambda f: [x.unlink() for x in f.rglob("*.jpg")], "no image that can be used"),
        (lambda f: list_split(f.parent / "VOC2012", "train", ["a"]), "several data sets"),
        (lambda f: [x.rename(f"{x}_dog.txt") for x in f.rglob("*.txt")], "has no list train.txt"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused_in_one_line(devkit, damage, message, capsys):
    damage(devkit / "VOC2007")
    out = devkit.parent / "out"
    assert main(["data", "convert", "--from", "voc", str(devkit), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not out.exists()


# Real data ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"the real data set is not at {BCCD}")
def test_a_real_set_is_the_same_from_voc_and_from_coco(tmp_path, capsys):
    """292 photographs with both annotations. Only the order of the categories differs."""
    line = ["data", "convert", "--from", "voc", str(BCCD / "voc"), "--images", str(BCCD)]
    assert main([*line, "--out", str(tmp_path / "voc"), "--link"]) == 0
    said = capsys.readouterr().out
    assert (
        "3943 boxes whose numbers are corners" in said
        and "left out 2 boxes of no width or height" in said
    )
    for split, n_images, n_objects in (("train", 205, 2804), ("val", 87, 1137)):
        converted, original = read_split(tmp_path / "voc", split), read_split(BCCD, split)
        assert converted["images"] == original["images"] and len(original["images"]) == n_images
        names = {c["id"]: c["name"] for c in original["categories"]}
        rows = defaultdict(list)
        for a in original["annotations"]:
            if min(a["bbox"][2:]) > 0:  # one box in each split has no size
                rows[a["image_id"]].append((names[a["category_id"]], a["bbox"], a["area"]))
        names = {c["id"]: c["name"] for c in converted["categories"]}
        assert list(names.values()) == ["Platelets", "RBC", "WBC"]
        actual = defaultdict(list)
        for a in converted["annotations"]:
            actual[a["image_id"]].append((names[a["category_id"]], a["bbox"], a["area"]))
        assert actual == rows and len(converted["annotations"]) == n_objects
        for image in converted["images"]:
            name = Path(split) / image["file_name"]
            assert (tmp_path / "voc" / name).stat().st_size == (BCCD / name).stat().st_size
    from_coco = ["data", "convert", "--from", "coco", str(BCCD), "--out", str(tmp_path / "coco")]
    assert main([*from_coco, "--link"]) == 0
    for split in ("train", "val"):
        assert boxes(tmp_path / "coco", split) == boxes(tmp_path / "voc", split)
        assert json.dumps(read_split(tmp_path / "coco", split)["categories"]) == json.dumps(
            read_split(BCCD, split)["categories"]
        )
