"""COCO's format as labelling tools export it."""

import json

import numpy as np
import pytest
from labelled_sets import H, W, boxes, read_split, save_image, save_text
from pycocotools import mask as masks

from ddetr_edu.cli.main import main
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.coco_exports import box_of

BOX = [5, 6, 20, 10]


def content(*names, categories=({"id": 1, "name": "cat"},), **changes) -> dict:
    """One object in each image; `changes` are made in the annotations."""
    images = [{"id": n, "file_name": f, "width": W, "height": H} for n, f in enumerate(names, 1)]
    first = categories[-1]["id"]
    annotations = [
        {"id": n, "image_id": n, "category_id": first, "bbox": BOX, "area": 150, "iscrowd": 0}
        | changes
        for n in range(1, len(names) + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def save(path, data):
    return save_text(path, json.dumps(data))


def convert(source, *options, code=0, out=None):
    out = out or source.parent / "out"
    line = ["data", "convert", "--from", "coco", str(source), "--out", str(out), *options]
    assert main(line) == code
    return out


def names_of(out, split="train"):
    return [c["name"] for c in read_split(out, split)["categories"]]


# Layouts ------------------------------------------------------------------------------------------


def test_roboflow_has_a_file_in_each_folder(tmp_path, capsys):
    categories = (
        {"id": 0, "name": "cells-x1y2", "supercategory": "none"},
        {"id": 1, "name": "RBC", "supercategory": "cells-x1y2"},
        {"id": 2, "name": "WBC", "supercategory": "cells-x1y2"},
    )
    for n, split in enumerate(("train", "valid", "test")):
        save_image(tmp_path / "set" / split / "a_jpg.rf.1f.jpg", seed=n)
        file = tmp_path / "set" / split / "_annotations.coco.json"
        save(file, content("a_jpg.rf.1f.jpg", categories=categories))
    out = convert(tmp_path / "set")
    for split in ("train", "val", "test"):
        assert boxes(out, split) == {"a_jpg.rf.1f.jpg": [("WBC", *BOX, 0)]}
        assert read_split(out, split)["categories"] == [
            {"id": 1, "name": "RBC"},
            {"id": 2, "name": "WBC"},
        ]
        original = tmp_path / "set" / {"val": "valid"}.get(split, split) / "a_jpg.rf.1f.jpg"
        assert (out / split / "a_jpg.rf.1f.jpg").read_bytes() == original.read_bytes()
        assert CocoDetection(out, split, strict=True).faults == ""
    said = capsys.readouterr().out
    assert "'cells-x1y2', which only groups the others, is left out" in said


def test_a_placeholder_of_the_same_name_as_a_category(tmp_path):
    categories = (
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
    )
    save_image(tmp_path / "set" / "a.jpg")
    save(tmp_path / "set" / "_annotations.coco.json", content("a.jpg", categories=categories))
    out = convert(tmp_path / "set", "--val", "0")
    assert read_split(out, "train")["categories"] == [{"id": 1, "name": "cat"}]
    assert boxes(out, "train")["a.jpg"] == [("cat", *BOX, 0)]


def test_a_category_without_objects_is_kept_if_it_groups_no_others(tmp_path):
    categories = (
        {"id": 0, "name": "dog", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "none"},
    )
    save_image(tmp_path / "set" / "a.jpg")
    save(tmp_path / "set" / "x.json", content("a.jpg", categories=categories))
    assert names_of(convert(tmp_path / "set", "--val", "0")) == ["dog", "cat"]


def test_cvat_has_one_file_of_all_images(tmp_path, capsys):
    names = [f"{n}.png" for n in range(10)]
    for n, name in enumerate(names):
        save_image(tmp_path / "set" / "images" / "default" / name, seed=n)
    save(tmp_path / "set" / "annotations" / "instances_default.json", content(*names))
    out = convert(tmp_path / "set", "--seed", "3")
    assert sorted([*boxes(out, "train"), *boxes(out, "val")]) == names
    assert len(boxes(out, "val")) == 2
    assert "a share of 0.2 of the images was chosen for it, with seed 3" in capsys.readouterr().out


def test_cvat_names_its_subsets_with_capitals(tmp_path):
    for n, split in enumerate(("Train", "Validation")):
        save_image(tmp_path / "set" / "images" / split / "a.png", seed=n)
        save(tmp_path / "set" / "annotations" / f"instances_{split}.json", content("a.png"))
    out = convert(tmp_path / "set")
    for split, folder in (("train", "Train"), ("val", "Validation")):
        expected = (tmp_path / "set" / "images" / folder / "a.png").read_bytes()
        assert (out / split / "a.png").read_bytes() == expected


@pytest.mark.parametrize(
    "name",
    [
        "photo 1.jpg",
        "images/photo 1.jpg",
        "images\\photo 1.jpg",
        "../../photos/photo 1.jpg",
        "/home/me/label-studio/media/upload/1/photo 1.jpg",
        "C:\\Users\\me\\photo 1.jpg",
        "photo%201.jpg",
        "http://localhost:8080/data/upload/1/photo%201.jpg",
        "https://bucket.s3.amazonaws.com/photo%201.jpg?X-Amz-Date=2026",
        "/data/local-files/?d=photos/photo%201.jpg",
        "/data/local-files/?d=photo%201.jpg",
        "images/0a1b2c3d-photo 1.jpg",
        "PHOTO 1.JPG",
    ],
)
def test_label_studio_names_images_by_paths_and_addresses(tmp_path, name):
    save_image(tmp_path / "set" / "photos" / "photo 1.jpg")
    data = content(name, categories=({"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}))
    save(tmp_path / "set" / "result.json", data)
    out = convert(tmp_path / "set", "--val", "0")
    assert boxes(out, "train") == {"photo 1.jpg": [("cat", *BOX, 0)]}
    assert names_of(out) == ["dog", "cat"]  # ids 0 and 1 became 1 and 2
    assert read_split(out, "train")["categories"][0]["id"] == 1


def test_images_in_another_folder_and_the_json_file_alone(tmp_path):
    save_image(tmp_path / "photos" / "a.jpg")
    file = save(tmp_path / "exports" / "project-1.json", content("a.jpg"))
    out = convert(file, "--images", str(tmp_path / "photos"), "--val", "0", out=tmp_path / "out")
    assert list(boxes(out, "train")) == ["a.jpg"]


def test_folders_in_names_tell_files_of_one_name_apart(tmp_path):
    for n, part in enumerate("ab"):
        save_image(tmp_path / "set" / "images" / part / "x.jpg", seed=n)
    save(tmp_path / "set" / "instances_train.json", content("a/x.jpg", "b/x.jpg"))
    out = convert(tmp_path / "set", "--val", "0")
    assert list(boxes(out, "train")) == ["images-b-x.jpg", "x.jpg"]
    for part, name in (("a", "x.jpg"), ("b", "images-b-x.jpg")):
        original = tmp_path / "set" / "images" / part / "x.jpg"
        assert (out / "train" / name).read_bytes() == original.read_bytes()


def test_files_of_one_name_are_not_guessed_between(tmp_path, capsys):
    for n, part in enumerate("ab"):
        save_image(tmp_path / "set" / "images" / part / "x.jpg", seed=n)
    save(tmp_path / "set" / "instances_train.json", content("x.jpg"))
    out = convert(tmp_path / "set", code=1)
    assert "'x.jpg' can be " in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("file", ["instances_train.json", "annotations/instances_train.json"])
def test_a_name_that_is_a_path_from_the_file_is_that_image(tmp_path, file):
    for n, place in enumerate(("train/x.jpg", "train/small/x.jpg")):
        save_image(tmp_path / "set" / place, seed=n)
    save(tmp_path / "set" / file, content("train/x.jpg" if "/" not in file else "x.jpg"))
    out = convert(tmp_path / "set", "--val", "0")
    original = tmp_path / "set" / "train" / "x.jpg"
    assert (out / "train" / "x.jpg").read_bytes() == original.read_bytes()


def test_a_name_is_tried_as_it_is_before_anything_is_taken_off_it(tmp_path):
    for n, name in enumerate(
        ("0a1b2c3d-x y.jpg", "x y.jpg", "train/c/x.jpg", "b/x.jpg", "d/Z.jpg", "d/z.jpg")
    ):
        save_image(tmp_path / "set" / name, seed=n)
    data = content("up/0a1b2c3d-x%20y.jpg", "b/x.jpg", "z.jpg")
    save(tmp_path / "set" / "train" / "train.json", data)
    out = convert(tmp_path / "set", "--val", "0")
    for original in ("0a1b2c3d-x y.jpg", "b/x.jpg", "d/z.jpg"):
        converted = out / "train" / original.rpartition("/")[2]
        assert converted.read_bytes() == (tmp_path / "set" / original).read_bytes()


def test_of_coco_s_own_files_only_instances_are_read(tmp_path):
    save_image(tmp_path / "set" / "train2017" / "a.jpg")
    for kind, category in (("instances", "cat"), ("person_keypoints", "person")):
        data = content("a.jpg", categories=({"id": 1, "name": category},))
        save(tmp_path / "set" / "annotations" / f"{kind}_train2017.json", data)
    assert names_of(convert(tmp_path / "set", "--val", "0"), "train2017") == ["cat"]


def test_two_files_of_one_split_are_refused(tmp_path, capsys):
    for name in ("one.json", "two.json"):
        save(tmp_path / "set" / name, content("x.jpg"))
    convert(tmp_path / "set", code=1)
    assert "are of one split (without a name)" in capsys.readouterr().err


def test_other_json_files_are_no_annotations(tmp_path, capsys):
    save_image(tmp_path / "set" / "a.jpg")
    save(tmp_path / "set" / "settings.json", {"a": 1})
    save(tmp_path / "set" / "captions_train.json", {"images": [], "annotations": []})
    convert(tmp_path / "set", code=1)
    assert "no JSON file with the lists images" in capsys.readouterr().err
    save(tmp_path / "set" / "labels_train.json", content("a.jpg"))
    assert list(boxes(convert(tmp_path / "set", "--val", "0"), "train")) == ["a.jpg"]


def compressed(x, y, w, h):
    """The run-length code of a rectangle in a mask of 4 x 5 pixels."""
    mask = np.zeros((4, 5), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return masks.encode(mask)["counts"].decode()


# Entries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outline", "expected"),
    [
        ([[5, 6, 25, 6, 25, 16, 5, 16]], BOX),
        ([5, 6, 25, 6, 25, 16], BOX),
        ([[5, 6, 9, 9, 5, 9], [20, 8, 25, 16, 20, 16]], BOX),
        ([["5", "6", "25", "16"]], BOX),
        ({"size": [4, 5], "counts": [5, 2, 2, 2, 9]}, [1, 1, 2, 2]),
        ({"size": [4, 5], "counts": compressed(1, 1, 2, 2)}, [1, 1, 2, 2]),
        ([], None),
        ([[5, 6]], None),
        ([["a", 6, 25, 16]], None),
        ([None, 3], None),
        ("polygon", None),
        ({"size": [4, 5]}, None),
        ({"size": [4], "counts": [5]}, None),
        ({"counts": 3, "size": "x"}, None),
    ],
)
def test_the_box_of_a_segmentation(outline, expected):
    found = box_of(outline)
    assert found is None if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize("box", [{"bbox": None}, {"bbox": []}])
def test_a_missing_box_is_that_of_the_segmentation(tmp_path, box):
    save_image(tmp_path / "set" / "a.jpg")
    data = content("a.jpg", segmentation=[[5, 6, 25, 6, 25, 16]], **box)
    del data["annotations"][0]["area"], data["annotations"][0]["iscrowd"]
    save(tmp_path / "set" / "x.json", data)
    out = convert(tmp_path / "set", "--val", "0")
    (annotation,) = read_split(out, "train")["annotations"]
    expected = {"image_id": 1, "category_id": 1, "bbox": BOX, "area": 200.0, "iscrowd": 0}
    assert annotation == {"id": 1, **expected}


def test_a_box_that_is_there_is_not_replaced_by_that_of_the_segmentation(tmp_path):
    save_image(tmp_path / "set" / "a.jpg")
    save(tmp_path / "set" / "x.json", content("a.jpg", segmentation=[[1, 1, 9, 1, 9, 9]]))
    out = convert(tmp_path / "set", "--val", "0")
    (annotation,) = read_split(out, "train")["annotations"]
    assert annotation["bbox"] == BOX and annotation["area"] == 150


@pytest.mark.parametrize("size", [{"width": None, "height": None}, {"width": 0, "height": 0}])
def test_a_missing_size_is_read_from_the_image(tmp_path, size):
    save_image(tmp_path / "set" / "a.jpg")
    data = content("a.jpg")
    data["images"][0] |= size
    save(tmp_path / "set" / "x.json", data)
    (image,) = read_split(convert(tmp_path / "set", "--val", "0"), "train")["images"]
    assert (image["height"], image["width"]) == (H, W)


def test_the_ids_of_coco_are_kept(tmp_path):
    categories = ({"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"})
    for n, split in enumerate(("train", "val")):
        save_image(tmp_path / "set" / split / "a.jpg", seed=n)
        file = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        save(file, content("a.jpg", categories=categories))
    out = convert(tmp_path / "set")
    assert read_split(out, "val")["categories"] == list(categories)
    assert read_split(out, "val")["annotations"][0]["category_id"] == 90


def test_files_of_different_categories_get_the_same_ids_by_name(tmp_path):
    both = {
        "train": ({"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}),
        "val": ({"id": 1, "name": "cat"}, {"id": 2, "name": "bird"}),
    }
    for n, (split, categories) in enumerate(both.items()):
        save_image(tmp_path / "set" / split / "a.jpg", seed=n)
        file = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        save(file, content("a.jpg", categories=categories))
    out = convert(tmp_path / "set")
    assert names_of(out) == names_of(out, "val") == ["dog", "cat", "bird"]
    assert boxes(out, "train")["a.jpg"][0][0] == "cat"
    assert boxes(out, "val")["a.jpg"][0][0] == "bird"
    assert main(["data", "validate", str(out)]) == 0


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, capsys):
    for n in range(3):
        save_image(tmp_path / "set" / f"{n}.jpg", seed=n)
    data = content("0.jpg", "1.jpg", "2.jpg", "gone.jpg")
    data["annotations"][1]["bbox"] = [5, 5, 0, 9]
    data["annotations"][2]["bbox"] = [40, 5, 40, 9]  # ends 27 px outside
    save(tmp_path / "set" / "train.json", data)
    out = convert(tmp_path / "set", "--val", "0")
    assert boxes(out, "train") == {
        "0.jpg": [("cat", *BOX, 0)],
        "1.jpg": [],
        "2.jpg": [("cat", 40, 5, W - 40, 9, 0)],
    }
    said = capsys.readouterr().out
    for sentence in (
        "1 image without a file (gone.jpg)",
        "1 box of no width or height",
        "clipped 1 box partly outside the image",
    ):
        assert sentence in said
    assert CocoDetection(out, "train", strict=True).faults == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0.1, 0.2, 0.3, 0.4]}, "as if they were fractions"),
        ({"category_id": 7}, "names category 7, which is not listed"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(tmp_path, change, message, capsys):
    save_image(tmp_path / "set" / "a.jpg")
    save(tmp_path / "set" / "x.json", content("a.jpg", **change))
    out = convert(tmp_path / "set", code=1)
    assert message in capsys.readouterr().err and not out.exists()


def test_the_orientation_of_the_annotations_is_kept(tmp_path):
    save_image(tmp_path / "set" / "a.jpg")
    save(tmp_path / "set" / "x.json", {**content("a.jpg"), "info": {"exif_orientation": "apply"}})
    out = convert(tmp_path / "set", "--val", "0")
    assert read_split(out, "train")["info"] == {"exif_orientation": "apply"}
