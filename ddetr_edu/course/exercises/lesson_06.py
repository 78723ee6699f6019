"""The exercises of lesson 06: what becomes of each axis, the sum, and two ways to compute it."""

import numpy as np
import torch
import torch.nn.functional as F

from ddetr_edu import attention
from ddetr_edu.attention import bilinear_sample
from ddetr_edu.attention.grid_sample import ms_deform_attn_grid_sample
from ddetr_edu.attention.naive import ms_deform_attn_naive
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.exercises.attention_faults import (
    after,
    attention_by,
    fold,
    fold_wrongly,
    maps_of,
    with_inputs,
)

axes = Choice(
    "axes",
    {"N": "kept", "Lq": "kept", "M": "joined", "L": "summed", "P": "summed", "D": "joined"},
    {
        "kept": "the output has the same axis",
        "summed": "weighted and added up, so that the axis is gone",
        "joined": "made into one axis together with another, side by side",
        "averaged": "added up and divided by the length of the axis",
    },
    {
        ("N", "summed"): "the output has two parts, one for each image, and they differ",
        ("N", "joined"): "find the axis of 2 images at the front of the output's shape",
        ("N", "averaged"): "images of a batch never mix; each has colours of its own on the right",
        ("Lq", "summed"): "the output has three rows for each image",
        ("Lq", "joined"): "find the axis of 3 queries in the output's shape",
        ("Lq", "averaged"): "queries do not mix here; each has a row of its own on the right",
        ("M", "kept"): "the output's shape has three axes, and none of them is for heads alone",
        ("M", "summed"): "both heads are still to be seen on the right, m0 and m1",
        ("M", "averaged"): "a colour and its inverse would give grey; is the output grey?",
        ("L", "kept"): "the output has no axis for levels",
        ("L", "joined"): "with two levels in the last axis, it would be 12 long",
        ("L", "averaged"): "the weights of a head already add up to 1, over all levels together",
        ("P", "kept"): "the output has no axis for points",
        ("P", "joined"): "with four points in the last axis, it would be 24 long",
        ("P", "averaged"): "the weights of a head already add up to 1; dividing again would darken",
        ("D", "kept"): "the output's last axis is longer than the 3 channels of a head",
        ("D", "summed"): "red, green and blue are still apart, or there would be no colours",
        ("D", "averaged"): "red, green and blue are still apart, or there would be no colours",
    },
)


def my_aggregate(samples, weights):
    """samples (N,Lq,M,L,P,D), weights (N,Lq,M,L,P) -> (N,Lq,M*D)"""
    per_head = (samples * weights[..., None]).sum(dim=(3, 4))
    return per_head.flatten(2)


def _samples_and_weights() -> Cases:
    sizes = {  # (N, Lq, M, L, P, D)
        "several levels and points": (2, 3, 5, 4, 7, 11),
        "more queries than channels": (3, 7, 2, 5, 4, 6),
        "one image and one query": (1, 1, 4, 3, 2, 5),
        "one head": (4, 5, 1, 2, 3, 7),
        "one level": (2, 6, 3, 1, 5, 4),
        "one point": (5, 2, 6, 7, 1, 3),
        "one channel": (3, 4, 7, 2, 6, 1),
        "weights that do not sum to 1": (6, 5, 3, 4, 2, 8),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, shape in sizes.items():
        samples = torch.randn(*shape, generator=generator, dtype=torch.float64)
        weights = torch.rand(*shape[:-1], generator=generator, dtype=torch.float64)
        if name != "weights that do not sum to 1":
            weights = weights / weights.sum((-1, -2), keepdim=True)
        cases[name] = samples, weights
    return cases


aggregate = Exercise(
    my_aggregate,
    _samples_and_weights,
    {
        "the heads were summed; they stand side by side": lambda s, w: torch.einsum(
            "nqmlpd,nqmlp->nqd", s, w
        ),
        "the heads were summed and repeated; they stand side by side": lambda s, w: torch.einsum(
            "nqmlpd,nqmlp->nqd", s, w
        ).repeat(1, 1, s.shape[2]),
        "the levels were joined; they are summed, as the points are": lambda s, w: torch.einsum(
            "nqmlpd,nqmlp->nqmld", s, w
        ).flatten(2),
        "the points were joined; they are summed, as the levels are": lambda s, w: torch.einsum(
            "nqmlpd,nqmlp->nqmpd", s, w
        ).flatten(2),
        "the weights are missing": lambda s, w: s.sum((3, 4)).flatten(2),
        "the mean was taken: the weights already sum to 1": lambda s, w: (
            (s * w[..., None]).mean((3, 4)).flatten(2)
        ),
        "the result was divided by the sum of the weights; the softmax has done that": (
            lambda s, w: (
                torch.einsum("nqmlpd,nqmlp->nqmd", s, w) / w.sum((3, 4))[..., None]
            ).flatten(2)
        ),
        "the channels of different heads are interleaved: M goes before D": lambda s, w: (
            torch.einsum("nqmlpd,nqmlp->nqdm", s, w).flatten(2)
        ),
    },
    library=(attention.aggregate,),
)


def _attention_inputs(sizes: dict[str, tuple]) -> Cases:
    """Inputs of `ms_deform_attn` for sizes (N, Lq, M, [(H, W), ...], P, D).

    The locations are spread over the map and a third of it beyond each border; of several points of
    a head on a level, the last one has an x exactly on a border.
    """
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (n, q, m, shapes, p, d) in sizes.items():
        tokens = sum(height * width for height, width in shapes)
        value = torch.randn(n, tokens, m, d, generator=generator, dtype=torch.float64)
        points = (n, q, m, len(shapes), p)
        locations = torch.rand(*points, 2, generator=generator, dtype=torch.float64) * 5 / 3 - 1 / 3
        if p > 1:
            locations[..., -1, 0] = locations[..., -1, 0].round().clamp(0, 1)
        weights = torch.rand(points, generator=generator, dtype=torch.float64)
        cases[name] = value, shapes, locations, weights / weights.sum((-1, -2), keepdim=True)
    return cases


def my_naive_attention(value, spatial_shapes, locations, weights):
    """value (N,S,M,D), [(H,W),...], locations (N,Lq,M,L,P,2), weights (N,Lq,M,L,P) -> (N,Lq,M*D)"""
    output = torch.zeros(*locations.shape[:3], value.shape[-1], dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        maps = value[:, start : start + height * width].unflatten(1, (height, width))
        start += height * width
        for n, q, m, p in np.ndindex(*weights[:, :, :, level].shape):
            sample = bilinear_sample(maps[n, :, :, m], *locations[n, q, m, level, p])
            output[n, q, m] += weights[n, q, m, level, p] * sample
    return output.flatten(2)


def _few_points() -> Cases:
    return _attention_inputs(
        {
            "one query, one head, one level": (1, 1, 1, [(3, 4)], 2, 1),
            "two levels": (1, 1, 1, [(5, 3), (2, 4)], 3, 6),
            "several heads": (1, 1, 3, [(4, 6)], 4, 5),
            "several queries": (1, 4, 1, [(2, 5)], 3, 2),
            "several images": (4, 2, 1, [(6, 5)], 1, 3),
            "all axes at once": (2, 3, 5, [(4, 2), (1, 3), (2, 1), (3, 5)], 1, 7),
            "maps of one row, one column and one pixel": (1, 2, 4, [(1, 6), (5, 1), (1, 1)], 2, 8),
            "one channel": (3, 1, 2, [(3, 7), (4, 2)], 4, 1),
        }
    )


_ATTENTION_MISTAKES = {
    "every level was read from the first token on; a level starts where the one before ends": (
        attention_by(start_of_level=lambda spatial_shapes, level: 0)
    ),
    "a map was laid out as (W, H); the tokens of a level go row by row: (H, W)": attention_by(
        maps=lambda tokens, height, width: maps_of(tokens, width, height)
    ),
    "x and y are swapped": attention_by(grid=lambda locations: 2 * fold(locations).flip(-1) - 1),
    "the weights are missing": attention_by(weigh=lambda weights: fold(torch.ones_like(weights))),
    "the sum starts again on each level; levels are summed": attention_by(
        add=lambda total, summand: summand
    ),
    "the heads were summed; they stand side by side": after(lambda heads: heads.sum(2)),
    "the heads were summed and repeated; they stand side by side": after(
        lambda heads: heads.sum(2, keepdim=True).expand_as(heads).flatten(2)
    ),
    "the channels of different heads are interleaved: M goes before D": after(
        lambda heads: heads.transpose(2, 3).flatten(2)
    ),
    "all heads read the channels of head 0": with_inputs(
        lambda value, *others: (value[:, :, :1].expand_as(value), *others)
    ),
    "all heads sample at the locations of head 0": with_inputs(
        lambda value, shapes, locations, weights: (
            value,
            shapes,
            locations[:, :, :1].expand_as(locations),
            weights,
        )
    ),
    "locations outside [0, 1] were clamped; beyond the border there are zeros": with_inputs(
        lambda value, shapes, locations, weights: (value, shapes, locations.clamp(0, 1), weights)
    ),
    "the softmax was applied again; the weights have been through it": with_inputs(
        lambda value, shapes, locations, weights: (
            value,
            shapes,
            locations,
            weights.flatten(-2).softmax(-1).view_as(weights),
        )
    ),
    "the mean over the points was taken: the weights already sum to 1": attention_by(
        reduce=lambda weighted: weighted.mean(-1)
    ),
}

naive_attention = Exercise(
    my_naive_attention,
    _few_points,
    {
        **_ATTENTION_MISTAKES,
        "only the last point of a level counts; points are summed": attention_by(
            reduce=lambda weighted: weighted[..., -1]
        ),
        "each sample replaced the one before; it is added to what the head has so far": (
            attention_by(reduce=lambda weighted: weighted[..., -1], add=lambda total, last: last)
        ),
        "all images read the tokens of the first": with_inputs(
            lambda value, *others: (value[:1].expand_as(value), *others)
        ),
        "pixels were handed to bilinear_sample, which takes (x, y) from 0 to 1": with_inputs(
            lambda value, shapes, locations, weights: (
                value,
                shapes,
                locations * torch.tensor([(w, h) for h, w in shapes])[:, None] - 0.5,
                weights,
            )
        ),
    },
    library=(ms_deform_attn_naive,),
)


def my_grid_sample_attention(value, spatial_shapes, locations, weights):
    """value (N,S,M,D), [(H,W),...], locations (N,Lq,M,L,P,2), weights (N,Lq,M,L,P) -> (N,Lq,M*D)"""
    n_images, _, n_heads, _ = value.shape
    start, per_level = 0, []
    for level, (height, width) in enumerate(spatial_shapes):
        tokens = value[:, start : start + height * width]  # (N, H*W, M, D)
        start += height * width
        maps = tokens.permute(0, 2, 3, 1).reshape(n_images * n_heads, -1, height, width)
        grid = locations[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (N*M, Lq, P, 2)
        samples = F.grid_sample(maps, 2 * grid - 1, align_corners=False)  # (N*M, D, Lq, P)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (N*M, Lq, P)
        per_level.append((samples * weight[:, None]).sum(-1))  # (N*M, D, Lq)
    heads = torch.stack(per_level).sum(0).unflatten(0, (n_images, n_heads))  # (N, M, D, Lq)
    return heads.permute(0, 3, 1, 2).flatten(2)


def _many_points() -> Cases:
    return _attention_inputs(
        {
            "one query, one head, one level": (1, 1, 1, [(3, 4)], 2, 1),
            "several heads": (1, 2, 3, [(6, 4)], 7, 5),
            "several images": (5, 4, 1, [(2, 7)], 3, 6),
            "six different primes": (2, 11, 5, [(8, 6), (4, 9), (3, 1)], 7, 13),
            "more heads than queries": (3, 2, 7, [(4, 5), (1, 3)], 1, 4),
            "five levels": (2, 3, 4, [(9, 7), (5, 6), (3, 4), (2, 3), (1, 2)], 6, 8),
            "maps of one row, one column and one pixel": (4, 7, 2, [(1, 6), (5, 1), (1, 1)], 5, 9),
            "one channel": (3, 5, 6, [(7, 3), (2, 5)], 4, 1),
        }
    )


grid_sample_attention = Exercise(
    my_grid_sample_attention,
    _many_points,
    {
        **_ATTENTION_MISTAKES,
        "the grid runs from 0 to 1; that of grid_sample runs from -1 to 1": attention_by(grid=fold),
        "align_corners is True: -1 and 1 are the borders of the map, not the outermost centres": (
            attention_by(align_corners=True)
        ),
        "the outermost pixels were repeated; beyond the border there are zeros": attention_by(
            padding_mode="border"
        ),
        "the nearest pixel was taken; bilinear is meant": attention_by(mode="nearest"),
        "the tokens were reshaped into maps without moving the heads forward first": attention_by(
            maps=lambda tokens, height, width: tokens.reshape(
                tokens.shape[0] * tokens.shape[2], tokens.shape[3], height, width
            )
        ),
        "the batch axis of the maps has the heads first, that of the grid the images": attention_by(
            maps=lambda tokens, height, width: (
                tokens.permute(2, 0, 3, 1).flatten(0, 1).unflatten(-1, (height, width))
            )
        ),
        "the locations were reshaped to N*M without moving the heads before the queries": (
            attention_by(grid=lambda locations: 2 * fold_wrongly(locations) - 1)
        ),
        "the weights were reshaped to N*M without moving the heads before the queries": (
            attention_by(weigh=fold_wrongly)
        ),
        "the output was reshaped without moving the queries before the heads": attention_by(
            join=lambda heads: heads.reshape(heads.shape[0], heads.shape[3], -1)
        ),
    },
    library=(ms_deform_attn_grid_sample,),
)
