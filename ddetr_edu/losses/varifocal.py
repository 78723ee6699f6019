"""The varifocal loss: a class score that also says how well its box fits."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

ALPHA, GAMMA = 0.75, 2.0


def varifocal_loss(logits: Tensor, overlaps: Tensor, matched: Tensor) -> Tensor:
    """The cross entropy of class scores with overlaps, weighted, summed over all queries.

    The focal loss trains the score of a matched query towards 1, however badly its box fits; here
    it is trained towards the overlap, so that of two boxes the better one gets the higher score.
    Pairs that are not matched are weighted by their own score, as in the focal loss; matched ones
    by their overlap, so that a matched box beside its object teaches nothing about its class. (The
    paper counts such a box as not matched.)

    Source: VarifocalNet (arXiv 2008.13367), equation 2, with the constants of its paper.

    Args:
        logits: (N, Lq, K).
        overlaps: (N, Lq, K) in [0, 1], the targets; 0 where nothing is matched.
        matched: (N, Lq, K) bool, True where a query is matched to an object of that class.

    Returns:
        A 0-d tensor.
    """
    # The weights are no part of what is minimised: without detach a score would lower them.
    weights = torch.where(matched, overlaps, ALPHA * logits.detach().sigmoid() ** GAMMA)
    return F.binary_cross_entropy_with_logits(logits, overlaps, weights, reduction="sum")


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The overlap of each box with the other box in the same row.

    Args:
        boxes: (T, 4) (cx, cy, w, h), with sides of at least 0.
        others: (T, 4), like boxes.

    Returns:
        (T,) intersections over unions, in [0, 1]; 0 where both boxes are empty.
    """
    a, b = box_convert(boxes, "cxcywh", "xyxy"), box_convert(others, "cxcywh", "xyxy")
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])  # (T, 2)
    intersection = sides.clamp(min=0).prod(-1)
    union = boxes[:, 2:].prod(-1) + others[:, 2:].prod(-1) - intersection
    # Rounding may leave the intersection of equal boxes a little above their union.
    return (intersection / union.clamp(min=torch.finfo(union.dtype).tiny)).clamp(max=1)
