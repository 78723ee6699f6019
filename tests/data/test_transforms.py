"""Flips and crops move the boxes together with the image."""

import torch
from torchvision import tv_tensors
from torchvision.ops import box_area

from ddetr_edu.data.shapes import Shapes
from ddetr_edu.data.transforms import RandomSizeCrop, light_augmentation, official_augmentation


def test_light_augmentation_flips_image_and_boxes_or_neither():
    dataset, augment = Shapes(1, seed=2), light_augmentation()
    image, target = dataset[0]
    width = image.shape[2]
    flipped_boxes = target["boxes"].clone()
    flipped_boxes[:, [0, 2]] = width - target["boxes"][:, [2, 0]]
    torch.manual_seed(0)
    flips = 0
    for _ in range(40):
        image_, target_ = augment(image, target)
        flipped = not torch.equal(image_, image)
        flips += flipped
        assert torch.equal(image_, image.flip(2) if flipped else image)
        assert torch.equal(target_["boxes"], flipped_boxes if flipped else target["boxes"])
        assert torch.equal(target_["labels"], target["labels"])
        assert (target_["image_id"], target_["size"]) == (target["image_id"], target["size"])
    assert 10 <= flips <= 30


def test_a_crop_shows_what_was_there():
    """The value of each pixel says where it comes from."""
    rows, columns = torch.meshgrid(torch.arange(71), torch.arange(97), indexing="ij")
    image = tv_tensors.Image(torch.stack([rows, columns, 0 * rows]).to(torch.uint8))
    boxes = tv_tensors.BoundingBoxes([[10.0, 20, 90, 61]], format="XYXY", canvas_size=(71, 97))
    torch.manual_seed(0)
    shapes = set()
    for _ in range(40):
        crop, target = RandomSizeCrop(31, 83)(image, {"boxes": boxes, "labels": torch.tensor([5])})
        _, height, width = crop.shape
        top, left = crop[:2, 0, 0].tolist()
        shapes.add((height, width))
        assert torch.equal(crop, image[:, top : top + height, left : left + width])
        (x1, y1, x2, y2) = target["boxes"][0].tolist()
        assert (x1, y1) == (min(max(10 - left, 0), width), min(max(20 - top, 0), height))
        assert (x2, y2) == (min(max(90 - left, 0), width), min(max(61 - top, 0), height))
    heights, widths = map(set, zip(*shapes, strict=True))
    assert 31 <= min(heights) < 40 and 65 < max(heights) <= 71
    assert 31 <= min(widths) < 40 and 75 < max(widths) <= 83


def test_official_augmentation_keeps_boxes_inside_the_image():
    augment, shapes, counts = official_augmentation(), [], []
    dataset = Shapes(12, seed=3)
    torch.manual_seed(0)
    for i in range(12):
        for _ in range(4):
            image, target = dataset[i]
            before = (image.shape, len(target["labels"]))
            image, target = augment(image, target)
            boxes = target["boxes"]
            assert len(boxes) == len(target["labels"]) and boxes.shape[1:] == (4,)
            assert target["image_id"] == i + 1
            assert (box_area(boxes) > 0).all() and (boxes >= 0).all()
            assert (boxes <= torch.tensor([*image.shape[:0:-1]] * 2)).all()
            shapes.append(image.shape == before[0])
            counts.append(len(boxes) - before[1])
            if image.shape != before[0]:
                assert min(image.shape[1:]) >= 384 and max(image.shape[1:]) <= 600
    assert 14 <= sum(shapes) <= 34  # about half of them are not cropped
    assert max(counts) == 0 and min(counts) < 0


def test_an_image_may_end_up_without_a_box():
    image, target = Shapes(1, seed=3)[0]
    target["boxes"] = tv_tensors.wrap(target["boxes"][:0], like=target["boxes"])
    target["labels"] = target["labels"][:0]
    torch.manual_seed(0)
    for _ in range(4):
        _, cropped = official_augmentation()(image, target)
        assert cropped["boxes"].shape == (0, 4) and cropped["labels"].shape == (0,)


def test_data_sets_apply_transforms_to_image_and_boxes():
    always = Shapes(3, seed=2, transforms=lambda image, target: (image.flip(2), target["labels"]))
    plain = Shapes(3, seed=2)
    for (image, labels), (image_, target) in zip(always.first(2), plain.first(2), strict=True):
        assert torch.equal(image, image_.flip(2)) and torch.equal(labels, target["labels"])
