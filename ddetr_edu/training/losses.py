"""How wrong the predictions are: focal loss on classes, L1 and GIoU on matched boxes.

Lesson 09 is about this module and the matching that comes before it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from ddetr_edu.detector import Predictions
from ddetr_edu.training.matching import (
    DETR_WEIGHTS,
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    LossWeights,
    match,
)


def softmax_loss(
    logits: Tensor, matched: tuple[Tensor, Tensor], labels: Tensor, no_object: float
) -> Tensor:
    """DETR's class loss: the cross entropy of a softmax in which "no object" is one more class.

    A mean over all queries, in which one without an object weighs only `no_object`: most of them
    have none, and would drown the others.

    logits (N, Lq, K+1); matched: (picture, query) of each object; labels: its class index
    Source: SetCriterion.loss_labels in models/detr.py of facebookresearch/detr.
    """
    nothing = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], nothing, device=logits.device)  # (N, Lq)
    wanted[matched] = labels
    importance = torch.ones_like(logits[0, 0])  # (K+1,)
    importance[nothing] = no_object
    return F.cross_entropy(logits.transpose(1, 2), wanted, importance)


def layer_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: list[dict[str, Tensor]],
    pairs: list[tuple[Tensor, Tensor]],
    weights: LossWeights,
) -> dict[str, Tensor]:
    """The three weighted losses of one decoder layer.

    Each is a sum over the batch divided by its number of objects (at least 1). The class loss
    runs over *all* queries and classes: unmatched queries learn to say no. With weights.no_object
    it is DETR's instead, `softmax_loss`.

    logits (N, Lq, K); boxes (N, Lq, 4) (cx, cy, w, h) in [0, 1]
    targets: per picture "labels" (T,) class indices and "boxes" (T, 4) like boxes
    pairs:   per picture (queries, objects), from `match`
    Returns: 0-d tensors "label", "l1" and "giou", already multiplied by their weights, so that
        their plain sum is the loss.
    Source: SetCriterion of the official deformable_detr.py.
    """
    n_objects = max(sum(len(target["labels"]) for target in targets), 1)
    picture = torch.cat([torch.full_like(q, n) for n, (q, _) in enumerate(pairs)])
    query = torch.cat([q for q, _ in pairs])
    labels = torch.cat([t["labels"][o] for t, (_, o) in zip(targets, pairs, strict=True)])
    wanted = torch.cat([t["boxes"][o] for t, (_, o) in zip(targets, pairs, strict=True)])

    if weights.no_object is None:
        one_hot = torch.zeros_like(logits)
        one_hot[picture, query, labels] = 1
        label = sigmoid_focal_loss(logits, one_hot, FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum")
        label = label / n_objects
    else:
        label = softmax_loss(logits, (picture, query), labels, weights.no_object)

    found = boxes[picture, query]  # (objects, 4)
    l1 = F.l1_loss(found, wanted, reduction="sum")
    giou = generalized_box_iou_loss(
        box_convert(found, "cxcywh", "xyxy"),
        box_convert(wanted, "cxcywh", "xyxy"),
        reduction="sum",
    )
    return {
        "label": weights.label * label,
        "l1": weights.l1 * l1 / n_objects,
        "giou": weights.giou * giou / n_objects,
    }


def detection_losses(
    predictions: Predictions, targets: list[dict[str, Tensor]], weights: LossWeights | None = None
) -> dict[str, Tensor]:
    """All losses of a forward pass: those of the last layer and, auxiliary, of each earlier one.

    Every layer is matched anew and trained as if it were the last. So is the encoder of a model
    of two stages, except that the official one only says "object": there every object has class 0.

    weights: the official ones of Deformable DETR, or of DETR, when not given
    targets: per picture "labels" (T,) class indices and "boxes" (T, 4) (cx, cy, w, h) in [0, 1]
    Returns: "loss_label", "loss_l1", "loss_giou", and the same with "_layer0", "_layer1", ... for
        the earlier layers and "_encoder" for two stages. Their plain sum is what training
        minimises.
    Raises: ValueError for weights of the wrong kind of model.
    """
    weights = weights or (DETR_WEIGHTS if predictions.no_object else LossWeights())
    if predictions.no_object != (weights.no_object is not None):
        raise ValueError(
            "LossWeights.no_object must be set for a DETR, whose classes share a softmax with "
            f'"no object", and only for a DETR; it is {weights.no_object}'
        )
    named = [("", predictions, targets)]
    named += [(f"_layer{index}", layer, targets) for index, layer in enumerate(predictions.aux)]
    if predictions.encoder is not None:
        objects = targets
        if predictions.encoder.only_objects:
            objects = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets]
        named.append(("_encoder", predictions.encoder, objects))
    losses = {}
    for suffix, layer, wanted in named:
        logits, boxes = layer.logits.float(), layer.boxes.float()
        pairs = match(logits, boxes, wanted, weights)
        for name, loss in layer_losses(logits, boxes, wanted, pairs, weights).items():
            losses[f"loss_{name}{suffix}"] = loss
    return losses
