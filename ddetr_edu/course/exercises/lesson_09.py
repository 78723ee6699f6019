"""The exercises of lesson 09 about losses: GIoU and the focal loss.

Those about the matching are in `lesson_09_matching` and `lesson_09_trap`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.losses.criterion import layer_losses


def my_giou(one, other):
    """(one (n, 4), other (n, 4)), both (x1, y1, x2, y2) -> GIoU of each pair (n,)"""
    x1, y1, x2, y2 = one.unbind(dim=1)
    u1, v1, u2, v2 = other.unbind(dim=1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection
    width = torch.maximum(x2, u2) - torch.minimum(x1, u1)
    height = torch.maximum(y2, v2) - torch.minimum(y1, v1)
    enclosing = width * height
    return intersection / union - (enclosing - union) / enclosing


def my_focal_loss(logits, is_object, num_boxes):
    """(logits, is_object, num_boxes) -> a number"""
    prob = logits.sigmoid()
    pos_loss = -0.25 * (1 - prob) ** 2 * torch.log(prob)
    neg_loss = -0.75 * prob**2 * torch.log(1 - prob)
    return torch.where(is_object, pos_loss, neg_loss).sum() / num_boxes


def giou_with(
    empty: Callable | None = None, clamp: bool = True, span: Callable | None = None
) -> Callable:
    """A GIoU with rules of one's own.

    Args:
        empty: A function (intersection, union, enclosing area) -> what is subtracted from the IoU.
        clamp: Count an overlap below zero as zero.
        span: A function (low, high, low of the other, high of the other) -> one side of the
            enclosing box.

    Returns:
        A function (one, other) -> (n,).
    """
    empty = empty or (lambda intersection, union, enclosing: (enclosing - union) / enclosing)
    span = span or (lambda a, b, c, d: torch.maximum(b, d) - torch.minimum(a, c))

    def giou(one, other):
        overlap = torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])
        intersection = (overlap.clamp(min=0) if clamp else overlap).prod(1)
        areas = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1)
        union = areas - intersection
        enclosing = span(one[:, :2], one[:, 2:], other[:, :2], other[:, 2:]).prod(1)
        return intersection / union - empty(intersection, union, enclosing)

    return giou


def giou_of_centres(one: Tensor, other: Tensor) -> Tensor:
    """The GIoU of boxes that are taken for (cx, cy, w, h).

    Args:
        one: (n, 4).
        other: (n, 4).

    Returns:
        (n,)
    """
    return my_giou(box_convert(one, "cxcywh", "xyxy"), box_convert(other, "cxcywh", "xyxy"))


def _overlap_areas_enclosing(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sides of the overlap (n, 2), negative in a gap; the sum of both areas; the enclosing area."""
    overlap = torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])
    areas = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1)
    sides = torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])
    return overlap, areas, sides.prod(1)


def giou_of_summed_areas(one: Tensor, other: Tensor) -> Tensor:
    """A GIoU whose union is the sum of both areas.

    Args:
        one: (n, 4).
        other: (n, 4).

    Returns:
        (n,)
    """
    overlap, union, enclosing = _overlap_areas_enclosing(one, other)
    return overlap.clamp(min=0).prod(1) / union - (enclosing - union) / enclosing


def giou_of_clamped_product(one: Tensor, other: Tensor) -> Tensor:
    """A GIoU that clamps the area of the overlap, where it should clamp each of its sides.

    Args:
        one: (n, 4).
        other: (n, 4).

    Returns:
        (n,)
    """
    overlap, areas, enclosing = _overlap_areas_enclosing(one, other)
    intersection = overlap.prod(1).clamp(min=0)
    union = areas - intersection
    return intersection / union - (enclosing - union) / enclosing


def _pairs_of_boxes() -> Cases:
    # Whole numbers, which 16 bits can hold.
    pairs = {
        "side by side, overlapping by half": [((0, 0, 2, 2), (1, 0, 3, 2))],
        "apart; then touching at an edge": [
            ((0, 0, 1, 1), (2, 0, 3, 1)),
            ((1, 3, 4, 5), (4, 3, 6, 5)),
        ],
        "apart in x and in y": [
            ((0, 0, 3, 1), (5, 4, 6, 7)),
            ((9, 8, 12, 15), (2, 1, 5, 3)),
            ((0, 6, 2, 9), (7, 1, 12, 3)),
        ],
        "the same box twice": [((x, 1, x + 3, 7),) * 2 for x in (0, 2, 5, 9, 11)],
        "one box inside the other, and the other way round": [
            ((0, 0, 9, 6), (2, 1, 5, 4)),
            ((3, 2, 5, 4), (1, 1, 12, 5)),
            ((0, 0, 16, 2), (0, 0, 1, 2)),
            ((4, 4, 5, 5), (0, 0, 16, 16)),
        ],
        "no pairs": [],
    }
    cases: Cases = {}
    for name, rows in pairs.items():
        boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2, 4)
        cases[name] = boxes[:, 0], boxes[:, 1]
    generator = torch.Generator().manual_seed(0)
    for n in (11, 40):
        corners = torch.randint(0, 9, (n, 2, 2), generator=generator)
        sizes = torch.randint(1, 8, (n, 2, 2), generator=generator)
        boxes = torch.cat([corners, corners + sizes], dim=2).double()
        cases[f"{n} pairs at random"] = boxes[:, 0], boxes[:, 1]
    return cases


giou = Exercise(
    my_giou,
    _pairs_of_boxes,
    {
        "this is the IoU; the empty part of the enclosing box was not subtracted": giou_with(
            lambda intersection, union, enclosing: 0
        ),
        "the overlap is negative where boxes are apart; clamp width and height at zero": giou_with(
            clamp=False
        ),
        "clamping came after multiplying; two negative sides have a positive product": (
            giou_of_clamped_product
        ),
        "the empty part was divided by the union; divide it by the enclosing box": giou_with(
            lambda intersection, union, enclosing: (enclosing - union) / union
        ),
        "the empty part was added; subtract it": giou_with(
            lambda intersection, union, enclosing: (union - enclosing) / enclosing
        ),
        "an area was subtracted as it is; it must be a fraction of the enclosing box": giou_with(
            lambda intersection, union, enclosing: enclosing - union
        ),
        "the intersection counts as empty; what neither box covers is enclosing box minus union": (
            giou_with(
                lambda intersection, union, enclosing: (
                    (enclosing - union + intersection) / enclosing
                )
            )
        ),
        "the union is the sum of both areas; the intersection was counted twice": (
            giou_of_summed_areas
        ),
        "the enclosing box has the larger width and the larger height, wherever the boxes are": (
            giou_with(span=lambda a, b, c, d: torch.maximum(b - a, d - c))
        ),
        "the boxes were taken for (cx, cy, w, h); these are corners": giou_of_centres,
        "this is the loss, 1 - GIoU": lambda one, other: 1 - my_giou(one, other),
    },
)


def focal_loss_with(
    alpha: float = 0.25, gamma: float = 2, divide: bool = True, mirrored: bool = False
) -> Callable:
    """A focal loss with its own constants.

    Args:
        alpha: The weight of positives; negatives get 1 - alpha.
        gamma: The exponent that makes easy predictions count less.
        divide: Divide the sum by the number of boxes.
        mirrored: Swap p and 1 - p in the factors.

    Returns:
        A function (logits, is_object, num_boxes) -> number.
    """

    def loss(logits, is_object, num_boxes):
        prob = logits.sigmoid()
        pos_factor, neg_factor = (prob, 1 - prob) if mirrored else (1 - prob, prob)
        pos_loss = -alpha * pos_factor**gamma * prob.log()
        neg_loss = -(1 - alpha) * neg_factor**gamma * (1 - prob).log()
        total = torch.where(is_object, pos_loss, neg_loss).sum()
        return total / num_boxes if divide else total

    return loss


def _logits() -> Cases:
    sizes: dict[str, tuple] = {  # shape, share of objects, num_boxes
        "a single logit": ((1, 1), 1.0, 1),
        "two images of one query and two classes": ((2, 1, 2), 0.5, 3),
        "images, queries and classes": ((3, 11, 5), 0.1, 23),
        "one axis": ((7,), 0.5, 4),
        "two axes": ((13, 2), 0.3, 3),
        "four axes": ((2, 3, 5, 7), 0.2, 50),
        "no objects": ((2, 9, 4), 0.0, 1),
        "objects only": ((5, 3), 1.0, 15),
        "num_boxes is not whole, as a mean over processes": ((4, 6, 3), 0.2, 2.5),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, share, num_boxes) in sizes.items():
        logits = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
        is_object = torch.rand(*shape, generator=generator) < share
        # Moderate ones: 1 - prob of a large logit has few digits left in fp32.
        cases[name] = logits.clamp(-5, 5), is_object, num_boxes
    return cases


focal_loss = Exercise(
    my_focal_loss,
    _logits,
    {
        "alpha is on the wrong side: 0.25 belongs to the objects": focal_loss_with(alpha=0.75),
        "gamma is missing: easy predictions must count less": focal_loss_with(gamma=0),
        "gamma is 1; it should be 2": focal_loss_with(gamma=1),
        "alpha is missing: 0.25 for objects, 0.75 for the rest": lambda logits, o, n: (
            2 * focal_loss_with(alpha=0.5)(logits, o, n)
        ),
        "negatives, too, were multiplied by 0.25; their weight is 1 - 0.25": (
            lambda logits, o, n: (
                focal_loss_with()(logits, o, n) - 2 / 3 * focal_loss_with()(logits[~o], o[~o], n)
            )
        ),
        "negatives have no weight; it is 1 - 0.25": lambda logits, o, n: (
            focal_loss_with()(logits, o, n) + focal_loss_with()(logits[~o], o[~o], n) / 3
        ),
        "the minus sign is missing": lambda logits, o, n: -focal_loss_with()(logits, o, n),
        "prob and 1 - prob are swapped in the factors: a confident prediction must count less": (
            focal_loss_with(mirrored=True)
        ),
        "alpha and gamma are both missing: this is plain cross entropy": lambda logits, o, n: (
            2 * focal_loss_with(alpha=0.5, gamma=0)(logits, o, n)
        ),
        "the sum was divided by the number of positives; divide by num_boxes": (
            lambda logits, o, n: focal_loss_with()(logits, o, int(o.sum()))
        ),
        "the mean over all entries was taken; divide the sum by num_boxes": (
            lambda logits, o, n: focal_loss_with(divide=False)(logits, o, n) / logits.numel()
        ),
        "a mean over all entries was divided by num_boxes; divide the sum": (
            lambda logits, o, n: focal_loss_with()(logits, o, n) / logits.numel()
        ),
        "the sum was not divided by num_boxes": focal_loss_with(divide=False),
        "only the objects were counted; the rest must learn to predict background": (
            lambda logits, o, n: focal_loss_with()(
                torch.where(o, logits, -math.inf).clamp(min=-1e4), o, n
            )
        ),
    },
    library=(layer_losses,),
)
