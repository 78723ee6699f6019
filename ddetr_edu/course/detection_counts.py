"""How many objects are detected, and how many detections are duplicates of others."""

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import box_iou

MIN_IOU = 0.5  # of a detection and the object that it means


class Counts(NamedTuple):
    """Detections of several images, compared with the ground truth."""

    objects: int
    found: int  # objects with a detection of their class that overlaps them by half or more
    duplicates: int  # further detections of an object that is found


def count_detections(
    detections: list[dict[str, Tensor]], targets: list[dict[str, Tensor]], threshold: float = 0.5
) -> Counts:
    """Count the objects that are found, and the detections that find one again.

    Args:
        detections: "boxes" (k, 4) xyxy in pixels, "labels" (k,) and "scores" (k,) of each image.
        targets: "boxes" (T, 4) xyxy in pixels and "labels" (T,) of each image.
        threshold: Detections with a lower score are left out.

    Returns:
        The counts over all images.
    """
    objects = found = duplicates = 0
    for detected, target in zip(detections, targets, strict=True):
        kept = detected["scores"] >= threshold
        overlap = box_iou(detected["boxes"][kept], target["boxes"])  # (k, T)
        same_label = detected["labels"][kept][:, None] == target["labels"]
        hits = ((overlap >= MIN_IOU) & same_label).sum(dim=0)  # (T,)
        objects += len(hits)
        found += int((hits > 0).sum())
        duplicates += int((hits - 1).clamp(min=0).sum())
    return Counts(objects, found, duplicates)
