"""Whether an image's detections in a batch are those that it has alone."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

MIN_IOU = 0.5  # of two boxes that mean the same object


class Comparison(NamedTuple):
    """Detections of an image alone, compared with those in a batch."""

    known: int  # alone, at or above the threshold
    found_again: int  # of these, in the batch, at or above the threshold
    score_change: float  # the largest of one of them
    box_change: float  # the largest of a side of one of them, in pixels
    scores: list[float]  # in the batch, one for each detection alone


def compare_detections(
    alone: dict[str, Tensor], batched: dict[str, Tensor], threshold: float = 0.5
) -> Comparison:
    """Look for each detection of an image alone among those that it has in a batch.

    Its counterpart is the most similar detection of the same label, among those with an IoU of 0.5
    or more: that of the smallest sum of 1 - IoU and the difference of the scores. So no change is
    overstated.

    Args:
        alone: "boxes" (k, 4) xyxy in pixels, "labels" (k,) and "scores" (k,), as a detector returns
            them.
        batched: Likewise, of the same image in a batch.
        threshold: Detections with a lower score alone are left out, and in the batch are not found
            again.

    Returns:
        The comparison. A detection without a counterpart has the score 0 in the batch.
    """
    kept = alone["scores"] >= threshold
    overlap = box_iou(alone["boxes"][kept], batched["boxes"])  # (k, k')
    same_label = alone["labels"][kept][:, None] == batched["labels"]
    matched = same_label & (overlap >= MIN_IOU)
    difference = (alone["scores"][kept][:, None] - batched["scores"]).abs() + 1 - overlap
    difference, best = difference.where(matched, torch.inf).min(dim=1)
    matched = difference.isfinite()
    scores = batched["scores"][best].where(matched, 0)
    score_change = (scores - alone["scores"][kept]).abs()
    box_change = (batched["boxes"][best] - alone["boxes"][kept]).abs()[matched]
    return Comparison(
        int(kept.sum()),
        int((scores >= threshold).sum()),
        score_change.max().item() if kept.any() else 0.0,
        box_change.max().item() if matched.any() else 0.0,
        scores.tolist(),
    )
