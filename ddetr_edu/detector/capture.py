"""`capture` for whole models: the attentions, and how the decoder's boxes came about."""

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
from ddetr_edu.detector.decoder import Decoder
from ddetr_edu.detector.queries import ProposedQueries


@dataclass
class DecoderRecord:
    """What a decoder did in one forward pass, layer by layer, first layer first.

    Boxes are fractions of the picture without its padding. Tensors are detached.
    """

    references: list[Tensor]  # entering each layer: (N, Lq, 2) (x, y) or (N, Lq, 4) (cx, cy, w, h)
    logits: list[Tensor]  # leaving it: (N, Lq, K)
    boxes: list[Tensor]  # leaving it: (N, Lq, 4) (cx, cy, w, h)


@dataclass
class ProposalRecord:
    """What the encoder of a two-stage model proposed in one forward pass. Tensors are detached."""

    logits: Tensor  # (N, S, K) of every token
    promise: Tensor  # (N, S), the logit by which tokens are chosen; officially that of class 0
    boxes: Tensor  # (N, S, 4) (cx, cy, w, h), fractions of the picture without its padding
    chosen: Tensor  # (N, Lq), the token that each query began at


class Captured(list[AttentionRecord]):
    """The attentions' records in the order they ran; for each pass one record of the rest."""

    def __init__(self):
        super().__init__()
        self.decoder: list[DecoderRecord] = []
        self.proposals: list[ProposalRecord] = []


@contextmanager
def capture(
    model: nn.Module,
    layers: Layers | None = None,
    queries: Sequence[int] | Tensor | None = None,
) -> Iterator[Captured]:
    """Record every MSDeformAttn that runs inside the `with` block, in the order they run.

        with dd.capture(model, "decoder*") as records:
            model(images, padding_mask)
        records[-1].locations            # the last layer's, (N, Lq, M, L, P, 2)
        records.decoder[0].boxes         # after each decoder layer, (N, Lq, 4)
        records.proposals[0].chosen      # in two stages, (N, Lq)

    `attention.capture` tells how the attentions are recorded and chosen. The decoder is recorded,
    for the chosen queries, if one of its attentions is; proposals are those of every token.

    Raises: ValueError as `attention.capture` does.
    """
    captured = Captured()
    numbers = query_numbers(queries)
    chosen = {module for _, module in choose_attentions(model, layers)}

    def remember_decoder(decoder, args, kwargs, layers):
        if being_recomputed():
            return
        queries = args[0] if args else kwargs["queries"]
        first, boxes = queries.reference_points, [boxes for _, boxes in layers]
        entering = [first, *boxes[:-1]] if decoder.box_refine else [first] * len(boxes)
        captured.decoder.append(
            DecoderRecord(*(
                [pick_queries(values.detach(), numbers, "the decoder") for values in each]
                for each in (entering, [logits for logits, _ in layers], boxes)
            ))
        )  # fmt: skip

    def remember_proposals(module, args, output):
        if being_recomputed():
            return
        queries, (logits, boxes) = output
        by_class = getattr(module, "token_queries", False)  # then any class makes a token promising
        promise = (logits.amax(-1) if by_class else logits[..., 0]).detach()
        chosen = promise.topk(queries.content.shape[1], dim=1).indices
        captured.proposals.append(ProposalRecord(logits.detach(), promise, boxes.detach(), chosen))

    handles = []
    for module in model.modules():
        if isinstance(module, Decoder) and chosen.intersection(module.modules()):
            handles.append(module.register_forward_hook(remember_decoder, with_kwargs=True))
        if isinstance(module, ProposedQueries):
            handles.append(module.register_forward_hook(remember_proposals))
    try:
        with capture_attentions(model, layers, queries, captured):
            yield captured
    finally:
        for handle in handles:
            handle.remove()
