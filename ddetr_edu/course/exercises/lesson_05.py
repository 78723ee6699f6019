"""The exercise of lesson 05: attention weights."""

import torch

from ddetr_edu import attention
from ddetr_edu.course.exercise import Cases, Exercise


def my_attention_weights(scores):
    """scores (N, Lq, M, L, P) -> weights of the same shape"""
    n_images, n_queries, n_heads, n_levels, n_points = scores.shape
    weights = scores.reshape(n_images, n_queries, n_heads, n_levels * n_points).softmax(-1)
    return weights.reshape(n_images, n_queries, n_heads, n_levels, n_points)


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
        "the softmax runs over all heads together; each head has its own": (
            lambda scores: scores.flatten(2).softmax(-1).view_as(scores)
        ),
        "the softmax runs over the heads": lambda scores: scores.softmax(2),
        "the softmax runs over the queries": lambda scores: scores.softmax(1),
        "the scores were normalised without exp": lambda scores: (
            scores / scores.sum((-1, -2), keepdim=True)
        ),
        "exp was not divided by its sum: weights must sum to 1": lambda scores: scores.exp(),
        "a sigmoid was used; the weights of a head must sum to 1": lambda scores: scores.sigmoid(),
    },
    library=(attention.attention_weights,),
)
