"""Mirroring moves boxes with the picture; a batch is lists."""

import torch

from ddetr_edu.data import Shapes, collate, light_augmentation


def test_light_augmentation_mirrors_picture_and_boxes_or_neither():
    dataset, augment = Shapes(1, seed=2), light_augmentation()
    image, target = dataset[0]
    width = image.shape[2]
    mirrored = target["boxes"].clone()
    mirrored[:, [0, 2]] = width - target["boxes"][:, [2, 0]]
    torch.manual_seed(0)
    flips = 0
    for _ in range(40):
        image_, target_ = augment(image, target)
        flipped = not torch.equal(image_, image)
        flips += flipped
        assert torch.equal(image_, image.flip(2) if flipped else image)
        assert torch.equal(target_["boxes"], mirrored if flipped else target["boxes"])
        assert torch.equal(target_["labels"], target["labels"])
        assert (target_["image_id"], target_["size"]) == (target["image_id"], target["size"])
    assert 10 <= flips <= 30


def test_data_sets_apply_transforms_to_picture_and_boxes():
    always = Shapes(3, seed=2, transforms=lambda image, target: (image.flip(2), target["labels"]))
    plain = Shapes(3, seed=2)
    for (image, labels), (image_, target) in zip(always.first(2), plain.first(2), strict=True):
        assert torch.equal(image, image_.flip(2)) and torch.equal(labels, target["labels"])


def test_collate_keeps_pictures_of_different_size():
    dataset = Shapes(3, seed=2)
    images, targets = next(iter(torch.utils.data.DataLoader(dataset, 3, collate_fn=collate)))
    assert isinstance(images, list) and isinstance(targets, list)
    assert len({image.shape for image in images}) == 3
    assert [t["image_id"] for t in targets] == [1, 2, 3]
    assert all(torch.equal(t["boxes"], dataset[i][1]["boxes"]) for i, t in enumerate(targets))
