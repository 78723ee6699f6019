"""The exercises of lesson 01: what dense and deformable attention cost, and dense attention."""

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise


def my_attention_cost(spatial_shapes, n_heads, n_points):
    """[(H, W), ...], M, P -> [dense pairs, deformable pairs, dense bytes, deformable bytes]"""
    n_tokens = sum(height * width for height, width in spatial_shapes)
    dense_pairs = n_heads * n_tokens * n_tokens
    deformable_pairs = n_heads * n_tokens * len(spatial_shapes) * n_points
    return [dense_pairs, deformable_pairs, 4 * dense_pairs, 12 * deformable_pairs]


def my_dense_attention(query, key, value):
    """query (N, Lq, D), key (N, S, D), value (N, S, D) -> output (N, Lq, D)"""
    scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5  # (N, Lq, S)
    weights = scores.softmax(dim=2)
    return weights @ value


def costs(
    dense_pairs: int, deformable_pairs: int, per_pair: int = 4, per_point: int = 12
) -> list[int]:
    """The four numbers of `my_attention_cost`.

    Args:
        dense_pairs: How many.
        deformable_pairs: How many.
        per_pair: Bytes for each pair of dense attention.
        per_point: The same for deformable attention.

    Returns:
        Pairs and bytes.
    """
    return [dense_pairs, deformable_pairs, per_pair * dense_pairs, per_point * deformable_pairs]


def count(shapes: list[tuple[int, int]]) -> int:
    """The tokens of a pyramid."""
    return sum(height * width for height, width in shapes)


def _pyramids() -> Cases:
    return {
        "one level, one head, one point": ([(4, 6)], 1, 1),
        "one level, two heads": ([(5, 3)], 2, 3),
        "two levels": ([(4, 7), (2, 4)], 4, 2),
        "three levels, taller than wide": ([(13, 5), (7, 3), (4, 2)], 3, 6),
        "the four levels of a small image": ([(8, 12), (4, 6), (2, 3), (1, 2)], 8, 4),
        "five levels": ([(9, 8), (5, 4), (3, 2), (2, 1), (1, 1)], 6, 5),
        "a single token": ([(1, 1)], 5, 7),
        "levels of one row": ([(1, 31), (1, 16)], 7, 8),
    }


attention_cost = Exercise(
    my_attention_cost,
    _pyramids,
    {
        "dense pairs were counted for one head, deformable ones for all": lambda z, m, p: costs(
            count(z) ** 2, count(z) * m * len(z) * p
        ),
        "these are the pairs of one head; all M heads were asked for": lambda z, m, p: costs(
            count(z) ** 2, count(z) * len(z) * p
        ),
        "tokens were only compared with those of their own level; dense attention compares each "
        "token with those of all levels": lambda z, m, p: costs(
            m * sum((h * w) ** 2 for h, w in z), count(z) * m * len(z) * p
        ),
        "only the tokens of the first level were counted": lambda z, m, p: costs(
            m * count(z[:1]) ** 2, count(z[:1]) * m * len(z) * p
        ),
        "a token has P points on each level, so L * P for each head": lambda z, m, p: costs(
            m * count(z) ** 2, count(z) * m * p
        ),
        "each pair was counted once, or tokens not with themselves; every token is a query, and "
        "every token is a key": lambda z, m, p: costs(
            m * count(z) * (count(z) - 1), count(z) * m * len(z) * p
        ),
        "these are numbers, not bytes: a number in float32 has 4 bytes": lambda z, m, p: costs(
            m * count(z) ** 2, count(z) * m * len(z) * p, 1, 3
        ),
        "these are bits: a number in float32 has 32 bits, which are 4 bytes": lambda z, m, p: costs(
            m * count(z) ** 2, count(z) * m * len(z) * p, 32, 96
        ),
        "a number in float32 has 4 bytes; 8 are those of a float64": lambda z, m, p: costs(
            m * count(z) ** 2, count(z) * m * len(z) * p, 8, 24
        ),
        "a sampling point has a weight and two coordinates: three numbers": lambda z, m, p: costs(
            m * count(z) ** 2, count(z) * m * len(z) * p, 4, 4
        ),
        "a sampling point has two coordinates and a weight as well: three numbers": (
            lambda z, m, p: costs(m * count(z) ** 2, count(z) * m * len(z) * p, 4, 8)
        ),
    },
)


def _queries_keys_and_values() -> Cases:
    # N, Lq, S, D: all different in each case; how large scores get
    sizes = {
        "two queries, three keys": ((1, 2, 3, 4), 1.0),
        "two images": ((2, 3, 7, 5), 1.0),
        "more queries than keys": ((3, 8, 4, 2), 1.0),
        "one query": ((4, 1, 5, 7), 1.0),
        "one key: its value, whatever the score": ((5, 4, 1, 3), 1.0),
        "one channel": ((2, 6, 9, 1), 1.0),
        "queries of zero: the mean of the values": ((2, 5, 8, 3), 0.0),
        "large scores: one key gets nearly all of the weight": ((3, 7, 11, 16), 6.0),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((n, lq, s, d), scale) in sizes.items():
        query, key, value = (
            torch.randn(n, rows, d, generator=generator, dtype=torch.float64) for rows in (lq, s, s)
        )
        cases[name] = scale * query, key, value
    return cases


def attention_with(scores: Tensor, value: Tensor, dim: int = 2) -> Tensor:
    """Dense attention from its scores on.

    Args:
        scores: (N, Lq, S).
        value: (N, S, D).
        dim: The axis of the softmax.

    Returns:
        (N, Lq, D).
    """
    return scores.softmax(dim) @ value


def similarities(query: Tensor, key: Tensor) -> Tensor:
    """The scalar products, (N, Lq, S)."""
    return query @ key.transpose(1, 2)


dense_attention = Exercise(
    my_dense_attention,
    _queries_keys_and_values,
    {
        "the scores were not divided by the square root of D": lambda q, k, v: attention_with(
            similarities(q, k), v
        ),
        "the scores were divided by D; its square root was asked for": lambda q, k, v: (
            attention_with(similarities(q, k) / q.shape[2], v)
        ),
        "the scores were multiplied by the square root of D; divide": lambda q, k, v: (
            attention_with(similarities(q, k) * q.shape[2] ** 0.5, v)
        ),
        "the scores were divided by the square root of S; D counts, the channels": lambda q, k, v: (
            attention_with(similarities(q, k) / k.shape[1] ** 0.5, v)
        ),
        "the scores were divided by the square root of Lq; D counts, the channels": (
            lambda q, k, v: attention_with(similarities(q, k) / q.shape[1] ** 0.5, v)
        ),
        "the values were averaged; the scores decide how much each counts": lambda q, k, v: (
            attention_with(0 * similarities(q, k), v)
        ),
        "the softmax runs over the queries; the weights of one query over all keys sum to 1": (
            lambda q, k, v: attention_with(similarities(q, k) / q.shape[2] ** 0.5, v, dim=1)
        ),
        "the weights of all queries together sum to 1; those of each one should": lambda q, k, v: (
            (exponentials := (similarities(q, k) / q.shape[2] ** 0.5).exp())
            / exponentials.sum()
            @ v
        ),
        "the softmax runs over the images": lambda q, k, v: attention_with(
            similarities(q, k) / q.shape[2] ** 0.5, v, dim=0
        ),
        "the weights were divided by the square root of D after the softmax; divide the scores": (
            lambda q, k, v: attention_with(similarities(q, k), v) / q.shape[2] ** 0.5
        ),
        "there is no softmax": lambda q, k, v: similarities(q, k) / q.shape[2] ** 0.5 @ v,
        "a sigmoid stands in the place of the softmax": lambda q, k, v: (
            (similarities(q, k) / q.shape[2] ** 0.5).sigmoid() @ v
        ),
        "the keys were summed up; the values are": lambda q, k, v: attention_with(
            similarities(q, k) / q.shape[2] ** 0.5, k
        ),
        "the values were compared with the query; the keys are": lambda q, k, v: attention_with(
            similarities(q, v) / q.shape[2] ** 0.5, v
        ),
    },
)
