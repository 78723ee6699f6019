"""Denoising: objects with errors added, as extra queries that must find the errors.

Matching gives a query now this object, now that one, and early in training that is what costs most
time. An extra query that starts near a known object needs no matching: its object is known. The
model's own queries must not see the extra ones, or they would read the answers there. Detecting
needs none of this.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ddetr_edu.detector import Predictions
from ddetr_edu.detector.position import sine_boxes
from ddetr_edu.detector.queries import ExtraQueries, Queries
from ddetr_edu.training.losses import layer_losses
from ddetr_edu.training.matching import LossWeights


class NoisedObjects(NamedTuple):
    """Extra queries, and the objects they were made from. R of them are real, not filling."""

    extra: ExtraQueries  # E queries for each picture
    real: Tensor  # (N, E) bool
    labels: Tensor  # (R,) class indices without noise, in the order of extra[real]
    boxes: Tensor  # (R, 4) without noise


class Denoising(nn.Module):
    """Makes queries from noised objects. Its weights are needed in training alone.

    Each group holds every object of the picture once, with noise of its own. Queries see their own
    group and the model's queries, no other group.

    groups:      how many noised copies there are of each object
    box_noise:   how far, in parts of its side, a side may change; the centre moves half as far
    label_noise: the part of the labels that are drawn anew
    Raises: ValueError for no group, or noise outside [0, 1].
    Source: DN-DETR (arXiv 2203.01305), section 4.
    """

    def __init__(
        self,
        num_classes: int,
        d_model: int,
        groups: int = 5,
        box_noise: float = 0.4,
        label_noise: float = 0.2,
    ):
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups is {groups}; denoising needs at least 1")
        for name, noise in (("box_noise", box_noise), ("label_noise", label_noise)):
            if not 0 <= noise <= 1:
                raise ValueError(f"{name} is {noise}; it must lie in 0 to 1")
        self.groups, self.box_noise, self.label_noise = groups, box_noise, label_noise
        self.label_embedding = nn.Embedding(num_classes, d_model)
        self.box_to_position = nn.Linear(2 * d_model, d_model)

    def forward(
        self, targets: list[dict[str, Tensor]], generator: torch.Generator | None = None
    ) -> NoisedObjects:
        """Noised copies of the objects of a batch.

        Pictures with fewer objects than others are filled up with queries that nobody sees and
        that have no loss.

        targets: per picture "labels" (T,) class indices and "boxes" (T, 4) (cx, cy, w, h) in [0, 1]
        generator: of the noise, on the targets' device; torch's own if None
        """
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)  # (N, T)
        boxes = pad_sequence([target["boxes"] for target in targets], batch_first=True)  # (N, T, 4)
        n_images, most = labels.shape
        counts = torch.tensor([len(target["labels"]) for target in targets], device=labels.device)
        real = torch.arange(most, device=labels.device) < counts[:, None]  # (N, T)
        group = torch.arange(self.groups, device=labels.device).repeat_interleave(most)  # (E,)
        labels, real = labels.repeat(1, self.groups), real.repeat(1, self.groups)  # (N, E)
        boxes = boxes.repeat(1, self.groups, 1)  # (N, E, 4)

        noised = noised_boxes(boxes, self.box_noise, generator)
        classes = self.label_embedding.num_embeddings
        content = self.label_embedding(
            noised_labels(labels, self.label_noise, classes, generator)
        )  # (N, E, C)
        position = self.box_to_position(sine_boxes(noised, content.shape[-1]))  # (N, E, C)
        unseen = (group[:, None] != group) | ~real[:, None, :]  # (N, E, E)
        extra = ExtraQueries(Queries(content, position, noised), unseen)
        return NoisedObjects(extra, real, labels[real], boxes[real])


def noised_boxes(boxes: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    """Boxes (..., 4) (cx, cy, w, h) moved and resized at random, kept within [0, 1].

    A centre moves by up to noise/2 of the side, so it stays inside the box; a side grows or
    shrinks by up to noise of itself.
    """
    shift = torch.rand(boxes.shape, generator=generator, dtype=boxes.dtype, device=boxes.device)
    reach = torch.cat([boxes[..., 2:] / 2, boxes[..., 2:]], dim=-1) * noise
    return (boxes + (2 * shift - 1) * reach).clamp(0, 1)


def noised_labels(
    labels: Tensor, noise: float, num_classes: int, generator: torch.Generator | None
) -> Tensor:
    """Labels of which a part, `noise`, is replaced by labels drawn at random."""
    chance = torch.rand(labels.shape, generator=generator, device=labels.device)
    drawn = torch.randint(num_classes, labels.shape, generator=generator, device=labels.device)
    return torch.where(chance < noise, drawn, labels)


def denoising_losses(
    predictions: Predictions, noised: NoisedObjects, weights: LossWeights
) -> dict[str, Tensor]:
    """How well the extra queries reconstruct their objects: no matching, each knows its own.

    predictions: what the model said of the extra queries
    Returns: "loss_label_denoising", "loss_l1_denoising", "loss_giou_denoising", and the same with
        "_layer0", "_layer1", ... for the earlier layers. Each is a sum over the R queries divided
        by R (at least 1), already weighed.
    """
    # One long row of queries, in which query i is meant for object i.
    wanted = [{"labels": noised.labels, "boxes": noised.boxes}]
    everyone = torch.arange(len(noised.labels), device=noised.labels.device)
    named = [("", predictions)]
    named += [(f"_layer{index}", layer) for index, layer in enumerate(predictions.aux)]
    losses = {}
    for suffix, layer in named:
        logits = layer.logits[noised.real].float()[None]  # (1, R, K)
        boxes = layer.boxes[noised.real].float()[None]  # (1, R, 4)
        found = layer_losses(logits, boxes, wanted, [(everyone, everyone)], weights)
        losses |= {f"loss_{name}_denoising{suffix}": loss for name, loss in found.items()}
    return losses
