"""The exercise of lesson 02 about boxes: from one format and image size to another."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.course.exercise import Cases, Exercise


def my_convert_boxes(boxes, source, target, old_size, new_size):
    """(boxes (n, 4), source, target, (H, W), (H, W)) -> (n, 4)"""
    old_size = torch.tensor([old_size[1], old_size[0]])  # (W, H)
    new_size = torch.tensor([new_size[1], new_size[0]])
    first, second = boxes[:, :2], boxes[:, 2:]
    if source == "cxcywh":
        corner, size = first - second / 2, second
    elif source == "xywh":
        corner, size = first / old_size, second / old_size
    else:
        corner, size = first / old_size, (second - first) / old_size
    # Now all boxes are fractions: their upper left corner and their size.
    if target == "cxcywh":
        parts = [corner + size / 2, size]
    elif target == "xywh":
        parts = [corner * new_size, size * new_size]
    else:
        parts = [corner * new_size, (corner + size) * new_size]
    return torch.cat(parts, dim=-1)


def _boxes_to_convert() -> Cases:
    # source, target, sizes (H, W) of the old and of the new image, number of boxes
    conversions = {
        "COCO's boxes as corners, the image as it is": ("xywh", "xyxy", (30, 40), (30, 40), 3),
        "COCO's boxes for a model": ("xywh", "cxcywh", (48, 64), (48, 64), 2),
        "a model's boxes for a screen": ("cxcywh", "xyxy", (64, 48), (20, 15), 5),
        "corners, for an image twice as large": ("xyxy", "xyxy", (24, 36), (48, 72), 4),
        "corners for COCO, the image resized": ("xyxy", "xywh", (50, 30), (80, 48), 1),
        "corners for a model, the image resized": ("xyxy", "cxcywh", (33, 77), (60, 140), 6),
        "COCO's boxes, width and height scaled differently": (
            *("xywh", "xywh", (100, 60), (90, 120)),
            7,
        ),
        "a model's boxes for COCO": ("cxcywh", "xywh", (70, 90), (35, 45), 8),
        "a model's boxes stay what they are": ("cxcywh", "cxcywh", (20, 50), (36, 90), 9),
        "COCO's boxes as corners, in an image of a few pixels": (
            *("xywh", "xyxy", (4, 6), (2, 3)),
            2,
        ),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (source, target, old, new, count) in conversions.items():
        ends = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values
        low, high = ends.unbind(1)
        size = torch.tensor(old[::-1])
        boxes = {
            "xywh": [low * size, (high - low) * size],
            "xyxy": [low * size, high * size],
            "cxcywh": [(low + high) / 2, high - low],
        }[source]
        cases[name] = torch.cat(boxes, dim=-1), source, target, old, new
    return cases


def convert_after(change: Callable) -> Callable:
    """A conversion of boxes that goes wrong before it begins.

    Args:
        change: A function of the five arguments that returns five others.

    Returns:
        A function like `my_convert_boxes`.
    """
    return lambda *arguments: my_convert_boxes(*change(*arguments))


def convert_before(change: Callable) -> Callable:
    """A conversion of boxes that goes wrong at its end.

    Args:
        change: A function (right boxes (n, 4), target, new size (W, H)) -> (n, 4).

    Returns:
        A function like `my_convert_boxes`.
    """

    def convert(boxes, source, target, old_size, new_size):
        right = my_convert_boxes(boxes, source, target, old_size, new_size)
        return change(right, target, right.new_tensor(new_size[::-1]))

    return convert


def _instead(wrong: str, right: str) -> Callable:
    return lambda format: wrong if format == right else format


def _shifted_by_half(boxes: Tensor, target: str, size: Tensor) -> Tensor:
    positions = {"xyxy": [1, 1, 1, 1], "xywh": [1, 1, 0, 0], "cxcywh": [0, 0, 0, 0]}[target]
    return boxes - boxes.new_tensor(positions) / 2


def convert_scaled(boxes, source, target, old_size, new_size):
    """The wrong conversion that scales fractions as if they were pixels."""
    right = my_convert_boxes(boxes, source, target, old_size, new_size)
    scale = right.new_tensor(new_size[::-1]) / right.new_tensor(old_size[::-1])
    return right * scale.repeat(2) if target == "cxcywh" else right


def convert_all_in_pixels(boxes, source, target, old_size, new_size):
    """The wrong conversion that takes cxcywh to be in pixels, like the other formats."""
    scale = boxes.new_tensor(new_size[::-1]) / boxes.new_tensor(old_size[::-1])
    return box_convert(boxes * scale.repeat(2), source, target)


convert_boxes = Exercise(
    my_convert_boxes,
    _boxes_to_convert,
    {
        "height and width are swapped: a size is (H, W), but x and w go with W": convert_after(
            lambda b, s, t, old, new: (b, s, t, old[::-1], new[::-1])
        ),
        "boxes in pixels were not scaled to the new image": convert_after(
            lambda b, s, t, old, new: (b, s, t, old, old)
        ),
        "the two sizes are swapped: the boxes come from the old image": convert_after(
            lambda b, s, t, old, new: (b, s, t, new, old)
        ),
        "width and height of xywh were taken for a second corner": convert_after(
            lambda b, s, t, old, new: (b, _instead("xyxy", "xywh")(s), t, old, new)
        ),
        "where xywh is wanted, the second corner was returned; return width and height": (
            convert_after(lambda b, s, t, old, new: (b, s, _instead("xyxy", "xywh")(t), old, new))
        ),
        "where cxcywh is wanted, the corner was returned; the centre is half a box further": (
            convert_before(
                lambda b, t, size: (
                    torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], -1) if t == "cxcywh" else b
                )
            )
        ),
        "the centre of cxcywh was taken for the corner": convert_after(
            lambda b, s, t, old, new: (
                torch.cat([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], -1) if s == "cxcywh" else b,
                *(s, t, old, new),
            )
        ),
        "the centre lies half a width and half a height from the corner, not a whole one": (
            convert_before(
                lambda b, t, size: (
                    torch.cat([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], -1) if t == "cxcywh" else b
                )
            )
        ),
        "half a pixel was subtracted; the sides of a box are counted from the edge of the image, "
        "not from the centre of the first pixel": convert_before(_shifted_by_half),
        "cxcywh is not normalised: divide it by (W, H, W, H)": convert_before(
            lambda b, t, size: b * size.repeat(2) if t == "cxcywh" else b
        ),
        "fractions were scaled to the new image; a fraction stays what it is": convert_scaled,
        "boxes were divided by the size of the new image; they come in pixels of the old one": (
            convert_after(lambda b, s, t, old, new: (b, s, t, new, new))
        ),
        "cxcywh was taken to be in pixels; its numbers are fractions of the image": (
            convert_all_in_pixels
        ),
        "only the format was changed: the two sizes were not used": lambda b, s, t, old, new: (
            convert_all_in_pixels(b, s, t, old, old)
        ),
        "where cxcywh is wanted, height comes before width": convert_before(
            lambda b, t, size: b[:, [0, 1, 3, 2]] if t == "cxcywh" else b
        ),
        "1 was subtracted from x + w: pixels are not counted here, positions are": convert_after(
            lambda b, s, t, old, new: (
                b - b.new_tensor([0, 0, 1, 1]) if s == "xywh" else b,
                *(s, t, old, new),
            )
        ),
    },
)
