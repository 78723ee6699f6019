"""Boxes drawn by a broken convention: the planted faults of lesson 02.

Whoever is at work on the exercise should not read on: the answers are below.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.data.scenes import draw_scene

Size = tuple[int, int]  # (H, W) in pixels
COARSEST_STRIDE = 64


class BrokenBoxes(NamedTuple):
    """An image, and boxes as a program with one fault draws them on it."""

    image: Image.Image
    boxes: Tensor  # (n, 4), (x1, y1, x2, y2) in pixels of the image
    original_size: Size  # of the image's file, which the annotation is about


def _scaled(boxes: Tensor, x: float, y: float) -> Tensor:
    return boxes * boxes.new_tensor([x, y, x, y])


def _mirrored(boxes: Tensor, height: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, height - y2, x2, height - y1], dim=-1)


# The fault -> a function (right boxes (n, 4) xyxy in pixels of the image shown, its size, the size
# of its file) -> the boxes that are drawn, xyxy.
FAULTS: dict[str, Callable[[Tensor, Size, Size], Tensor]] = {
    "xywh as xyxy": lambda boxes, size, original: box_convert(boxes, "xyxy", "xywh"),
    "corner as centre": lambda boxes, size, original: box_convert(
        box_convert(boxes, "xyxy", "xywh"), "cxcywh", "xyxy"
    ),
    "centre as corner": lambda boxes, size, original: box_convert(
        box_convert(boxes, "xyxy", "cxcywh"), "xywh", "xyxy"
    ),
    "x and y swapped": lambda boxes, size, original: boxes[:, [1, 0, 3, 2]],
    "H and W swapped": lambda boxes, size, original: _scaled(
        boxes, size[0] / size[1], size[1] / size[0]
    ),
    "original size": lambda boxes, size, original: _scaled(
        boxes, original[1] / size[1], original[0] / size[0]
    ),
    "y from below": lambda boxes, size, original: _mirrored(boxes, size[0]),
    "half a token": lambda boxes, size, original: boxes - COARSEST_STRIDE / 2,
}
PLANTED = {  # the figure -> its scene (seed, index), its short side if it is resized, its fault
    "A": (2, 15, None, "corner as centre"),
    "B": (2, 47, None, "x and y swapped"),
    "C": (2, 44, 256, "original size"),
}


def right_boxes(name: str) -> BrokenBoxes:
    """The image of a figure with its boxes where they belong.

    Args:
        name: One of `PLANTED`.

    Returns:
        The image, its boxes and the size of its file.
    """
    seed, index, short_side, _ = PLANTED[name]
    scene = draw_scene(seed, index)
    width, height = scene.image.size
    image, boxes = scene.image, torch.from_numpy(scene.boxes).double()
    if short_side is not None:
        factor = short_side / min(width, height)
        image = scene.image.resize((round(width * factor), round(height * factor)))
        boxes = _scaled(boxes, image.width / width, image.height / height)
    return BrokenBoxes(image, boxes, (height, width))


def drawn_wrong(name: str) -> BrokenBoxes:
    """The image of a figure with its boxes as they are drawn.

    Args:
        name: One of `PLANTED`.

    Returns:
        The image, the boxes where the fault puts them, and the size of the image's file.
    """
    image, boxes, original_size = right_boxes(name)
    fault = FAULTS[PLANTED[name][3]]
    drawn = fault(boxes, (image.height, image.width), original_size)
    return BrokenBoxes(image, drawn, original_size)
