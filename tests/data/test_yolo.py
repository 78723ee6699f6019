"""YOLO's format: every variant of data.yaml and of the rows that tools write."""

import pytest
from labelled_sets import boxes, read_split, save_image, save_text
from PIL import Image

from ddetr_edu.cli.main import main
from ddetr_edu.data.coco import CocoDetection

H, W = 40, 80
ROW = "1 0.5 0.5 0.25 0.5"  # of an image of 40 x 80: [30, 10, 20, 20]
BOX = ("dog", 30, 10, 20, 20, 0)


def add(image, label, rows, seed=0):
    save_image(image, (H, W), seed)
    if rows is not None:
        save_text(label, rows)


@pytest.fixture
def folder(tmp_path):
    """As Ultralytics has it: images/train, images/val, labels/train, labels/val; no YAML file."""
    for n, split in enumerate(("train", "val")):
        for name in "ab":
            label = tmp_path / "set" / "labels" / split / f"{name}.txt"
            add(
                tmp_path / "set" / "images" / split / f"{name}.jpg",
                label,
                ROW,
                2 * n + (name == "a"),
            )
    return tmp_path / "set"


def convert(source, *options, code=0, out=None):
    out = out or source.parent / "out"
    line = ["data", "convert", "--from", "yolo", str(source), "--out", str(out), *options]
    assert main(line) == code
    return out


NAMES = "names: [cat, dog]\n"
SPLITS = "train: images/train\nval: images/val\n"
EXPECTED = {split: {"a.jpg": [BOX], "b.jpg": [BOX]} for split in ("train", "val")}


def assert_expected(out):
    assert {split: boxes(out, split) for split in EXPECTED} == EXPECTED
    for split in EXPECTED:
        assert read_split(out, split)["categories"] == [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "dog"},
        ]
        assert CocoDetection(out, split, strict=True).faults == ""


# data.yaml ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        SPLITS + NAMES,
        SPLITS + "nc: 2\nnames: ['cat', 'dog']  # two\n",
        SPLITS + "names:\n- cat\n- dog\n",
        SPLITS + "names:\n  0: cat\n  1: dog\n",
        SPLITS + "names:\n  1: dog\n  0: cat\n",
        SPLITS + "names: {0: cat, 1: dog}\n",
        SPLITS + 'names: ["cat",\n  "dog"]\n',
        "path: .\n" + SPLITS + "test:\n" + NAMES,
        "path: ../datasets/coco8  # dataset root dir\n" + SPLITS + NAMES,
        "path: /content/drive/set\n" + SPLITS + NAMES,
        "path: ..\ntrain: set/images/train\nval: set/images/val\n" + NAMES,
        "path: images\ntrain: train\nval: val\n" + NAMES,
        "train: ../images/train\nval: ../images/val\n" + NAMES,  # Roboflow's, although beside
        "train: ./images/train/\nval: ./images/val/\n" + NAMES,
        "train: images\\train\nval: images\\val\n" + NAMES,
        "train: [images/train]\nvalid:\n  - images/val\n" + NAMES,
        "train: train.txt\nval: lists/val.txt\n" + NAMES,
        "\ufeff" + (SPLITS + NAMES).replace("\n", "\r\n"),
        SPLITS + NAMES + "download: |\n  from pathlib import Path\n  print('names: [x]')\n",
        SPLITS + NAMES + "roboflow:\n  workspace: me\n  version: 3\n",
    ],
)
def test_every_variant_of_data_yaml(folder, text):
    save_text(folder / "data.yaml", text)
    save_text(folder / "train.txt", "./images/train/a.jpg\nimages/train/b.jpg\n\n")
    missing = "/content/set/images/val/b.jpg"  # of another machine
    save_text(folder / "lists" / "val.txt", f"../images/val/a.jpg\r\n{missing}\r\n")
    assert_expected(convert(folder))


def test_the_yaml_file_itself_can_be_given_and_have_any_name(folder):
    save_text(folder / "animals.yml", SPLITS + NAMES)
    save_text(folder / "hyp.yaml", "lr0: 0.01\n")
    assert_expected(convert(folder / "animals.yml", out=folder.parent / "out"))


def test_absolute_paths(folder):
    save_text(folder / "data.yaml", f"path: {folder}\n{SPLITS}{NAMES}")
    save_text(folder / "sub" / "x", "")
    (folder / "data.yaml").rename(folder / "sub" / "data.yaml")
    assert_expected(convert(folder))


def test_names_are_texts_whatever_yaml_makes_of_them(folder):
    save_text(folder / "data.yaml", SPLITS + "names: [no, 1, on, 0x1F, 2024-01-01]\n")
    out = convert(folder)
    names = [c["name"] for c in read_split(out, "val")["categories"]]
    assert names == ["no", "1", "on", "0x1F", "2024-01-01"]


def test_other_keys_are_no_splits(folder):
    save_text(folder / "data.yaml", SPLITS + NAMES + "train_count: 2\nval_images: images\n")
    assert_expected(convert(folder))


def test_images_elsewhere(folder):
    file = save_text(folder.parent / "yaml" / "here" / "data.yaml", SPLITS + NAMES)
    convert(file, code=1, out=folder.parent / "out")
    assert_expected(convert(file, "--images", str(folder), out=folder.parent / "out"))


def test_what_macos_and_links_put_beside_images_is_not_read(folder):
    train = folder / "images" / "train"
    save_image(train / "__MACOSX" / "c.jpg")
    save_image(train / ".thumbnails" / "d.jpg")
    save_text(train / "._a.jpg", "metadata")
    (train / "again").symlink_to(train)  # followed once only
    save_text(folder / "data.yaml", SPLITS + NAMES)
    assert_expected(convert(folder))


def test_a_list_of_folders_and_equal_names_in_them(folder):
    text = "train: [images/train, images/val]\nval: []\n" + NAMES
    save_text(folder / "data.yaml", text)
    out = convert(folder, "--val", "0")
    assert sorted(boxes(out, "train")) == ["a.jpg", "b.jpg", "images-val-a.jpg", "images-val-b.jpg"]
    assert len(CocoDetection(out, "train", strict=True)) == 4


def test_the_same_images_for_training_and_validation_are_divided(folder, capsys):
    """As in the examples coco8 and coco128 of Ultralytics, whose splits may be the same folder."""
    save_text(folder / "data.yaml", "train: images/train\nval: images/train\n" + NAMES)
    out = convert(folder, "--val", "0.5")
    assert sorted([*boxes(out, "train"), *boxes(out, "val")]) == ["a.jpg", "b.jpg"]
    said = capsys.readouterr().out
    assert "left out 2 images of another split" in said and "a share of 0.5 of the images" in said


def test_a_path_that_does_not_exist_is_said(folder, capsys):
    save_text(folder / "data.yaml", SPLITS + "test: images/test\n" + NAMES)
    assert_expected(convert(folder))
    assert "left out 1 path to nothing (test: images/test)" in capsys.readouterr().out


# Folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label", "entry"),
    [
        ("train/images/x.jpg", "train/labels/x.txt", "train/images"),
        ("images/train/x.jpg", "labels/train/x.txt", "images/train"),
        ("images/train/sub/x.jpg", "labels/train/sub/x.txt", "images/train"),
        ("images/x.jpg", "labels/x.txt", "images"),
        ("train/x.jpg", "train/x.txt", "train"),
        ("train/x.jpg", "train/labels/x.txt", "train"),
        ("images/x.jpg", "images/x.txt", "images"),
        ("images/x.y.JPG", "labels/x.y.txt", "images"),
    ],
)
def test_labels_are_found(tmp_path, image, label, entry):
    add(tmp_path / "set" / image, tmp_path / "set" / label, ROW)
    save_text(tmp_path / "set" / "data.yaml", f"train: {entry}\n{NAMES}")
    out = convert(tmp_path / "set", "--val", "0")
    assert list(boxes(out, "train").values()) == [[BOX]]


@pytest.mark.parametrize("names", ["classes.txt", "obj.names"])
def test_without_a_yaml_file(tmp_path, names, capsys):
    """As Label Studio and LabelImg export: a list of names, and no splits."""
    for n in range(5):
        stem = f"{n}"
        add(
            tmp_path / "set/images" / f"{stem}.png", tmp_path / "set/labels" / f"{stem}.txt", ROW, n
        )
    save_text(tmp_path / "set" / names, "cat\r\ndog\r\n")
    save_text(tmp_path / "set" / "notes.json", '{"categories": []}')
    out = convert(tmp_path / "set")
    found = boxes(out, "train") | boxes(out, "val")
    assert sorted(found) == [f"{n}.png" for n in range(5)] and len(boxes(out, "val")) == 1
    assert all(rows == [BOX] for rows in found.values())


def test_cvat_names_its_folders_obj_train_data(tmp_path):
    for n, split in enumerate(("train", "valid")):
        base = tmp_path / "set" / f"obj_{split}_data"
        add(base / "x.jpg", base / "x.txt", ROW, n)
    save_text(tmp_path / "set" / "obj.names", "cat\ndog\n")
    out = convert(tmp_path / "set")
    assert boxes(out, "train") == boxes(out, "val") == {"x.jpg": [BOX]}


# Rows ---------------------------------------------------------------------------------------------


def convert_rows(folder, rows, yaml=""):
    """The boxes of one image with these rows."""
    save_text(folder / "data.yaml", SPLITS + NAMES + yaml)
    save_text(folder / "labels" / "train" / "a.txt", rows)
    return boxes(convert(folder), "train")["a.jpg"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.1 0.1\n",
            [("cat", 30, 10, 20, 20, 0), ("dog", 16, 8, 8, 4, 0)],
        ),
        ("1\t0.5  0.5 0.25 0.5\r\n\r\n", [BOX]),
        ("1.0 5e-1 0.5 0.25 0.5", [BOX]),
        ("1 0.25 0.1 0.75 0.1 0.5 0.6", [("dog", 20, 4, 40, 20, 0)]),  # a triangle
        ("1 0.25 0.1 0.75 0.1 0.75 0.6 0.25 0.6", [("dog", 20, 4, 40, 20, 0)]),  # oriented
        ("0 0.95 0.5 0.102 0.5", [("cat", 71.92, 10, 8.16, 20, 0)]),  # ends 0.08 px outside
        ("0 0.99 0.5 0.1 0.5", [("cat", 75.2, 10, 4.8, 20, 0)]),  # ends 3.2 px outside: clipped
        ("", []),
        ("\n \n", []),
    ],
)
def test_rows(folder, rows, expected):
    found = convert_rows(folder, rows)
    assert [row[0] for row in found] == [row[0] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row[1:] == pytest.approx(other[1:], abs=1e-9)


def test_keypoints_are_no_polygon(folder):
    row = ROW + " 0.1 0.1 2 0.9 0.9 2"
    assert convert_rows(folder, row, "kpt_shape: [2, 3]\n") == [BOX]


def test_polygons_and_missing_labels_are_said(folder, capsys):
    (folder / "labels" / "val" / "a.txt").unlink()
    convert_rows(folder, "1 0.2 0.1 0.7 0.1 0.5 0.6")
    said = capsys.readouterr().out
    assert "1 image without a label file, taken for" in said
    assert "1 polygon replaced by" in said
    assert boxes(folder.parent / "out", "val") == {"a.jpg": [], "b.jpg": [BOX]}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("1 0.5 0.5 0.25", "1 row with neither a box nor a polygon"),
        ("1 0.5 0.5 0.25 0.5 0.93", "1 row with neither a box nor a polygon"),
        ("1 0.5 0.5 0.25 x", "1 row with neither a box nor a polygon"),
        ("1 0.5 0.5 nan 0.5", "1 row with neither a box nor a polygon"),
        ("1 0.5 0.5 0 0.5", "1 box of no width or height"),
        ("1 1.5 0.5 0.25 0.5", "1 box outside the image"),
    ],
)
def test_rows_that_cannot_be_used_are_left_out_and_counted(folder, row, sentence, capsys):
    assert convert_rows(folder, f"{ROW}\n{row}\n") == [BOX]
    assert f"left out {sentence}" in capsys.readouterr().out
    report = (folder.parent / "out" / "conversion.txt").read_text()
    assert "labels/train/a.txt, line 2" in report


@pytest.mark.parametrize(
    "row", ["2 0.5 0.5 0.25 0.5", "-1 0.5 0.5 0.25 0.5", "dog 0.5 0.5 0.2 0.2"]
)
def test_an_unknown_category_is_refused(folder, row, capsys):
    save_text(folder / "data.yaml", SPLITS + NAMES)
    save_text(folder / "labels" / "train" / "a.txt", f"{ROW}\n{row}")
    out = convert(folder, code=1)
    error = capsys.readouterr().err
    assert "labels/train/a.txt, line 2, is of category" in error and "0 to 1" in error
    assert not out.exists()


def test_pixels_are_refused(folder, capsys):
    save_text(folder / "data.yaml", SPLITS + NAMES)
    for file in (folder / "labels").rglob("*.txt"):
        save_text(file, "1 40 20 20 20")
    convert(folder, code=1)
    assert "4 of 4 rows" in (error := capsys.readouterr().err) and "as if they were pixels" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\n", "cannot be read as YAML"),
        (b"names: [\xe9]\n", "cannot be read as text"),
        ("- a\n- b\n", "no data.yaml"),
        (SPLITS + "nc: 2\n", "does not name the categories"),
        (SPLITS + "names:\n  a: 0\n", "does not name the categories"),
        (SPLITS + "names: [cat, cat]\n", "names two categories 'cat'"),
        ("train: nowhere\n" + NAMES, "leads to no image"),
        (NAMES, "leads to no image"),
    ],
)
def test_a_yaml_file_that_cannot_be_used_is_refused_in_one_line(folder, text, message, capsys):
    file = save_text(folder / "data.yaml", text)
    convert(file, out=folder.parent / "out", code=1)
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: None, "has neither a data.yaml nor a classes.txt"),
        (lambda f: [save_text(f / f"{n}.yaml", NAMES) for n in "ab"], "several YAML files"),
        (lambda f: [save_text(f / n / "classes.txt", n) for n in "ab"], "have different names"),
    ],
)
def test_a_folder_without_clear_names_is_refused(folder, damage, message, capsys):
    damage(folder)
    convert(folder, code=1)
    assert message in capsys.readouterr().err


def test_no_label_file_at_all_is_refused(folder, capsys):
    save_text(folder / "data.yaml", SPLITS + NAMES)
    (folder / "labels").rename(folder / "elsewhere")
    convert(folder, code=1)
    assert "no label file for any of 4 images" in capsys.readouterr().err


def test_an_image_upside_down_is_turned_as_its_boxes_were(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = save_image(folder / "images" / "train" / "a.png", (H, W), exif=exif)
    (folder / "images" / "train" / "a.jpg").unlink()
    save_text(folder / "data.yaml", SPLITS + NAMES)
    dataset = CocoDetection(convert(folder), "train", strict=True)
    with Image.open(path) as image:
        assert dataset[0][0][:, 0, 0].tolist() == list(image.getpixel((W - 1, H - 1)))


def test_fractions_are_of_the_image_as_exif_rotates_it(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(folder / "images" / "train" / "a.jpg", (H, W), exif=exif)
    assert convert_rows(folder, ROW) == [("dog", 15, 20, 10, 40, 0)]
    dataset = CocoDetection(folder.parent / "out", "train", strict=True)
    assert dataset[0][0].shape == (3, W, H)
