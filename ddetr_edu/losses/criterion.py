"""The set-prediction losses: focal loss on classes, L1 and GIoU on matched boxes.

Lesson 09 is about this module and the matching that comes before it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from ddetr_edu.losses.matcher import DETR_WEIGHTS, FOCAL_ALPHA, FOCAL_GAMMA, LossWeights, match
from ddetr_edu.losses.varifocal import paired_iou, varifocal_loss
from ddetr_edu.models.deformable_detr import Predictions


def softmax_loss(logits: Tensor, target_classes: Tensor, no_object_weight: float) -> Tensor:
    """DETR's class loss, not yet normalised: the cross entropy, summed over all queries.

    Unmatched queries are down-weighted, because most queries are unmatched.

    Source: SetCriterion.loss_labels in models/detr.py of facebookresearch/detr.

    Args:
        logits: (N, Lq, K+1).
        target_classes: (N, Lq) class indices, K for "no object".
        no_object_weight: The weight of the class "no object", and so of unmatched queries.

    Returns:
        A 0-d tensor.
    """
    class_weights = torch.ones_like(logits[0, 0])  # (K+1,)
    class_weights[-1] = no_object_weight
    return F.cross_entropy(logits.transpose(1, 2), target_classes, class_weights, reduction="sum")


def layer_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: list[dict[str, Tensor]],
    indices: list[tuple[Tensor, Tensor]],
    weights: LossWeights,
    num_boxes: float,
    num_images: float,
) -> dict[str, Tensor]:
    """The three weighted losses of one decoder layer.

    Each is a sum over the batch, divided by num_boxes (by 1 if it is 0). The class loss runs over
    *all* queries and classes: unmatched queries learn to predict background. With
    weights.class_loss="varifocal" matched queries learn to predict how well their boxes fit, as
    `varifocal_loss` says. With weights.no_object it is DETR's `softmax_loss` instead, divided by
    the sum of the queries' weights, in which every object counts as matched.

    Source: SetCriterion of the official deformable_detr.py.

    Args:
        logits: (N, Lq, K), or (N, Lq, K+1) with weights.no_object.
        boxes: (N, Lq, 4) (cx, cy, w, h) in [0, 1].
        targets: For each image "labels" (T,) class indices and "boxes" (T, 4) like boxes.
        indices: For each image (queries, objects), from `match`.
        weights: How much each loss counts.
        num_boxes: The number of objects that the sums are divided by; see `detection_losses`.
        num_images: The number of images among which those objects are.

    Returns:
        0-d tensors "label", "l1" and "giou", already multiplied by their weights, so that their
        plain sum is the loss.
    """
    image = torch.cat([torch.full_like(q, n) for n, (q, _) in enumerate(indices)])
    query = torch.cat([q for q, _ in indices])
    labels = torch.cat([t["labels"][o] for t, (_, o) in zip(targets, indices, strict=True)])
    target = torch.cat([t["boxes"][o] for t, (_, o) in zip(targets, indices, strict=True)])
    pred = boxes[image, query]  # (objects, 4)
    divisor = num_boxes or 1

    if weights.no_object is None:
        one_hot = torch.zeros_like(logits)
        one_hot[image, query, labels] = 1
        if weights.class_loss == "focal":
            label = sigmoid_focal_loss(logits, one_hot, FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum")
        else:
            overlaps = torch.zeros_like(logits)
            overlaps[image, query, labels] = paired_iou(pred.detach(), target)
            label = varifocal_loss(logits, overlaps, one_hot.bool())
        label = label / divisor
    else:
        n_queries, no_object_index = logits.shape[1], logits.shape[2] - 1
        target_classes = torch.full(
            logits.shape[:2], no_object_index, device=logits.device
        )  # (N, Lq)
        target_classes[image, query] = labels
        label = softmax_loss(logits, target_classes, weights.no_object)
        label = label / (num_boxes + weights.no_object * (num_images * n_queries - num_boxes))

    l1 = F.l1_loss(pred, target, reduction="sum")
    giou = generalized_box_iou_loss(
        box_convert(pred, "cxcywh", "xyxy"), box_convert(target, "cxcywh", "xyxy"), reduction="sum"
    )
    return {
        "label": weights.label * label,
        "l1": weights.l1 * l1 / divisor,
        "giou": weights.giou * giou / divisor,
    }


def detection_losses(
    predictions: Predictions,
    targets: list[dict[str, Tensor]],
    weights: LossWeights | None = None,
    num_boxes: float | None = None,
    num_images: float | None = None,
) -> dict[str, Tensor]:
    """All losses of a forward pass: those of the last layer and, auxiliary, of each earlier one.

    Every layer is matched anew and trained as if it were the last. So is the encoder of a two-stage
    model, which in the official code is class-agnostic: there every object has class 0.

    Args:
        predictions: What the model predicted.
        targets: For each image "labels" (T,) class indices and "boxes" (T, 4) (cx, cy, w, h) in
            [0, 1].
        weights: The official ones of Deformable DETR, or of DETR, if None.
        num_boxes: The number of objects that the losses are divided by. If None, those of these
            targets. Where a step consists of several batches or processes it is the number of
            objects in all its batches, averaged over the processes: then the gradient does not
            depend on how the images are distributed.
        num_images: The number of images, counted like num_boxes.

    Returns:
        "loss_label", "loss_l1", "loss_giou", and the same with "_layer0", "_layer1", ... for the
        earlier layers and "_encoder" for two stages. Their plain sum is what training minimises.

    Raises:
        ValueError: If the weights are for the other kind of model.
    """
    weights = weights or (DETR_WEIGHTS if predictions.no_object else LossWeights())
    if predictions.no_object != (weights.no_object is not None):
        raise ValueError(
            "LossWeights.no_object must be set for a DETR, whose classes share a softmax with "
            f'"no object", and only for a DETR; it is {weights.no_object}'
        )
    if num_boxes is None:
        num_boxes = sum(len(target["labels"]) for target in targets)
    num_images = len(targets) if num_images is None else num_images
    layers = [("", predictions, targets)]
    layers += [(f"_layer{index}", layer, targets) for index, layer in enumerate(predictions.aux)]
    if predictions.encoder is not None:
        encoder_targets = targets
        if predictions.encoder.class_agnostic:
            encoder_targets = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets]
        layers.append(("_encoder", predictions.encoder, encoder_targets))
    losses: dict[str, Tensor] = {}
    for suffix, layer, layer_targets in layers:
        logits, boxes = layer.logits.float(), layer.boxes.float()
        indices = match(logits, boxes, layer_targets, weights)
        of_layer = layer_losses(
            logits, boxes, layer_targets, indices, weights, num_boxes, num_images
        )
        losses |= {f"loss_{name}{suffix}": loss for name, loss in of_layer.items()}
    return losses
