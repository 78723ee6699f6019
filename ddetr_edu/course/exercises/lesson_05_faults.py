"""The exercise of lesson 05 about the eight heads of one attention: which has which fault?

Whoever is about to do it should not read on: the faults are planted, and named, below.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_edu.attention import AttentionRecord, MSDeformAttn, capture, ms_deform_attn
from ddetr_edu.course.choice import Choice

SHAPES = [(24, 32), (12, 16), (6, 8)]
C, M, L, P = 64, 8, 3, 4
N_QUERIES = 20

WORDS = {
    "healthy": "no fault: the head reads what its query asks for",
    "uniform": "its weights are all equal: it never learned to choose",
    "constant": "its offsets and weights are the same for every query",
    "collapsed": "all weight is on one point, the same one for every query",
    "outside": "it reads outside the image, where there are only zeros",
    "dead": "it reads, but its values or its projection are zero",
    "no star": "the points of a level began in one place and stayed together",
    "one level": "all its weight is on one level, for every query",
    "split levels": "each level has a softmax of its own",
    "unnormalised": "its weights do not sum to 1",
}
SHOWS = {  # what would be seen
    "healthy": "a head without a fault has an output, and asks for other things for other queries",
    "uniform": "all its weights would be 1/12, for every query",
    "constant": "its weights and its offsets would be the same for all 20 queries",
    "collapsed": "the same point would have all the weight for every query",
    "outside": "its dots would lie beyond the frame, for every query",
    "dead": "its output would be zero, although its dots lie in the frame",
    "no star": "there would be three dots for a query, one for each level",
    "one level": "two of its three levels would have no weight for any query",
    "split levels": "each of its levels would have a third of the weight, for every query",
    "unnormalised": "the sum in its row would not be 1",
}
HEADS = {
    "head 0": "constant",
    "head 1": "healthy",
    "head 2": "outside",
    "head 3": "collapsed",
    "head 4": "no star",
    "head 5": "dead",
    "head 6": "healthy",
    "head 7": "uniform",
}
LOOK = {  # where to look instead
    "head 0": "how much does it differ from query to query?",
    "head 1": "does anything about it stand out, over all queries?",
    "head 2": "its output has a reason, which one of the figures shows",
    "head 3": "find its heaviest point for each of the 20 queries",
    "head 4": "count its dots",
    "head 5": "measure what it adds to the output",
    "head 6": "find its heaviest point for each of the 20 queries",
    "head 7": "measure its weights over all queries",
}
HALF_RIGHT = {  # a wrong word whose description fits, though another fits better
    ("head 3", "healthy"): "it has an output, but it asks for the same point again and again",
    ("head 4", "healthy"): "it follows its query, but its points do not spread as they should",
    ("head 7", "healthy"): "its points follow its query, but its weights do not",
    ("head 2", "dead"): "its output is zero, but it would not be if it read anything",
    ("head 3", "constant"): "its weights hardly change, but its points move with the query",
    ("head 3", "one level"): "its weight is on one level, but another word says more",
    ("head 7", "constant"): "its weights do not change, but its points move with the query",
    ("head 7", "split levels"): "each level has a third, but nothing competes within one, either",
}


@dataclass
class RecordedHeads:
    """One attention of eight heads at work on twenty queries."""

    record: AttentionRecord  # N = 1, Lq = 20, M = 8, L = 3, P = 4
    outputs: Tensor  # (N, Lq, M, C), what each head adds to the output


def recorded_heads() -> RecordedHeads:
    """An attention with a fault in some of its heads, which is for you to find.

    Returns:
        The record, as of `capture`, and the outputs of the heads.
    """
    generator = torch.Generator().manual_seed(5)
    layer = MSDeformAttn(C, M, L, P, backend="grid_sample")
    for projection in (layer.value_proj, layer.output_proj):
        bound = math.sqrt(3 / C)
        torch.nn.init.uniform_(projection.weight, -bound, bound, generator=generator)
    with torch.no_grad():
        _train(layer, generator)
        _plant(layer, generator)
    tokens = torch.randn(1, sum(h * w for h, w in SHAPES), C, generator=generator)
    queries = torch.randn(1, N_QUERIES, C, generator=generator)
    points = 0.4 + 0.15 * torch.rand(1, N_QUERIES, 1, 2, generator=generator)
    points[0, :2, 0] = torch.tensor([[0.35, 0.4], [0.6, 0.55]])  # the first is drawn
    with torch.no_grad(), capture(layer) as records:
        layer(queries, points.expand(-1, -1, L, -1), tokens, SHAPES)
        value = layer.value_proj(tokens).unflatten(-1, (M, -1))
        (record,) = records
        sums = ms_deform_attn(value, SHAPES, record.locations, record.weights, "grid_sample")
        columns = layer.output_proj.weight.unflatten(1, (M, -1))  # (C, M, D)
        outputs = torch.einsum("nqmd,cmd->nqmc", sums.unflatten(-1, (M, -1)), columns)
    return RecordedHeads(record, outputs)


def _by_head(layer: torch.nn.Linear, *sizes: int) -> tuple[Tensor, Tensor]:
    """Weight (M, *sizes, C) and bias (M, *sizes) of a layer, as views."""
    return layer.weight.view(M, *sizes, C), layer.bias.view(M, *sizes)


def _train(layer: MSDeformAttn, generator: torch.Generator) -> None:
    """As if trained: offsets and scores depend on the query. Head 6 is sharper than others."""
    moves, offsets = _by_head(layer.sampling_offsets, L, P, 2)
    moves.normal_(std=0.08, generator=generator)
    for level in range(L):  # less far out on coarse levels, where a pixel is large
        offsets[:, level] *= 0.75**level
        moves[:, level] *= 0.75**level
    scores, _ = _by_head(layer.attention_weights, L, P)
    scores.normal_(std=0.17, generator=generator)
    scores[6] *= 5


def _plant(layer: MSDeformAttn, generator: torch.Generator) -> None:
    """The faults."""
    moves, offsets = _by_head(layer.sampling_offsets, L, P, 2)
    scores, bias = _by_head(layer.attention_weights, L, P)
    offsets[0] += moves[0].sum(-1)  # as far as any query would move them, and the same for all
    moves[0], scores[0] = 0, 0
    bias[0].normal_(std=1.6, generator=generator)
    for level, (height, _) in enumerate(SHAPES):
        offsets[2, level, :, 1] = -height * (0.72 + 0.03 * torch.arange(P))
    moves[2, :, :, 1] *= 0.3
    bias[3, 0, 2] = 40
    moves[4], scores[4] = moves[4, :, :1].clone(), scores[4, :, :1].clone()
    offsets[4] = 0
    layer.output_proj.weight.view(C, M, -1)[:, 5] *= 1e-4
    scores[7] = 0


def _against(head: str, word: str) -> str:
    """What in the figures speaks against a word."""
    return f"{HALF_RIGHT.get((head, word), SHOWS[word])}; {LOOK[head]}"


head_faults = Choice(
    "head_faults",
    HEADS,
    WORDS,
    {
        (head, word): _against(head, word)
        for head, right in HEADS.items()
        for word in WORDS
        if word != right
    },
)
