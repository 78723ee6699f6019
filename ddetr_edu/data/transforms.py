"""Data augmentation: random changes to an image and its boxes during training."""

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


def light_augmentation() -> v2.Transform:
    """A horizontal flip with probability 0.5, the one augmentation that harms no box.

    Returns:
        A transform to call as `transform(image, target)`. It draws from torch's global generator,
        as all transforms of torchvision do: `torch.manual_seed` makes it repeatable.
    """
    return v2.RandomHorizontalFlip(p=0.5)


def official_augmentation() -> v2.Transform:
    """A horizontal flip and a random crop of a resized image, each with probability 0.5.

    Boxes are clipped to the crop and removed if nothing is left of them, so that an image may end
    up without any. The official recipe then resizes to a random side, which is the detector's task
    here: see `ResizeConfig.short_sides_in_training`.

    Source: `make_coco_transforms` of the official datasets/coco.py.

    Returns:
        A transform to call as `transform(image, target)`, like that of `light_augmentation`.
    """
    crop = v2.Compose(
        [
            v2.RandomShortestSize([400, 500, 600]),
            RandomSizeCrop(384, 600),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    return v2.Compose([v2.RandomHorizontalFlip(p=0.5), v2.RandomApply([crop], p=0.5)])


class RandomSizeCrop(v2.Transform):
    """A crop of random height and width at a random position.

    A side of the image that is shorter than `min_size` is not cropped.

    Source: `RandomSizeCrop` of the official datasets/transforms.py.

    Args:
        min_size: The smallest height and width of the crop, in px.
        max_size: The largest height and width, in px.
    """

    def __init__(self, min_size: int, max_size: int):
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def make_params(self, flat_inputs: list) -> dict[str, int]:
        """Choose the crop.

        Args:
            flat_inputs: The image and what is transformed with it.

        Returns:
            The crop's "top", "left", "height" and "width" in px.
        """
        full_height, full_width = v2.query_size(flat_inputs)
        height, width = self._side(full_height), self._side(full_width)
        return {
            "top": randint(0, full_height - height),
            "left": randint(0, full_width - width),
            "height": height,
            "width": width,
        }

    def transform(self, inpt, params: dict[str, int]):
        """Crop the image, or clip the boxes to the crop.

        Args:
            inpt: A `tv_tensors.Image`, `tv_tensors.BoundingBoxes` or anything that `F.crop` takes.
            params: From `make_params`.

        Returns:
            The cropped input, of the same type.
        """
        return F.crop(inpt, **params)

    def _side(self, full: int) -> int:
        return randint(min(self.min_size, full), min(self.max_size, full))


def randint(low: int, high: int) -> int:
    """A random integer from torch's global generator.

    Args:
        low: The smallest value.
        high: The largest value, included.

    Returns:
        The integer.
    """
    return int(torch.randint(low, high + 1, ()))
