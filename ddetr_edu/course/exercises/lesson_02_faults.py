"""The exercises of lesson 02 about boxes that are drawn wrong: find the fault, and mend it."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.broken_boxes import FAULTS, PLANTED, drawn_wrong
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.exercise import Cases, Exercise


def my_mend_boxes(boxes, figure, size, original_size):
    """(boxes (n, 4), figure, (H, W), (H, W) of the file) -> (n, 4)"""
    x1, y1, x2, y2 = boxes.unbind(-1)
    if figure == "A":  # the upper left corner was taken for the centre
        half_width, half_height = (x2 - x1) / 2, (y2 - y1) / 2
        parts = [x1 + half_width, y1 + half_height, x2 + half_width, y2 + half_height]
    elif figure == "B":
        parts = [y1, x1, y2, x2]
    else:  # the boxes are in pixels of the file, the image was resized
        scale_y, scale_x = size[0] / original_size[0], size[1] / original_size[1]
        parts = [x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y]
    return torch.stack(parts, dim=-1)


broken_convention = Choice(
    "broken_convention",
    {name: fault for name, (*_, fault) in PLANTED.items()},
    {
        "xywh as xyxy": "width and height were taken for the lower right corner",
        "corner as centre": "the upper left corner was taken for the centre",
        "centre as corner": "the centre was taken for the upper left corner",
        "x and y swapped": "each corner was given as (y, x)",
        "H and W swapped": "fractions were multiplied by (H, W) instead of (W, H)",
        "original size": "boxes in pixels of the file were drawn on a resized image",
        "y from below": "y was counted from the lower edge, upwards",
        "half a token": "half a pixel of the level of stride 64 was forgotten",
    },
    {
        ("A", "xywh as xyxy"): "each box would have a corner at that of its object; none has",
        ("A", "centre as corner"): "the boxes would lie to the lower right of their objects",
        ("A", "x and y swapped"): (
            "box 2, whose object lies at the bottom, near y = 185, would lie near x = 185, beyond "
            "the right border"
        ),
        ("A", "H and W swapped"): (
            "the box of the large ring would be wider than high, as x is stretched and y squeezed; "
            "it is square"
        ),
        ("A", "original size"): "the boxes would be larger or smaller than their objects",
        ("A", "y from below"): "only y would be wrong; here x is, too",
        ("A", "half a token"): (
            "all boxes would be off by the same distance; compare the large one with a small one"
        ),
        ("B", "xywh as xyxy"): "each box would have a corner at that of its object; none has",
        ("B", "corner as centre"): "no box could end below the lowest object, as box 1 does",
        ("B", "centre as corner"): (
            "an object would have its centre at the corner of box 0, near (51, 9); there is none"
        ),
        ("B", "H and W swapped"): (
            "the box of the ring would be higher than wide, as x is squeezed and y stretched; all "
            "three boxes are almost square"
        ),
        ("B", "original size"): "the boxes would be larger or smaller than their objects",
        ("B", "y from below"): (
            "each box would span the columns of its object; those of box 2, 31 to 68, are the "
            "columns of none"
        ),
        ("B", "half a token"): (
            "all boxes would be off in the same direction; no single shift brings all three to "
            "their objects"
        ),
        ("C", "xywh as xyxy"): "each box would have a corner at that of its object; none has",
        ("C", "corner as centre"): "each box would be as large as its object",
        ("C", "centre as corner"): (
            "each box would be as large as its object, and to the lower right of it"
        ),
        ("C", "x and y swapped"): (
            "the lowest object, the star, would have the box furthest to the right; and its box "
            "would be as large as the star"
        ),
        ("C", "H and W swapped"): (
            "one side of each box would be too long and the other too short; measure them"
        ),
        ("C", "y from below"): "the lowest object, the star, would have the highest box",
        ("C", "half a token"): "each box would be as large as its object",
    },
)


def _drawn_boxes() -> Cases:
    cases: Cases = {}
    for figure in PLANTED:
        image, boxes, original = drawn_wrong(figure)
        cases[f"figure {figure}"] = boxes, figure, (image.height, image.width), original
    # the figure, the size (H, W) of the image shown and of its file, the number of boxes
    images = {
        "as in figure A, another image": ("A", (30, 44), (30, 44), 2),
        "as in figure B, an image higher than wide": ("B", (90, 50), (90, 50), 6),
        "as in figure C, an image made smaller": ("C", (40, 60), (80, 120), 1),
        "as in figure C, height and width scaled differently": ("C", (64, 32), (48, 80), 7),
        "as in figure A, resized as well": ("A", (75, 100), (60, 80), 8),
        "as in figure B, resized as well": ("B", (24, 48), (36, 72), 9),
    }
    generator = torch.Generator().manual_seed(0)
    for name, (figure, size, original, count) in images.items():
        ends = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values
        right = (ends * torch.tensor(size[::-1])).flatten(1)  # (n, 4) xyxy
        drawn = FAULTS[PLANTED[figure][3]](right, size, original)
        cases[name] = drawn, figure, size, original
    return cases


def mended_by(figure: str, mend: Callable) -> Callable:
    """An answer that is right except for one figure.

    Args:
        figure: The one.
        mend: A function (boxes (n, 4), size (H, W), original size) -> (n, 4).

    Returns:
        A function like `my_mend_boxes`.
    """

    def answer(boxes, name, size, original_size):
        if name == figure:
            return mend(boxes, size, original_size)
        return my_mend_boxes(boxes, name, size, original_size)

    return answer


def _moved(boxes: Tensor, by: float) -> Tensor:
    return boxes + by * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


mend_boxes = Exercise(
    my_mend_boxes,
    _drawn_boxes,
    {
        "the boxes were left as they were": lambda boxes, *_: boxes,
        "in A the boxes move in the wrong direction": mended_by("A", lambda b, *_: _moved(b, -0.5)),
        "in A the boxes move by their whole size": mended_by("A", lambda b, *_: _moved(b, 1)),
        "in A all boxes move by the same distance; how far depends on the box": mended_by(
            "A", lambda b, *_: b + ((b[:, 2:] - b[:, :2]) / 2).mean(0).repeat(2)
        ),
        "in A only the upper left corner moves; the boxes have the right size": mended_by(
            "A", lambda b, *_: torch.cat([_moved(b, 0.5)[:, :2], b[:, 2:]], -1)
        ),
        "in B the order of all four numbers was reversed; x1 changes places with y1": mended_by(
            "B", lambda b, *_: b.flip(-1)
        ),
        "in B the image was turned by a quarter; nothing needs to be subtracted": mended_by(
            "B",
            lambda b, size, _: (
                torch.stack([size[1] - b[:, 3], b[:, 0], size[1] - b[:, 1], b[:, 2]]).T
            ),
        ),
        "in C the factor is upside down": mended_by(
            "C", lambda b, size, original: _scaled_to(b, original, size)
        ),
        "in C the factors of x and y are swapped: a size is (H, W)": mended_by(
            "C", lambda b, size, original: _scaled_to(b, size[::-1], original[::-1])
        ),
        "in C x and y have the same factor; each side has its own": mended_by(
            "C", lambda b, size, original: b * size[0] / original[0]
        ),
        "A was mended as if width and height had been taken for a corner": mended_by(
            "A", lambda b, *_: torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], -1)
        ),
        "B was mended as if (H, W) had been taken for (W, H)": mended_by(
            "B", lambda b, size, _: b * b.new_tensor([size[1] / size[0], size[0] / size[1]] * 2)
        ),
        "boxes were scaled to the resized image in A and B, too; they already are": lambda *a: (
            my_mend_boxes(_scaled_to(a[0], *a[2:]) if a[1] != "C" else a[0], *a[1:])
        ),
    },
)


def _scaled_to(boxes: Tensor, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    factors = [size[1] / original[1], size[0] / original[0]] * 2
    return boxes * boxes.new_tensor(factors)
