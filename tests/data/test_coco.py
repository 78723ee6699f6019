"""COCO's format: valid data is read correctly, an error is reported with a remedy."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.cocoeval import COCOeval
from torchvision import tv_tensors

from ddetr_edu.data.annotations import DataError
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.shapes import write_shapes

COCO_MINI = Path(__file__).parents[3] / "shared" / "coco-mini"

needs_coco_mini = pytest.mark.skipif(
    not COCO_MINI.is_dir(), reason=f"the real COCO images are not at {COCO_MINI}"
)

H, W = 37, 53


def example() -> dict:
    """Three images: two objects and a crowd; none; one object. Ids with gaps, out of order."""
    return {
        "images": [
            {"id": 30, "file_name": "c.png", "width": W, "height": H},
            {"id": 7, "file_name": "a.png", "width": W, "height": H},
            {"id": 11, "file_name": "b.png", "width": W, "height": H},
        ],
        "annotations": [
            {"id": 5, "image_id": 7, "category_id": 90, "bbox": [1.5, 2, 3, 5], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [10, 20, 30, 11.5], "iscrowd": 0},
            {"id": 8, "image_id": 7, "category_id": 4, "bbox": [0, 0, 50, 30], "iscrowd": 1},
            {"id": 9, "image_id": 30, "category_id": 4, "bbox": [0, 0, W, H]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 4, "name": "aeroplane"}],
    }


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(H, W, 3), dtype=np.uint8)


def write(root: Path, data, split: str = "train") -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data)
    (root / "annotations" / f"instances_{split}.json").write_text(text)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(pixels()).save(root / split / name)
    return root


def average_precision(truth, detections) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        scores = COCOeval(truth, truth.loadRes(detections), "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return scores.stats[0]


def perfect_detections(dataset) -> list[dict]:
    detections = []
    for i in range(len(dataset)):
        _, target = dataset[i]
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"], strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            detections.append(
                {
                    "image_id": target["image_id"],
                    "category_id": int(label),
                    "bbox": box,
                    "score": 0.9,
                }
            )
    return detections


# Valid data --------------------------------------------------------------------------------------


def test_items(tmp_path):
    dataset = CocoDetection(write(tmp_path, example()), "train")
    assert dataset.image_ids == [7, 11, 30] and len(dataset) == 3
    assert list(dataset.categories.items()) == [(4, "aeroplane"), (90, "toothbrush")]
    image, target = dataset[0]
    assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels())
    boxes = target["boxes"]
    assert isinstance(boxes, tv_tensors.BoundingBoxes) and boxes.dtype == torch.float32
    assert boxes.canvas_size == (H, W) and boxes.format == tv_tensors.BoundingBoxFormat.XYXY
    assert boxes.tolist() == [[1.5, 2, 4.5, 7], [10, 20, 40, 31.5]]  # and no crowd
    assert target["labels"].dtype == torch.int64 and target["labels"].tolist() == [90, 4]
    assert target["image_id"] == 7 and target["size"] == (H, W)


def test_an_image_without_object_is_an_item(tmp_path):
    _, target = CocoDetection(write(tmp_path, example()), "train")[1]
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64


def test_crowds_stay_in_the_ground_truth(tmp_path, capsys):
    truth = CocoDetection(write(tmp_path, example()), "train").ground_truth()
    assert sorted(truth.imgs) == [7, 11, 30] and sorted(truth.cats) == [4, 90]
    assert [a["iscrowd"] for a in truth.imgToAnns[7]] == [0, 0, 1]
    assert truth.imgToAnns[30][0]["area"] == W * H  # filled in
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("first_id", [0, 1])
def test_perfect_detections_score_1(tmp_path, first_id):
    data = example()
    for n, annotation in enumerate(data["annotations"]):
        annotation["id"] = first_id + n  # pycocotools itself mistakes id 0 for "no match"
    dataset = CocoDetection(write(tmp_path, data), "train")
    assert average_precision(dataset.ground_truth(), perfect_detections(dataset)) == 1.0
    # Scoring writes into its ground truth, but not into the data set.
    assert average_precision(dataset.ground_truth(), perfect_detections(dataset)[1:]) < 1.0


def test_first_counts_images_with_an_object(tmp_path):
    data = example()
    data["annotations"].append({"id": 1, "image_id": 11, "category_id": 4, "bbox": [0, 0, 9, 9]})
    data["annotations"][-1]["iscrowd"] = 1  # a crowd alone does not count
    dataset = CocoDetection(write(tmp_path, data), "train")
    first = dataset.first(2)
    assert first.image_ids == [7, 30] and [t["image_id"] for _, t in first] == [7, 30]
    truth = first.ground_truth()
    assert sorted(truth.imgs) == [7, 30] and len(truth.anns) == 4
    assert average_precision(truth, perfect_detections(first)) == 1.0
    assert len(dataset) == 3
    with pytest.raises(DataError, match="2 images with an object.*ask for 1 to 2"):
        dataset.first(3)


def test_transforms_see_image_and_target(tmp_path):
    root = write(tmp_path, example())
    dataset = CocoDetection(root, "train", transforms=lambda i, t: (i.flip(2), t["image_id"]))
    image, image_id = dataset[0]
    assert image_id == 7
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels()[:, ::-1])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    root = write(tmp_path, example())
    original = Image.fromarray(pixels()).convert(mode)
    suffix = "TIFF" if mode == "CMYK" else "PNG"
    original.save(root / "train" / "a.png", format=suffix)
    image, _ = CocoDetection(root, "train")[0]
    assert image.shape == (3, H, W) and image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(original.convert("RGB")))


def test_exif_orientation_is_not_applied(tmp_path):
    root = write(tmp_path, example())
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    Image.fromarray(pixels()).save(root / "train" / "a.png", exif=exif)
    image, _ = CocoDetection(root, "train")[0]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels())


def test_boxes_that_overshoot_by_rounding_are_clipped(tmp_path):
    data = example()
    data["annotations"][0]["bbox"] = [-0.4, -0.9, W + 0.8, H + 1.5]
    _, target = CocoDetection(write(tmp_path, data), "train")[0]
    assert target["boxes"][0].tolist() == [0, 0, W, H]


def test_the_two_flawed_boxes_of_coco_itself_are_left_out(tmp_path):
    data = example()
    data["images"][1]["id"] = 200365
    for annotation in data["annotations"][:3]:
        annotation["image_id"] = 200365
    data["annotations"][0]["bbox"] = [10, 20, 1.03, 0.0]
    dataset = CocoDetection(write(tmp_path, data), "train")
    assert len(dataset[2][1]["boxes"]) == 1
    assert len(dataset.ground_truth().anns) == 3


def test_a_split_is_found_by_its_beginning(tmp_path):
    write(tmp_path, example(), "train2017")
    write(tmp_path, example(), "val2017")
    assert CocoDetection(tmp_path, "train").folder == tmp_path / "train2017"
    assert CocoDetection(tmp_path, "val2017").folder == tmp_path / "val2017"
    write(tmp_path, example(), "train")
    # A split of exactly that name comes first.
    assert CocoDetection(tmp_path, "train").folder == tmp_path / "train"


# Invalid data ------------------------------------------------------------------------------------


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a COCO data set.*give the folder that"):
        CocoDetection(tmp_path / "nowhere", "train")


def test_missing_split(tmp_path):
    write(tmp_path, example(), "train2014")
    write(tmp_path, example(), "train2017")
    with pytest.raises(DataError, match="no split 'test'; choose one of train2014, train2017"):
        CocoDetection(tmp_path, "test")
    with pytest.raises(DataError) as raised:
        CocoDetection(tmp_path, "val")
    for advice in (
        "train2014, train2017",
        "instances_val.json",
        str(tmp_path / "val"),
        "--overfit",
    ):
        assert advice in str(raised.value)
    with pytest.raises(DataError, match="more than one split that begins with 'train'; choose"):
        CocoDetection(tmp_path, "train")


def test_no_split_at_all(tmp_path):
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="no split 'val'; add instances_val.json"):
        CocoDetection(tmp_path, "val")


def test_missing_image_folder(tmp_path):
    (write(tmp_path, example()) / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"instances_train.json needs its images in .*train, which"):
        CocoDetection(tmp_path, "train")


def test_missing_image(tmp_path):
    (write(tmp_path, example()) / "train" / "b.png").unlink()
    with pytest.raises(DataError, match=r"image 11 names .*b\.png, which does not exist; add"):
        CocoDetection(tmp_path, "train", strict=True)


@pytest.mark.parametrize("text", ["{", "", "\x00"])
def test_not_json(tmp_path, text):
    with pytest.raises(DataError, match="instances_train.json cannot be read as JSON"):
        CocoDetection(write(tmp_path, text), "train")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("change", ["absent", "no list", "top is a list"])
def test_missing_lists(tmp_path, key, change):
    data = example()
    if change == "absent":
        del data[key]
    elif change == "no list":
        data[key] = {}
    else:
        data, key = data["images"], "images"
    with pytest.raises(DataError, match=f"instances_train.json has no list '{key}'"):
        CocoDetection(write(tmp_path, data), "train")


WRONG_ENTRIES = [
    ("images", {"file_name": None}, "image 30 has no file_name"),
    ("images", {"width": 0}, "image 30 has no positive whole width and height"),
    ("images", {"height": "tall"}, "image 30 has no positive whole width and height"),
    ("images", {"height": 37.5}, "image 30 has no positive whole width and height"),
    ("images", {"id": [30]}, "image number 0 has no whole number as id"),
    ("images", {"id": 10**30}, "image number 0 has no whole number as id"),
    ("images", {"id": 7}, "image id 7 occurs twice"),
    ("categories", {"name": None}, "category 90 has no name"),
    ("categories", {"id": 2**63}, "category number 0 has no whole number as id"),
    ("categories", {"id": 4}, "category id 4 occurs twice"),
    ("annotations", {"id": 9}, "annotation id 9 occurs twice"),
    ("annotations", {"id": None}, "annotation number 0 has no whole number as id"),
    ("annotations", {"image_id": 99}, "annotation 5 names image 99, which is not listed; add"),
    ("annotations", {"image_id": [7]}, r"annotation 5 names image \[7\], which is not listed"),
    (
        "annotations",
        {"category_id": 91},
        r"annotation 5 \(image 7\) names category 91, which is not listed; use one of .* 4, 90",
    ),
]
WRONG_BOXES = [
    (None, "a box is four finite numbers"),
    (5, "a box is four finite numbers"),
    ([1, 2, 3], "a box is four finite numbers"),
    ([1, 2, "three", 4], "a box is four finite numbers"),
    ([1, 2, True, 4], "a box is four finite numbers"),
    ([1, 2, 10**400, 4], "a box is four finite numbers"),
    ([0.2, 0.3, 0.5, 0.4], "in the first pixel of its image of 53 x 37 pixels, like a fraction"),
    ([1, 2, 3, 2e-5], "less than a pixel can show"),
    ([W - 0.001, 2, 0.5, 4], "less than a pixel can show"),
    ([1, 2, float("nan"), 4], "a box is four finite numbers"),
    ([1, 2, float("inf"), 4], "a box is four finite numbers"),
    ([1, 2, 0, 4], "of no width or height"),
    ([1, 2, 3, 0.0], "of no width or height"),
    ([5, 2, -3, 4], "of no width or height"),
    ([-1, 2, 8, 4], "which leaves its image of 53 x 37 pixels"),
    ([1, -1.5, 8, 4], "which leaves its image"),
    ([W - 7, 2, 8, 4], "which leaves its image"),
    ([1, H - 3, 8, 4.0], "which leaves its image"),
    ([W + 0.1, 2, 0.5, 4], "which leaves its image"),  # overshoots little, but all of it
    ([1, -0.6, 3, 0.6], "which leaves its image"),
    ([200, 200, 8, 4], "which leaves its image"),
]


@pytest.mark.parametrize("kind, change, message", WRONG_ENTRIES)
def test_wrong_entries(tmp_path, kind, change, message):
    data = example()
    data[kind][0].update(change)
    with pytest.raises(DataError, match="instances_train.json: " + message):
        CocoDetection(write(tmp_path, data), "train", strict=True)


@pytest.mark.parametrize("crowd", [0, 1])
@pytest.mark.parametrize("box, message", WRONG_BOXES)
def test_wrong_boxes(tmp_path, box, message, crowd):
    data = example()
    data["annotations"][1].update(bbox=box, iscrowd=crowd)
    named = re.escape(f"annotation 2 (image 7) has the box {box}")
    with pytest.raises(DataError, match=f"instances_train.json: {named}.*{message}"):
        CocoDetection(write(tmp_path, data), "train", strict=True)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_unreadable_image(tmp_path, damage):
    image = write(tmp_path, example()) / "train" / "a.png"
    content = image.read_bytes()
    damaged = {"truncated": content[: len(content) // 2], "text": b"not an image", "empty": b""}
    dataset = CocoDetection(tmp_path, "train")
    image.write_bytes(damaged[damage])  # only now: at its turn
    message = r"a\.png cannot be read as an image \(.*\); copy it again"
    with pytest.raises(DataError, match=message):
        dataset[0]
    dataset[1]  # its neighbour is fine
    with pytest.raises(DataError, match=message):
        CocoDetection(tmp_path, "train", strict=True)


def test_image_of_another_size(tmp_path):
    image = write(tmp_path, example()) / "train" / "a.png"
    Image.new("RGB", (H, W)).save(image)
    with pytest.raises(
        DataError, match=r"a\.png is 37 x 53 pixels, but its annotations say 53 x 37"
    ):
        CocoDetection(tmp_path, "train", strict=True)


# Real data ---------------------------------------------------------------------------------------


@needs_coco_mini
@pytest.mark.parametrize("split, images, boxes", [("train", 92, 829), ("val", 91, 716)])
def test_real_coco(split, images, boxes):
    dataset = CocoDetection(COCO_MINI, split)
    truth = dataset.ground_truth()
    crowds = sum(a["iscrowd"] for a in truth.anns.values())
    assert len(dataset) == images and len(truth.anns) == boxes and crowds > 0
    assert len(dataset.categories) == 80 and dataset.categories[90] == "toothbrush"
    kept = empty = grey = 0
    for image, target in dataset:
        h, w = target["size"]
        assert image.shape == (3, h, w)
        kept += len(target["boxes"])
        empty += len(target["boxes"]) == 0
        grey += bool((image[0] == image[1]).all() and (image[1] == image[2]).all())
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        assert ((x1 >= 0) & (x1 < x2) & (x2 <= w)).all()
        assert ((y1 >= 0) & (y1 < y2) & (y2 <= h)).all()
    assert kept == boxes - crowds
    assert empty >= 1
    assert grey >= (split == "train")
    assert average_precision(truth, perfect_detections(dataset)) == pytest.approx(1.0)


def test_sizes_are_known_without_opening_an_image(tmp_path):
    write_shapes(tmp_path, "train", 3, seed=2)
    dataset = CocoDetection(tmp_path, "train")
    expected = [tuple(dataset[i][0].shape[1:]) for i in range(3)]
    for image in (tmp_path / "train").iterdir():
        image.write_bytes(b"")
    assert dataset.sizes() == expected and len(set(expected)) == 3
    assert dataset.first(2).sizes() == expected[:2]
