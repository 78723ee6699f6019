"""`capture` for whole models: their attention modules, and how the decoder's boxes come about."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ddetr_edu.attention import AttentionRecord
from ddetr_edu.attention import capture as capture_attentions
from ddetr_edu.attention.capture import (
    Layers,
    being_recomputed,
    choose_attentions,
    pick_queries,
    query_numbers,
)
from ddetr_edu.models.decoder import Decoder
from ddetr_edu.models.queries import ProposedQueries


@dataclass
class DecoderRecord:
    """The inputs and outputs of a decoder in one forward pass: one of each for every layer.

    Boxes are fractions of the image without its padding. Tensors are detached.
    """

    references: list[Tensor]  # entering each layer: (N, Lq, 2) (x, y) or (N, Lq, 4) (cx, cy, w, h)
    logits: list[Tensor]  # leaving it: (N, Lq, K)
    boxes: list[Tensor]  # leaving it: (N, Lq, 4) (cx, cy, w, h)


@dataclass
class ProposalRecord:
    """The proposals of a two-stage model's encoder in one forward pass. Tensors are detached."""

    logits: Tensor  # (N, S, K) of every token
    objectness: Tensor  # (N, S), the logit by which tokens are chosen
    boxes: Tensor  # (N, S, 4) (cx, cy, w, h), fractions of the image without its padding
    topk_indices: Tensor  # (N, Lq), the token that each query starts at


class Captured(list[AttentionRecord]):
    """The records of the attention modules, in the order in which these ran.

    `decoder` and `proposals` have one record for each forward pass of a decoder and of the first
    stage of a two-stage model.
    """

    def __init__(self):
        super().__init__()
        self.decoder: list[DecoderRecord] = []
        self.proposals: list[ProposalRecord] = []


@contextmanager
def capture(
    model: nn.Module, layers: Layers | None = None, queries: Sequence[int] | Tensor | None = None
) -> Iterator[Captured]:
    """Record every MSDeformAttn that runs inside the `with` block, in the order in which they run.

        with dd.capture(model, "decoder*") as records:
            model(images, padding_mask)
        records[-1].locations              # the last layer's, (N, Lq, M, L, P, 2)
        records.decoder[0].boxes           # after each decoder layer, (N, Lq, 4)
        records.proposals[0].topk_indices  # in two stages, (N, Lq)

    `attention.capture` says how attention modules are recorded and chosen. The decoder is recorded
    if one of its attention modules is. Proposals are always those of every token.

    Args:
        model: The model, or a part of one.
        layers: The attention modules to record: a name with * and ?, a number (from 0 in the
            model's order; -1 is the last), or several of these. None records all.
        queries: The indices of the queries to record, Lq in the decoder and S in the encoder. None
            records all.

    Yields:
        The list of records, filled as the model runs.

    Raises:
        ValueError: If the model has no MSDeformAttn, or none that was chosen; inside the block,
            when the model runs, if it has no such query.
    """
    captured = Captured()
    indices = query_numbers(queries)
    chosen = {module for _, module in choose_attentions(model, layers)}

    def record_decoder(decoder, args, kwargs, outputs):
        if being_recomputed():
            return
        references = (args[0] if args else kwargs["queries"]).reference_points
        logits, boxes = [logits for logits, _ in outputs], [boxes for _, boxes in outputs]
        if decoder.box_refine:
            entering = [references, *boxes[:-1]]
        else:
            entering = [references] * len(boxes)
        captured.decoder.append(
            DecoderRecord(
                *(
                    [pick_queries(values.detach(), indices, "the decoder") for values in each]
                    for each in (entering, logits, boxes)
                )
            )
        )

    def record_proposals(module, args, output):
        if being_recomputed():
            return
        queries, (logits, boxes) = output
        _, padding_masks = args
        objectness = module.objectness(logits, padding_masks).detach()
        topk_indices = objectness.topk(queries.content.shape[1], dim=1).indices
        captured.proposals.append(
            ProposalRecord(logits.detach(), objectness, boxes.detach(), topk_indices)
        )

    handles = []
    for module in model.modules():
        if isinstance(module, Decoder) and chosen.intersection(module.modules()):
            handles.append(module.register_forward_hook(record_decoder, with_kwargs=True))
        if isinstance(module, ProposedQueries):
            handles.append(module.register_forward_hook(record_proposals))
    try:
        with capture_attentions(model, layers, queries, captured):
            yield captured
    finally:
        for handle in handles:
            handle.remove()
