"""What shows of a detector that forgets the padding somewhere: one query, step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.attention import MSDeformAttn, encoder_reference_points
from ddetr_edu.course.forget_padding import forgetting
from ddetr_edu.detector import Detector
from ddetr_edu.models.capture import capture
from ddetr_edu.models.decoder import Decoder
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.preprocessing import make_batch

NEAR = 16.0  # pixels from the point to look at to the token that a query starts from


class Symptoms(NamedTuple):
    """How a query that starts on an object finds it, or fails to."""

    proposal: Tensor  # (4,) xyxy in pixels of the batch, the box that the query starts from
    points: list[Tensor]  # of each decoder layer (M*L*P, 2) (x, y), fractions of the batch
    box: Tensor  # (4,) xyxy in pixels of the batch, as the last layer predicts it
    scores: list[float]  # of the best class: of the proposal, then after each layer
    padded_values: tuple[float, float]  # shortest and longest value vector at a padded token


@torch.no_grad()
def observe(
    detector: Detector,
    images: list[Tensor],
    n: int,
    point: tuple[float, float],
    fault: str = "nowhere",
) -> Symptoms:
    """Follow a query through a detector that forgets the padding.

    Args:
        detector: Of two stages, in evaluation mode.
        images: (3, H, W) in [0, 1] each.
        n: The image to look at.
        point: (x, y) on an object, a fraction of that image. The query is the one of highest
            objectness that starts from a token near it.
        fault: One of the faults of `forgetting`.

    Returns:
        What became of the query.
    """
    batch, padding_mask = make_batch(images, detector.resize)
    model, size = detector.model, torch.tensor(batch.shape[:1:-1])  # (W, H)
    assert isinstance(model, DeformableDETR)
    with (
        forgetting(model, fault),
        capture(model, "decoder*") as records,
        _padded_values(model.decoder, n) as lengths,
    ):
        predictions = model(batch, padding_mask)
    proposals = records.proposals[0]
    no_padding = torch.ones(1, len(records[0].spatial_shapes), 2)
    centres = encoder_reference_points(records[0].spatial_shapes, no_padding)[0, :, 0]  # (S, 2)
    image_size = torch.stack([(~padding_mask[n, 0]).sum(), (~padding_mask[n, :, 0]).sum()])

    tokens = proposals.topk_indices[n]  # (Lq,), of the highest objectness first
    distance = (centres[tokens] * size - torch.tensor(point) * image_size).norm(dim=-1)
    query = int((distance <= distance.min().clamp(min=NEAR)).nonzero()[0])
    layers = [*predictions.aux, predictions]
    logits = [proposals.logits[n, tokens[query]], *(layer.logits[n, query] for layer in layers)]

    def in_batch(box: Tensor) -> Tensor:
        """From (cx, cy, w, h), fractions of the image, to xyxy in pixels of the batch."""
        return box_convert(box * image_size.repeat(2), "cxcywh", "xyxy")

    return Symptoms(
        in_batch(proposals.boxes[n, tokens[query]]),
        [record.locations[n, query].flatten(0, -2) for record in records],
        in_batch(predictions.boxes[n, query]),
        [of_layer.max().sigmoid().item() for of_layer in logits],
        (min(lengths, default=0.0), max(lengths, default=0.0)),
    )


@contextmanager
def _padded_values(decoder: Decoder, n: int) -> Iterator[list[float]]:
    """Collect how long the vectors are that the decoder's attentions hold at padded tokens.

    Args:
        decoder: A decoder that is about to run.
        n: The image.

    Yields:
        The list, filled as it runs.
    """
    lengths: list[float] = []
    is_padding: list[Tensor] = []  # (S,)

    def keep_mask(decoder, args):
        is_padding[:] = [args[4][n]]

    def measure(attention, args):
        _, _, value, _, mask = args
        value = attention.value_proj(value)
        if mask is not None:
            value = value.masked_fill(mask[..., None], 0.0)
        lengths.extend(value[n, is_padding[0]].norm(dim=-1).tolist())

    hooks = [decoder.register_forward_pre_hook(keep_mask)]
    for module in decoder.modules():
        if isinstance(module, MSDeformAttn):
            hooks.append(module.register_forward_pre_hook(measure))
    try:
        yield lengths
    finally:
        for hook in hooks:
            hook.remove()
