"""The exercises of lesson 05: attention weights, and how many points they make count."""

import torch

from ddetr_edu import attention
from ddetr_edu.course.exercise import Cases, Exercise


def my_attention_weights(scores):
    """scores (N, Lq, M, L, P) -> weights of the same shape"""
    n_images, n_queries, n_heads, n_levels, n_points = scores.shape
    weights = scores.reshape(n_images, n_queries, n_heads, n_levels * n_points).softmax(-1)
    return weights.reshape(n_images, n_queries, n_heads, n_levels, n_points)


def exp_over_sum(scores: torch.Tensor) -> torch.Tensor:
    """The definition of the softmax as it stands, which overflows for large scores.

    Args:
        scores: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M, L, P), with NaN where exp(score) is infinite.
    """
    return scores.exp() / scores.exp().sum((-2, -1), keepdim=True)


def _scores() -> Cases:
    sizes = {  # (N, Lq, M, L, P), and how far the scores spread
        "several levels and points": ((2, 3, 5, 4, 7), 2.0),
        "more levels than points": ((3, 4, 2, 6, 5), 2.0),
        "one image and one query": ((1, 1, 3, 2, 4), 1.0),
        "one head": ((5, 2, 1, 3, 6), 1.0),
        "one level": ((2, 5, 4, 1, 3), 1.0),
        "one point": ((4, 7, 3, 5, 1), 1.0),
        "all scores equal": ((3, 2, 6, 7, 2), 0.0),
        "one score far above the others": ((7, 6, 4, 2, 3), 8.0),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, spread) in sizes.items():
        scores = torch.randn(*shape, generator=generator, dtype=torch.float64)
        cases[name] = (scores * spread,)
    huge = torch.randint(-1, 2, (2, 8, 7, 3, 5), generator=generator)
    cases["scores of -1000, 0 and 1000"] = (1000.0 * huge.double(),)
    # No single number makes all heads harmless; multiples of 4 are exact in 16 bits, too.
    apart = 900 * torch.tensor([-1, 0, 1])[:, None, None]
    steps = torch.randint(0, 3, (2, 5, 3, 4, 6), generator=generator)
    cases["heads whose scores lie far apart"] = ((4 * steps + apart).double(),)
    return cases


attention_weights = Exercise(
    my_attention_weights,
    _scores,
    {
        "the softmax runs over the points of each level; levels compete too": (
            lambda scores: scores.softmax(-1)
        ),
        "each level was given the same weight; levels compete too": (
            lambda scores: scores.softmax(-1) / scores.shape[-2]
        ),
        "the softmax runs over the levels; points compete too": lambda scores: scores.softmax(-2),
        "two softmaxes, over points and over levels, were multiplied; it takes one over both": (
            lambda scores: scores.softmax(-1) * scores.softmax(-2)
        ),
        "the softmax runs over all heads together; each head has its own": (
            lambda scores: scores.flatten(2).softmax(-1).view_as(scores)
        ),
        "the softmax runs over the whole tensor; each query and head has its own": (
            lambda scores: scores.flatten().softmax(0).view_as(scores)
        ),
        "the softmax runs over the heads": lambda scores: scores.softmax(2),
        "the softmax runs over the queries": lambda scores: scores.softmax(1),
        "the scores were normalised without exp": lambda scores: (
            scores / scores.sum((-1, -2), keepdim=True)
        ),
        "exp was not divided by its sum: weights must sum to 1": lambda scores: scores.exp(),
        "the exp of a large score is infinite: subtract the head's largest score first": (
            exp_over_sum
        ),
        "the largest score of all heads was subtracted; subtract each head's own": (
            lambda scores: exp_over_sum(scores - scores.max())
        ),
        "the largest score of each level was subtracted; subtract one number for a whole head": (
            lambda scores: exp_over_sum(scores - scores.amax(-1, keepdim=True))
        ),
        "two softmaxes were applied, one after the other; it takes one over both axes": (
            lambda scores: scores.softmax(-1).softmax(-2)
        ),
        "the scores were divided by a root, as in dense attention; here nothing divides them": (
            lambda scores: my_attention_weights(scores / scores.shape[-1] ** 0.5)
        ),
        "a sigmoid was used; the weights of a head must sum to 1": lambda scores: scores.sigmoid(),
    },
    library=(attention.attention_weights,),
)


def my_effective_points(weights):
    """weights (N, Lq, M, L, P) -> (N, Lq, M), how many points count, from 1 to L*P"""
    logs = torch.where(weights > 0, weights, 1).log()
    entropy = -(weights * logs).sum(dim=(-2, -1))
    return entropy.exp()


def entropy_of(weights: torch.Tensor) -> torch.Tensor:
    """The entropy of each head's weights.

    Args:
        weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M), in nats.
    """
    return torch.special.entr(weights).sum((-2, -1))


def _weights() -> Cases:
    sizes = {  # (N, Lq, M, L, P), how far the scores spread, whether some weights are 0
        "several levels and points": ((2, 3, 5, 4, 7), 2.0, False),
        "weights of exactly zero": ((3, 4, 2, 6, 5), 1.0, True),
        "all weights equal": ((1, 2, 6, 7, 2), 0.0, False),
        "one image and one query": ((1, 1, 3, 2, 4), 1.0, False),
        "one head": ((5, 2, 1, 3, 6), 3.0, True),
        "one level": ((2, 5, 4, 1, 3), 1.0, False),
        "one level and one point": ((4, 7, 8, 1, 1), 1.0, False),
        "one point has nearly all the weight": ((7, 6, 4, 5, 3), 20.0, False),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, spread, with_zeros) in sizes.items():
        scores = spread * torch.randn(*shape, generator=generator, dtype=torch.float64)
        if with_zeros:  # of a third of the points, but never of the first
            without = torch.rand(*shape, generator=generator) < 1 / 3
            without[..., 0, 0] = False
            scores[without] = -torch.inf
        cases[name] = (my_attention_weights(scores),)
    return cases


effective_points = Exercise(
    my_effective_points,
    _weights,
    {
        "0 times the logarithm of 0 became NaN; a point without weight must add nothing": (
            lambda w: (-(w * w.log()).sum((-2, -1))).exp()
        ),
        "this is the entropy; the number of points is its exponential": entropy_of,
        "the sign of the entropy is wrong: minus the sum of A ln A": (
            lambda w: (-entropy_of(w)).exp()
        ),
        "the logarithm has base 2 and the exponential base e; both need the same": (
            lambda w: (entropy_of(w) / torch.tensor(2.0).log()).exp()
        ),
        "the mean over the points was taken instead of the sum": (
            lambda w: torch.special.entr(w).mean((-2, -1)).exp()
        ),
        "each level was counted by itself; the points of all levels belong together": (
            lambda w: torch.special.entr(w).sum(-1).exp()
        ),
        "the numbers of the levels were added; the points of all levels belong together": (
            lambda w: torch.special.entr(w).sum(-1).exp().sum(-1)
        ),
        "all heads were counted together; each head has its own number": (
            lambda w: torch.special.entr(w).sum((-3, -2, -1)).exp()
        ),
        "this is 1 over the sum of squares, another such number; here it takes the entropy": (
            lambda w: 1 / w.square().sum((-2, -1))
        ),
        "the logarithms were not multiplied by the weights": (
            lambda w: (-w.log().mean((-2, -1))).exp()
        ),
        "points with any weight were counted": lambda w: (w > 0).sum((-2, -1)).double(),
        "this is 1 over the largest weight": lambda w: 1 / w.amax((-2, -1)),
    },
)
