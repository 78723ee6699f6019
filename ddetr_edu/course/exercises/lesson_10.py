"""The exercises of lesson 10 about single boxes: where they start, and how they are refined.

How proposals are chosen is in `lesson_10_proposals`, and the whole detector in `lesson_10_forward`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.models.heads import inverse_sigmoid, refine_boxes
from ddetr_edu.models.queries import propose


def my_anchor(row, column, shape, level):
    """(row, column, (H, W) of the level, number of the level) -> (cx, cy, w, h)"""
    height, width = shape
    side = 0.05 * 2**level
    return (column + 0.5) / width, (row + 0.5) / height, side, side


def my_refine(reference, delta):
    """(reference (..., 2 or 4), delta (..., 4)) -> box (..., 4) (cx, cy, w, h)"""
    logit = torch.log(reference.clamp(min=1e-5)) - torch.log((1 - reference).clamp(min=1e-5))
    if reference.shape[-1] == 2:
        logit = torch.cat([logit, torch.zeros_like(logit)], dim=-1)
    return torch.sigmoid(logit + delta)


def _places() -> Cases:
    return {
        "the first token of level 0": (0, 0, (4, 8), 0),
        "a token of level 1": (1, 4, (2, 5), 1),
        "level 2": (2, 1, (3, 4), 2),
        "a level of one row": (0, 6, (1, 10), 3),
        "a level of one column": (4, 0, (6, 1), 1),
        "a level of one token": (0, 0, (1, 1), 4),
        "a fine level": (99, 20, (100, 134), 0),
        "a tall level": (7, 0, (9, 3), 2),
    }


def anchor_with(centre: Callable | None = None, side: Callable | None = None) -> Callable:
    """Anchors by rules of one's own.

    Args:
        centre: A function (row, column, (H, W)) -> (cx, cy); the right one if None.
        side: A function (level, (H, W)) -> (w, h); the right one if None.

    Returns:
        A function (row, column, shape, level) -> (cx, cy, w, h).
    """

    def anchor(row, column, shape, level):
        *right, w, h = my_anchor(row, column, shape, level)
        return (
            *(centre(row, column, shape) if centre else right),
            *(side(level, shape) if side else (w, h)),
        )

    return anchor


def _as_corners(row, column, shape, level) -> tuple[float, ...]:
    x, y, w, h = my_anchor(row, column, shape, level)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


anchor = Exercise(
    my_anchor,
    _places,
    {
        "y comes before x; a box is (cx, cy, w, h)": anchor_with(
            lambda row, column, shape: ((row + 0.5) / shape[0], (column + 0.5) / shape[1])
        ),
        "height and width are swapped: a shape is (H, W)": anchor_with(
            lambda row, column, shape: ((column + 0.5) / shape[0], (row + 0.5) / shape[1])
        ),
        "the half pixel is missing: the centre of column 0 is at 0.5": anchor_with(
            lambda row, column, shape: (column / shape[1], row / shape[0])
        ),
        "the first and the last centre were put on the borders of the image": anchor_with(
            lambda row, column, shape: (column / max(shape[1] - 1, 1), row / max(shape[0] - 1, 1))
        ),
        "the centre is in pixels of the level; divide by its width and height": anchor_with(
            lambda row, column, shape: (column + 0.5, row + 0.5)
        ),
        "the side is 0.05 on every level; it doubles from level to level": anchor_with(
            side=lambda level, shape: (0.05, 0.05)
        ),
        "the side grows by 0.05 from level to level; it doubles": anchor_with(
            side=lambda level, shape: (0.05 * (level + 1),) * 2
        ),
        "the side is 0.05 * 2 * level; it is 2 to the power of the level": anchor_with(
            side=lambda level, shape: (0.05 * 2 * level,) * 2
        ),
        "levels are counted from 0: the side is 0.05 on the finest": anchor_with(
            side=lambda level, shape: (0.05 * 2 ** (level + 1),) * 2
        ),
        "the side halves from level to level; coarse tokens stand for large objects": anchor_with(
            side=lambda level, shape: (0.05 / 2**level,) * 2
        ),
        "the side is that of the token's pixel": anchor_with(
            side=lambda level, shape: (1 / shape[1], 1 / shape[0])
        ),
        "width and height are in pixels of the level; they are fractions of the image": anchor_with(
            side=lambda level, shape: (0.05 * 2**level * shape[1], 0.05 * 2**level * shape[0])
        ),
        "these are two corners, (x1, y1, x2, y2); a reference is (cx, cy, w, h)": _as_corners,
    },
    library=(propose,),
)


def _references_and_deltas() -> Cases:
    sizes = {  # (N, Lq), and the numbers of a reference
        "boxes": ((2, 3), 4),
        "points": ((3, 5), 2),
        "a single box": ((1, 1), 4),
        "deltas of zero, boxes": ((5, 4), 4),
        "deltas of zero, points": ((4, 7), 2),
        "large deltas": ((2, 6), 4),
        "boxes that reach the border of the range": ((6, 2), 4),
        "points on the border of the image": ((1, 8), 2),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, numbers) in sizes.items():
        reference = torch.rand(*shape, numbers, generator=generator, dtype=torch.float64)
        delta = torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
        if "zero" in name:
            delta = torch.zeros_like(delta)
        if name.startswith("large"):
            delta = 4 * delta
        if "border" in name:  # exactly 0 or 1, and deltas that lead back from there
            reference = (reference > 0.5).double()
            delta[..., :numbers] += 12 * (1 - 2 * reference)
        cases[name] = 0.05 + 0.9 * reference if "border" not in name else reference, delta
    return cases


def _with_size(reference: Tensor, size: float = 0.5) -> Tensor:
    """Points become boxes of a size; boxes stay as they are."""
    return torch.cat([reference, torch.full_like(reference, size)], dim=-1)[..., :4]


def refined_by(rule: Callable) -> Callable:
    """Boxes refined by a rule of one's own.

    Args:
        rule: A function (reference (..., 4), delta (..., 4)) -> (..., 4); points come with a size
            of 0.5, whose logit is 0.

    Returns:
        A function (reference (..., 2 or 4), delta) -> boxes.
    """
    return lambda reference, delta: rule(_with_size(reference), delta)


def _sizes_from(other: Callable) -> Callable:
    """The centre is refined rightly, width and height by another rule."""

    def refined(reference, delta):
        right, wrong = my_refine(reference, delta), other(reference, delta)
        return torch.cat([right[..., :2], wrong[..., 2:]], dim=-1)

    return refined


def _of_boxes(rule: Callable) -> Callable:
    """Another rule for boxes; points are refined rightly."""
    return lambda reference, delta: (rule if reference.shape[-1] == 4 else my_refine)(
        reference, delta
    )


def _as_faster_rcnn(reference: Tensor, delta: Tensor) -> Tensor:
    centre = reference[..., :2] + delta[..., :2] * reference[..., 2:]
    return torch.cat([centre, reference[..., 2:] * delta[..., 2:].exp()], dim=-1)


def _logit(reference: Tensor) -> Tensor:
    return torch.log(reference) - torch.log(1 - reference)


refine = Exercise(
    my_refine,
    _references_and_deltas,
    {
        "the delta was added to the reference itself; add it to its logit, then take the sigmoid": (
            refined_by(lambda reference, delta: reference + delta)
        ),
        "the delta was added in [0, 1] and the sum clamped; add it to the logit instead": (
            refined_by(lambda reference, delta: (reference + delta).clamp(0, 1))
        ),
        "a box is the sigmoid of reference + delta; the reference needs its logit first": (
            refined_by(lambda reference, delta: (reference + delta).sigmoid())
        ),
        "a box is the sigmoid of reference + delta; take logits first, with zeros for a point": (
            lambda reference, delta: (reference + delta).sigmoid()
        ),
        "the two logits of a point were added to four numbers; put two zeros behind them": (
            lambda reference, delta: (inverse_sigmoid(reference) + delta).sigmoid()
        ),
        "the sigmoid was taken of the delta alone, then the reference added": (
            refined_by(lambda reference, delta: reference + delta.sigmoid())
        ),
        "these are logits; the sigmoid at the end is missing": (
            refined_by(lambda reference, delta: inverse_sigmoid(reference) + delta)
        ),
        "the reference was forgotten: the sigmoid of the delta alone": (
            refined_by(lambda reference, delta: delta.sigmoid())
        ),
        "the delta was subtracted": refined_by(
            lambda reference, delta: my_refine(reference, -delta)
        ),
        "a point got the size 0, whose logit is very small; its size has the logit 0": (
            lambda reference, delta: my_refine(_with_size(reference, 0.0), delta)
        ),
        "the size of a point was left as the delta; it needs the sigmoid": (
            lambda reference, delta: (
                _sizes_from(lambda r, d: d)(reference, delta)
                if reference.shape[-1] == 2
                else my_refine(reference, delta)
            )
        ),
        "width and height of a box were replaced, not refined: the sigmoid of their delta alone": (
            _of_boxes(_sizes_from(lambda reference, delta: delta.sigmoid()))
        ),
        "only the centre of a box was refined; width and height have deltas, too": (
            _of_boxes(_sizes_from(lambda reference, delta: reference))
        ),
        "the clamp is missing: the logit of 0 or 1 is infinite, and no delta leads back": (
            refined_by(lambda reference, delta: (_logit(reference) + delta).sigmoid())
        ),
        "the clamp is at another number than 1e-5": refined_by(
            lambda reference, delta: (inverse_sigmoid(reference, 1e-6) + delta).sigmoid()
        ),
        "these are Faster R-CNN's deltas: steps in box widths, and exp for the size": _of_boxes(
            _as_faster_rcnn
        ),
    },
    library=(refine_boxes, inverse_sigmoid),
)
