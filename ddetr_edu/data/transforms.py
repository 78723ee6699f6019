"""What happens to pictures between a data set and a detector."""

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


def light_augmentation() -> v2.Transform:
    """Mirror every second picture and its boxes: the one augmentation no box suffers from.

    Called as `transform(image, target)`. Draws from torch's global generator, as all transforms of
    torchvision do: `torch.manual_seed` makes it repeatable.
    """
    return v2.RandomHorizontalFlip(p=0.5)


def official_augmentation() -> v2.Transform:
    """Mirror every second picture; of every second one show only a part.

    Boxes are cut where the part ends, and go when nothing is left of them: a picture may end up
    without any. The official recipe then resizes to a random side, which here is the detector's
    business: see `PictureSize.short_sides_in_training`.

    Called as `transform(image, target)`, like `light_augmentation`.
    Source: make_coco_transforms of the official datasets/coco.py.
    """
    part = v2.Compose(
        [v2.RandomShortestSize([400, 500, 600]), RandomPart(384, 600), v2.SanitizeBoundingBoxes()]
    )
    return v2.Compose([v2.RandomHorizontalFlip(p=0.5), v2.RandomApply([part], p=0.5)])


class RandomPart(v2.Transform):
    """Cut out a rectangle of random height and width, each from `least` to `most` px, anywhere.

    A picture smaller than that is taken whole in this direction.
    """

    def __init__(self, least: int, most: int):
        super().__init__()
        self.least, self.most = least, most

    def make_params(self, flat_inputs: list) -> dict[str, int]:
        """Where to cut: top, left, height and width in px."""
        full_height, full_width = v2.query_size(flat_inputs)
        height, width = self._side(full_height), self._side(full_width)
        return {
            "top": draw(0, full_height - height), "left": draw(0, full_width - width),
            "height": height, "width": width,
        }  # fmt: skip

    def transform(self, inpt, params: dict[str, int]):
        """Cut an image, or the boxes with it."""
        return F.crop(inpt, **params)

    def _side(self, full: int) -> int:
        return draw(min(self.least, full), min(self.most, full))


def draw(least: int, most: int) -> int:
    """A whole number from least to most, both included, from torch's global generator."""
    return int(torch.randint(least, most + 1, ()))


def collate(batch: list[tuple]) -> tuple[list, list[dict]]:
    """[(image, target), ...] -> (images, targets), as lists, because pictures differ in size."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)
