"""Which query answers for which object: the cheapest one-to-one assignment.

Lesson 09 is about this module and the losses that follow it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class LossWeights:
    """How much class, box distance and overlap count, in matching and in the loss alike."""

    label: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    no_object: float | None = None  # of "nothing here" in a softmax; None: a sigmoid for each class


DETR_WEIGHTS = LossWeights(label=1.0, no_object=0.1)


def label_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """What it would cost each query to be given each object's class, as a focal loss would see it.

    The focal loss of answering "yes" minus that of answering "no": negative where the query
    already says yes. Written with logsigmoid, so extreme logits stay finite.

    logits (Q, K); labels (T,) class indices
    Returns: (Q, T)
    Source: HungarianMatcher of the official matcher.py.
    """
    probability = logits.sigmoid()
    yes = -FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * F.logsigmoid(logits)
    no = -(1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * F.logsigmoid(-logits)
    return (yes - no)[:, labels]


def softmax_label_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """The same cost for classes that share a softmax: minus the probability of the class.

    logits (Q, K+1), the last one for "no object"; labels (T,) class indices
    Returns: (Q, T)
    Source: HungarianMatcher in models/matcher.py of facebookresearch/detr.
    """
    return -logits.softmax(-1)[:, labels]


def matching_cost(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, weights: LossWeights
) -> Tensor:
    """The cost of every pairing of a query with an object of one picture.

    logits (Q, K), or (Q, K+1) with weights.no_object; boxes (Q, 4); labels (T,) class indices;
    target_boxes (T, 4). Boxes are (cx, cy, w, h), fractions of the picture.
    Returns: (Q, T)
    """
    l1 = torch.cdist(boxes, target_boxes, p=1)
    overlap = generalized_box_iou(
        box_convert(boxes, "cxcywh", "xyxy"), box_convert(target_boxes, "cxcywh", "xyxy")
    )
    cost = label_cost if weights.no_object is None else softmax_label_cost
    return weights.label * cost(logits, labels) + weights.l1 * l1 - weights.giou * overlap


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]], weights: LossWeights
) -> list[tuple[Tensor, Tensor]]:
    """The assignment of lowest total cost: each object gets one query, no query two objects.

    logits (N, Lq, K); boxes (N, Lq, 4) (cx, cy, w, h) in [0, 1]
    targets: per picture "labels" (T,) class indices and "boxes" (T, 4) like boxes
    Returns: per picture two index tensors of equal length, (queries, objects). With more objects
        than queries, the costliest objects go without.
    Source: paper, section 3 (Hungarian matching, as in DETR); scipy.optimize solves it.
    """
    labels = torch.cat([target["labels"] for target in targets])
    target_boxes = torch.cat([target["boxes"] for target in targets])
    # Of all queries with the objects of all pictures, in one go: a picture alone is too little work
    # for a device, and the pairs across pictures, which nobody looks at, cost next to nothing.
    costs = matching_cost(
        logits.flatten(0, 1).float(), boxes.flatten(0, 1).float(), labels, target_boxes, weights
    )  # (N*Lq, objects)
    # A model that has diverged gives NaN; scipy would refuse it before the loss can report it.
    costs = costs.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu()
    of_pictures = costs.unflatten(0, logits.shape[:2]).split(
        [len(t["labels"]) for t in targets], -1
    )
    pairs = []
    for n, of_objects in enumerate(of_pictures):  # (N, Lq, T) each
        queries, objects = linear_sum_assignment(of_objects[n].numpy())
        pairs.append(tuple(torch.as_tensor(i, device=logits.device) for i in (queries, objects)))
    return pairs
