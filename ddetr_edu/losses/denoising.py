"""Denoising: objects with added noise, as extra queries that are trained to remove the noise.

Early in training, matching keeps assigning different objects to the same query, which slows
learning down most. A denoising query, which starts near an object, needs no matching: its object is
known. The model's own queries must not attend to the denoising ones, or they would read off the
ground truth. None of this is used in inference.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ddetr_edu.losses.criterion import layer_losses
from ddetr_edu.losses.matcher import LossWeights
from ddetr_edu.models.deformable_detr import Predictions
from ddetr_edu.models.position import sine_box_embedding
from ddetr_edu.models.queries import ExtraQueries, Queries


class NoisedObjects(NamedTuple):
    """Denoising queries and the objects they were made from. R of them are valid, not padding."""

    extra: ExtraQueries  # E queries for each image
    valid: Tensor  # (N, E) bool, False = padding
    labels: Tensor  # (R,) class indices without noise, in the order of the valid queries
    boxes: Tensor  # (R, 4) (cx, cy, w, h) without noise
    groups: int  # the number of copies of each object, at most that of the `Denoising`


class Denoising(nn.Module):
    """Makes denoising queries from the objects of a batch; used in training only.

    Each group holds every object of the image once, with noise of its own. Queries attend to their
    own group and to the model's queries, but to no other group.

    Attention among E queries takes E * E weights, so their number is kept near a budget: a batch in
    which an image has many objects gets fewer groups, but at least one. With 5 groups and a budget
    of 200 queries, images of up to 40 objects have all groups, and one of 700 objects has one.

    Source: DN-DETR (arXiv 2203.01305), section 4; the budget: prepare_for_cdn in models/dino of
    IDEA-Research/DINO, whose default is 100 queries with little noise and 100 with much.

    Args:
        num_classes: K.
        d_model: C.
        groups: The largest number of noised copies of each object.
        box_noise: How much a side of a box may change at most, as a fraction of itself; the centre
            moves by up to half of that.
        label_noise: The fraction of the labels that are replaced by random ones.
        max_queries: The budget of queries for each image; only a single group may exceed it.

    Raises:
        ValueError: If there is no group, no query is allowed, or a noise lies outside [0, 1].
    """

    def __init__(
        self,
        num_classes: int,
        d_model: int,
        groups: int = 5,
        box_noise: float = 0.4,
        label_noise: float = 0.2,
        max_queries: int = 200,
    ):
        super().__init__()
        for name, number in (("groups", groups), ("max_queries", max_queries)):
            if number < 1:
                raise ValueError(f"{name} is {number}; denoising needs at least 1")
        for name, noise in (("box_noise", box_noise), ("label_noise", label_noise)):
            if not 0 <= noise <= 1:
                raise ValueError(f"{name} is {noise}; it must lie in 0 to 1")
        self.groups, self.max_queries = groups, max_queries
        self.box_noise, self.label_noise = box_noise, label_noise
        self.label_embedding = nn.Embedding(num_classes, d_model)
        self.box_to_position = nn.Linear(2 * d_model, d_model)

    def forward(
        self, targets: list[dict[str, Tensor]], generator: torch.Generator | None = None
    ) -> NoisedObjects:
        """Make denoising queries from the objects of a batch.

        Images with fewer objects than others are padded with queries to which no other attends,
        and which have no loss.

        Args:
            targets: For each image "labels" (T,) class indices and "boxes" (T, 4) (cx, cy, w, h) in
                [0, 1].
            generator: Of the noise, on the targets' device; torch's global one if None.

        Returns:
            E queries for each image: the number of groups times the largest number of objects.
        """
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)  # (N, T)
        boxes = pad_sequence([target["boxes"] for target in targets], batch_first=True)  # (N, T, 4)
        max_count = labels.shape[1]
        groups = min(self.groups, max(1, self.max_queries // max(1, max_count)))
        counts = torch.tensor([len(target["labels"]) for target in targets], device=labels.device)
        valid = torch.arange(max_count, device=labels.device) < counts[:, None]  # (N, T)
        group = torch.arange(groups, device=labels.device).repeat_interleave(max_count)  # (E,)
        labels, valid = labels.repeat(1, groups), valid.repeat(1, groups)  # (N, E)
        boxes = boxes.repeat(1, groups, 1)  # (N, E, 4)

        noised = noised_boxes(boxes, self.box_noise, generator)
        num_classes = self.label_embedding.num_embeddings
        labels_in = noised_labels(labels, self.label_noise, num_classes, generator)
        content = self.label_embedding(labels_in)  # (N, E, C)
        position = self.box_to_position(sine_box_embedding(noised, content.shape[-1]))  # (N, E, C)
        attn_mask = (group[:, None] != group) | ~valid[:, None, :]  # (N, E, E)
        extra = ExtraQueries(Queries(content, position, noised), attn_mask)
        return NoisedObjects(extra, valid, labels[valid], boxes[valid], groups)


def noised_boxes(boxes: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    """Move and resize boxes at random.

    A centre moves by up to noise/2 of the side, so it stays inside the box; a side grows or
    shrinks by up to noise of itself.

    Args:
        boxes: (..., 4) (cx, cy, w, h) in [0, 1].
        noise: In [0, 1].
        generator: On the boxes' device; torch's global one if None.

    Returns:
        (..., 4), clamped to [0, 1].
    """
    shift = torch.rand(boxes.shape, generator=generator, dtype=boxes.dtype, device=boxes.device)
    reach = torch.cat([boxes[..., 2:] / 2, boxes[..., 2:]], dim=-1) * noise
    return (boxes + (2 * shift - 1) * reach).clamp(0, 1)


def noised_labels(
    labels: Tensor, noise: float, num_classes: int, generator: torch.Generator | None
) -> Tensor:
    """Replace a fraction of the labels by random ones.

    Args:
        labels: (...) class indices.
        noise: The fraction, in [0, 1].
        num_classes: K; the random ones are drawn from all classes, the right one included.
        generator: On the labels' device; torch's global one if None.

    Returns:
        (...) class indices.
    """
    chance = torch.rand(labels.shape, generator=generator, device=labels.device)
    drawn = torch.randint(num_classes, labels.shape, generator=generator, device=labels.device)
    return torch.where(chance < noise, drawn, labels)


def denoising_losses(
    predictions: Predictions,
    noised: NoisedObjects,
    weights: LossWeights | None = None,
    num_boxes: float | None = None,
) -> dict[str, Tensor]:
    """The losses of the denoising queries, each of which is assigned to its own object.

    Args:
        predictions: What the model predicted for the denoising queries.
        noised: What those queries were made from.
        weights: How much each loss counts.
        num_boxes: The number of objects, without their copies, that the losses are divided by, as
            in `detection_losses`; if None, those that `noised` was made from.

    Returns:
        "loss_label_denoising", "loss_l1_denoising", "loss_giou_denoising", and the same with
        "_layer0", "_layer1", ... for the earlier layers: sums over the R queries, divided by
        num_boxes times the number of groups (by 1 if it is 0), already weighted.
    """
    weights = weights or LossWeights()
    num_queries = len(noised.labels) if num_boxes is None else num_boxes * noised.groups
    # One long row of queries, in which query i is assigned to object i.
    targets = [{"labels": noised.labels, "boxes": noised.boxes}]
    identity = torch.arange(len(noised.labels), device=noised.labels.device)
    layers = [("", predictions)]
    layers += [(f"_layer{index}", layer) for index, layer in enumerate(predictions.aux)]
    losses: dict[str, Tensor] = {}
    for suffix, layer in layers:
        logits = layer.logits[noised.valid].float()[None]  # (1, R, K)
        boxes = layer.boxes[noised.valid].float()[None]  # (1, R, 4)
        of_layer = layer_losses(
            logits, boxes, targets, [(identity, identity)], weights, num_queries, num_images=1
        )
        losses |= {f"loss_{name}_denoising{suffix}": loss for name, loss in of_layer.items()}
    return losses
