"""The exercise of lesson 10 about proposals: which tokens become queries."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.models.queries import ProposedQueries


def my_select_proposals(logits, boxes, is_padding, count):
    """(logits (N, S, K), boxes (N, S, 4), is_padding (N, S), count) -> references (N, Lq, 4)"""
    objectness = logits[..., 0].masked_fill(is_padding, -torch.inf)
    count = min(count, logits.shape[1])
    chosen = objectness.topk(count, dim=1).indices
    return boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


def _proposals() -> Cases:
    sizes = {  # (N, S, K), count, and how many tokens of each image are padding
        "two images, no padding": ((2, 7, 3), 4, 0),
        "one image": ((1, 12, 2), 5, 0),
        "the last tokens are padding": ((3, 9, 5), 4, 3),
        "one query": ((4, 6, 4), 1, 2),
        "fewer tokens than queries": ((2, 5, 6), 8, 0),
        "all tokens become queries": ((5, 8, 7), 8, 0),
        "one class": ((3, 20, 1), 6, 9),
        "one token": ((6, 1, 2), 1, 0),
    }
    generator = torch.Generator().manual_seed(1)
    cases: Cases = {}
    for name, ((n, s, k), count, padded) in sizes.items():
        # No two tokens have the same logit of a class, and few bits can tell them apart.
        order = torch.rand(n, s, k, generator=generator).argsort(dim=1)
        logits = 0.25 * order.double() - 0.125 * s
        is_padding = torch.rand(n, s, generator=generator).argsort(dim=1) < padded
        logits = logits + 0.25 * s * is_padding[..., None]  # those in the padding are the highest
        boxes = torch.rand(n, s, 4, generator=generator, dtype=torch.float64)
        cases[name] = logits, boxes, is_padding, count
    return cases


def selected_by(rank: Callable, last: Callable = lambda chosen: chosen) -> Callable:
    """Proposals chosen by a rule of one's own.

    Args:
        rank: A function (logits (N, S, K), is_padding (N, S)) -> (N, S), the higher the better.
        last: A function (indices (N, Lq)) -> others of that shape.

    Returns:
        A function (logits, boxes, is_padding, count) -> references.
    """

    def selected(logits, boxes, is_padding, count):
        ranked = rank(logits, is_padding)
        chosen = last(ranked.topk(min(count, ranked.shape[1]), dim=1).indices)
        return boxes.gather(1, chosen[..., None].expand(-1, -1, 4))

    return selected


def _scored(score: Callable) -> Callable:
    """Proposals by another score than that of class 0; padding is never chosen."""
    return selected_by(lambda logits, is_padding: score(logits).masked_fill(is_padding, -torch.inf))


def _right_rank(logits: Tensor, is_padding: Tensor) -> Tensor:
    return logits[..., 0].masked_fill(is_padding, -torch.inf)


def _by_token_and_class(logits, boxes, is_padding, count) -> Tensor:
    n_classes = logits.shape[-1]
    flat = logits.masked_fill(is_padding[..., None], -torch.inf).flatten(1)
    chosen = flat.topk(min(count, logits.shape[1]), dim=1).indices // n_classes
    return boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


def _boxes_of_first_image(logits, boxes, is_padding, count) -> Tensor:
    return my_select_proposals(logits, boxes[:1].expand_as(boxes), is_padding, count)


def _without_minimum(logits, boxes, is_padding, count) -> Tensor:
    chosen = _right_rank(logits, is_padding).topk(count, dim=1).indices
    return boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


select_proposals = Exercise(
    my_select_proposals,
    _proposals,
    {
        "padded tokens were proposed; they must never be chosen": selected_by(
            lambda logits, is_padding: logits[..., 0]
        ),
        "padded tokens got the logit 0; others may be lower, so give them minus infinity": (
            selected_by(lambda logits, is_padding: logits[..., 0].masked_fill(is_padding, 0.0))
        ),
        "True and False are the wrong way round: True is padding": selected_by(
            lambda logits, is_padding: _right_rank(logits, ~is_padding)
        ),
        "tokens were ranked by their best class; class 0 alone means objectness here": _scored(
            lambda logits: logits.amax(-1)
        ),
        "tokens were ranked by the last class; class 0 means objectness": _scored(
            lambda logits: logits[..., -1]
        ),
        "tokens were ranked by the mean of all classes; class 0 alone means objectness": _scored(
            lambda logits: logits.mean(-1)
        ),
        "a softmax over the classes came first; each class has a sigmoid of its own": _scored(
            lambda logits: logits.softmax(-1)[..., 0]
        ),
        "tokens and classes were ranked together, so a token is chosen once for each class": (
            _by_token_and_class
        ),
        "the lowest were chosen": selected_by(
            lambda logits, is_padding: (-logits[..., 0]).masked_fill(is_padding, -torch.inf)
        ),
        "the chosen ones stand in the order of the tokens; the best comes first": selected_by(
            _right_rank, lambda chosen: chosen.sort(dim=1).values
        ),
        "the worst of the chosen comes first; the best does": selected_by(
            _right_rank, lambda chosen: chosen.flip(1)
        ),
        "all images got the tokens of the first; each has its own best": selected_by(
            _right_rank, lambda chosen: chosen[:1].expand_as(chosen)
        ),
        "the boxes are those of the first image; gather along the tokens of each": (
            _boxes_of_first_image
        ),
        "more tokens were asked for than there are; take the smaller number": _without_minimum,
    },
    library=(ProposedQueries,),
)
