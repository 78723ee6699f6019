"""Bipartite matching: which query is assigned to which object, one to one, at the lowest cost.

Lesson 09 is about this module and the losses that follow it.
"""

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from ddetr_edu.models.config import ClassLoss

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
MAX_PAIRS = 2**18  # of queries and objects whose costs `match` computes in one call for many images


@dataclass(frozen=True)
class LossWeights:
    """How much class, box distance and overlap count, in the matching cost as in the loss.

    Raises:
        ValueError: For a class loss that is not known, or that a DETR cannot have.
    """

    label: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    no_object: float | None = None  # of DETR's "no object" class; None: one sigmoid for each class
    class_loss: ClassLoss = "focal"  # varifocal: matched queries learn to predict their overlap

    def __post_init__(self):
        if self.class_loss not in get_args(ClassLoss):
            raise ValueError(
                f'class_loss "{self.class_loss}" is not known; choose one of '
                f"{', '.join(get_args(ClassLoss))}"
            )
        if self.class_loss != "focal" and self.no_object is not None:
            raise ValueError(
                f'class_loss "{self.class_loss}" needs a sigmoid for each class, and the classes '
                "of a DETR share a softmax; leave out no_object or class_loss"
            )


DETR_WEIGHTS = LossWeights(label=1.0, no_object=0.1)


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """The classification cost of assigning each query to each object, from the focal loss.

    The focal loss of the class as a positive minus that as a negative: below zero where the query
    already predicts the class. Written with logsigmoid, so extreme logits stay finite.

    Source: HungarianMatcher of the official matcher.py.

    Args:
        logits: (Q, K).
        labels: (T,) class indices of the objects.

    Returns:
        (Q, T)
    """
    prob = logits.sigmoid()
    pos_cost = -FOCAL_ALPHA * (1 - prob) ** FOCAL_GAMMA * F.logsigmoid(logits)
    neg_cost = -(1 - FOCAL_ALPHA) * prob**FOCAL_GAMMA * F.logsigmoid(-logits)
    return (pos_cost - neg_cost)[:, labels]


def softmax_class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """The classification cost of DETR, whose classes share a softmax: minus the probability.

    Source: HungarianMatcher in models/matcher.py of facebookresearch/detr.

    Args:
        logits: (Q, K+1), the last one for "no object".
        labels: (T,) class indices of the objects.

    Returns:
        (Q, T)
    """
    return -logits.softmax(-1)[:, labels]


def matching_cost(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, weights: LossWeights
) -> Tensor:
    """The cost of every pair of a query and an object of one image.

    Args:
        logits: (Q, K), or (Q, K+1) with weights.no_object.
        boxes: (Q, 4) (cx, cy, w, h), normalised to the image.
        labels: (T,) class indices.
        target_boxes: (T, 4), like boxes.
        weights: How much each of the three terms counts.

    Returns:
        (Q, T)
    """
    l1 = torch.cdist(boxes, target_boxes, p=1)
    giou = generalized_box_iou(
        box_convert(boxes, "cxcywh", "xyxy"), box_convert(target_boxes, "cxcywh", "xyxy")
    )
    classification = class_cost if weights.no_object is None else softmax_class_cost
    cost = weights.label * classification(logits, labels)
    return cost + weights.l1 * l1 - weights.giou * giou


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]], weights: LossWeights
) -> list[tuple[Tensor, Tensor]]:
    """The one-to-one assignment of queries to objects with the lowest total cost.

    Source: paper, section 3 (Hungarian matching, as in DETR); scipy.optimize solves it.

    Args:
        logits: (N, Lq, K).
        boxes: (N, Lq, 4) (cx, cy, w, h) in [0, 1].
        targets: For each image "labels" (T,) class indices and "boxes" (T, 4) like boxes.
        weights: How much each term of the cost counts.

    Returns:
        For each image two index tensors of equal length, (queries, objects). With more objects
        than queries, some objects stay unmatched: those whose absence makes the total lowest.

    Raises:
        ValueError: For targets that do not fit the predictions; see `check_targets`.
    """
    from scipy.optimize import linear_sum_assignment  # takes a second; inference needs none of it

    n_images, n_queries, n_classes = logits.shape
    check_targets(targets, n_images, n_classes - (weights.no_object is not None), logits.device)
    counts = [len(target["labels"]) for target in targets]
    # A call for one image is too small for a device, but a call for many also computes the pairs of
    # one image's queries with another's objects, which no one needs. So several images share a call
    # only as long as all these pairs are few.
    group_size = max(1, MAX_PAIRS // max(1, n_queries * sum(counts)))
    indices = []
    for first in range(0, n_images, group_size):
        group = slice(first, first + group_size)
        costs = matching_cost(
            logits[group].flatten(0, 1).float(),
            boxes[group].flatten(0, 1).float(),
            torch.cat([target["labels"] for target in targets[group]]),
            torch.cat([target["boxes"] for target in targets[group]]),
            weights,
        )  # (n * Lq, objects), for the n images of the group
        # A diverged model gives NaN; scipy would refuse it before the loss can report it.
        costs = costs.nan_to_num_(nan=1e6, posinf=1e6, neginf=-1e6).cpu()
        per_image = costs.unflatten(0, (-1, n_queries)).split(counts[group], -1)
        for n, image_costs in enumerate(per_image):
            queries, objects = linear_sum_assignment(image_costs[n].numpy())  # of (Lq, T)
            indices.append(
                (
                    torch.as_tensor(queries, device=logits.device),
                    torch.as_tensor(objects, device=logits.device),
                )
            )
    return indices


def check_targets(
    targets: list[dict[str, Tensor]], n_images: int, n_classes: int, device: torch.device
) -> None:
    """Check that targets fit the predictions that they are to be matched with.

    Whether the class indices exist is checked on a CPU only: a GPU would have to be waited for, and
    reports such an index itself.

    Args:
        targets: For each image what should be "labels" (T,) class indices and "boxes" (T, 4).
        n_images: N.
        n_classes: K, without "no object".
        device: Of the predictions.

    Raises:
        ValueError: Naming the target that does not fit.
    """
    if len(targets) != n_images:
        raise ValueError(
            f"there are predictions for {n_images} images, but {len(targets)} targets; each image "
            "needs one, and one without objects has empty tensors"
        )
    for n, target in enumerate(targets):
        labels, boxes = target["labels"], target["boxes"]
        if labels.dim() != 1 or boxes.shape != (len(labels), 4):
            raise ValueError(
                f"target {n} has labels of shape {tuple(labels.shape)} and boxes of shape "
                f"{tuple(boxes.shape)}; they must be (T,) and (T, 4)"
            )
        if labels.dtype != torch.int64 or not boxes.is_floating_point():
            raise ValueError(
                f"target {n} has labels of {labels.dtype} and boxes of {boxes.dtype}; labels are "
                "class indices of torch.int64, and boxes floats"
            )
        if labels.device != device or boxes.device != device:
            raise ValueError(
                f"target {n} has labels on {labels.device} and boxes on {boxes.device}, but the "
                f"predictions are on {device}; move them there"
            )
        if labels.device.type == "cpu" and ((labels < 0) | (labels >= n_classes)).any():
            wrong = labels[(labels < 0) | (labels >= n_classes)][0]
            raise ValueError(
                f"target {n} has the class index {wrong}, but the model has {n_classes} class "
                f"outputs, so that indices run from 0 to {n_classes - 1}"
            )
