"""The lessons' exercises, each a check: `check.initial_offsets(your_function)`.

An entry holds the arguments to try an answer on, and the mistakes to recognise.
"""

import math

import torch
from scipy.optimize import linear_sum_assignment

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.mistakes import (
    cheapest_pair_first,
    focal,
    located_by,
    one_after_another,
    read,
    read_if_inside,
    read_mirrored,
    sampled_by,
    slope_without_half,
    star,
    tokens_rounded_by,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- lesson 00


count_tokens = Exercise(
    "(height, width) -> int",
    solutions.count_tokens,
    lambda seed: ((800, 1200), (801, 1201), (192, 224), (97, 203), (640, 427))[seed],
    {
        "sizes were rounded down; strides round up": tokens_rounded_by(math.floor),
        "sizes were rounded to the nearest; strides round up": tokens_rounded_by(round),
        "sizes were not rounded at all; a map has whole rows and columns": tokens_rounded_by(float),
        "1 was added to sizes that divide evenly; there is nothing to round up": (
            lambda h, w: sum((h // s + 1) * (w // s + 1) for s in (8, 16, 32, 64))
        ),
        "the strides are 8, 16, 32 and 64, not 4, 8, 16 and 32": lambda h, w: sum(
            math.ceil(h / s) * math.ceil(w / s) for s in (4, 8, 16, 32)
        ),
        "the level of stride 64 is missing": lambda h, w: (
            solutions.count_tokens(h, w) - math.ceil(h / 64) * math.ceil(w / 64)
        ),
    },
)


# --- lesson 03


def _map_and_place(seed: int) -> tuple:
    g = generator(seed)
    height, width = ((3, 5), (7, 4), (2, 3), (5, 5), (3, 7))[seed]
    feature_map = torch.randn(height, width, 3, generator=g, dtype=torch.float64)
    x, y = torch.rand(2, generator=g, dtype=torch.float64).tolist()
    if seed == 1:  # a little beyond the lower right corner
        x, y = 1.04, 1.02
    elif seed == 2:  # a little beyond the upper left corner
        x, y = -0.05, -0.1
    elif seed == 3:  # exactly on a pixel centre
        x, y = 0.5, 0.7
    elif seed == 4:  # within half a pixel of the left edge
        x = 0.02
    return feature_map, *torch.tensor([x, y], dtype=torch.float64)


bilinear_sample = Exercise(
    "(feature_map (H, W, D), x, y) -> (D,)",
    solutions.bilinear_sample,
    _map_and_place,
    {
        "half a pixel is missing: x_pixel is x * W - 0.5": sampled_by(
            lambda f, x, y, h, w: read(f, x * w, y * h)
        ),
        "align_corners: 0 and 1 were taken for the centres of the outer pixels": sampled_by(
            lambda f, x, y, h, w: read(f, x * (w - 1), y * (h - 1))
        ),
        "x and y are swapped": sampled_by(lambda f, x, y, h, w: read(f, y * w - 0.5, x * h - 0.5)),
        "height and width are swapped: x goes with W, y with H": sampled_by(
            lambda f, x, y, h, w: read(f, x * h - 0.5, y * w - 0.5)
        ),
        "the border was repeated; beyond the map there are zeros": sampled_by(
            lambda f, x, y, h, w: read(f, x * w - 0.5, y * h - 0.5, border="repeat")
        ),
        "beyond the border one wrapped around to the other side (a negative index?)": sampled_by(
            lambda f, x, y, h, w: read(f, x * w - 0.5, y * h - 0.5, border="wrap")
        ),
        "places outside [0, 1] were moved to the border; they fade into the zeros": sampled_by(
            lambda f, x, y, h, w: read(f, min(max(x, 0), 1) * w - 0.5, min(max(y, 0), 1) * h - 0.5)
        ),
        "places outside [0, 1] were given 0; a pixel may still be in reach": sampled_by(
            lambda f, x, y, h, w: read_if_inside(f, x, y)
        ),
        "int() rounds towards zero; left of the first centre you need floor": sampled_by(
            lambda f, x, y, h, w: read(f, x * w - 0.5, y * h - 0.5, floor=int)
        ),
        "the far corner is ceil(x); at a pixel centre that is the near one: use floor(x) + 1": (
            sampled_by(lambda f, x, y, h, w: read(f, x * w - 0.5, y * h - 0.5, ceil=True))
        ),
        "the nearest pixel was read; the four around it should be mixed": sampled_by(
            lambda f, x, y, h, w: read(f, math.floor(x * w), math.floor(y * h))
        ),
        "the shares are mirrored: the nearer pixel must weigh more": sampled_by(
            lambda f, x, y, h, w: read_mirrored(f, x * w - 0.5, y * h - 0.5)
        ),
    },
)


def _plane_and_place(seed: int) -> tuple:
    g = generator(seed)
    height, width = ((3, 5), (7, 4), (2, 3), (5, 6), (3, 7))[seed]
    plane = torch.randn(height, width, generator=g, dtype=torch.float64)
    # Between the outer pixel centres, so that all four corners exist.
    inside = 0.1 + 0.8 * torch.rand(2, generator=g, dtype=torch.float64)
    x = (inside[0] * (width - 1) + 0.5) / width
    y = (inside[1] * (height - 1) + 0.5) / height
    return plane, x, y


bilinear_slope = Exercise(
    "(feature_map (H, W), x, y) -> (2,), slopes along x and y",
    solutions.bilinear_slope,
    _plane_and_place,
    {
        "the chain rule of x_pixel = x * W - 0.5 is missing: a factor W (and H)": (
            lambda f, x, y: (
                solutions.bilinear_slope(f, x, y) / torch.tensor([f.shape[1], f.shape[0]])
            )
        ),
        "half a pixel is missing: x_pixel is x * W - 0.5": slope_without_half,
        "the factors W and H are swapped": lambda f, x, y: (
            solutions.bilinear_slope(f, x, y)
            * torch.tensor([f.shape[0] / f.shape[1], f.shape[1] / f.shape[0]])
        ),
        "the sign is wrong: to the right, the right corners gain": lambda f, x, y: (
            -solutions.bilinear_slope(f, x, y)
        ),
        "the two slopes are in the order (y, x); return (x, y)": lambda f, x, y: (
            solutions.bilinear_slope(f, x, y).flip(0)
        ),
    },
)


# --- lesson 04


initial_offsets = Exercise(
    "(M, L, P) -> offsets (M, L, P, 2) in pixels",
    solutions.initial_offsets,
    lambda seed: ((8, 4, 4), (5, 2, 3), (4, 3, 7), (7, 1, 2), (3, 2, 5))[seed],
    {
        "the rays end on a circle: divide each direction by its larger component": (
            lambda m, l, p: star(m, l, p, square=False)
        ),
        "the first point sits on the reference point: steps are 1, 2, 3, ...": (
            lambda m, l, p: star(m, l, p, first=0)
        ),
        "the last head repeats the first: M heads share a full turn, 2 pi / M apart": (
            lambda m, l, p: star(m, l, p, closed=True)
        ),
        "y points up; in a picture it counts downwards": (
            lambda m, l, p: star(m, l, p) * torch.tensor([1, -1])
        ),
        "x and y are swapped: a direction is (cos, sin)": lambda m, l, p: star(m, l, p, swap=True),
        "directions were given to points; they belong to heads": (
            lambda m, l, p: star(m, l, p, by_point=True)
        ),
        "all points of a ray are one step out: point p stands p + 1 steps out": (
            lambda m, l, p: star(m, l, 1).expand(m, l, p, 2)
        ),
        "all offsets are zero: that is the weight of the layer, not its bias": (
            lambda m, l, p: torch.zeros(m, l, p, 2)
        ),
    },
)


def _references_and_offsets(seed: int) -> tuple:
    g = generator(seed)
    shapes = [(7, 5), (3, 4)] if seed % 2 else [(11, 13), (5, 7), (2, 3)]
    references = torch.rand(2, 3, len(shapes), 2, generator=g, dtype=torch.float64)
    offsets = torch.randn(2, 3, 5, len(shapes), 4, 2, generator=g, dtype=torch.float64)
    return references, offsets, shapes


sampling_locations = Exercise(
    "references, offsets, shapes -> locations (N,Lq,M,L,P,2)",
    solutions.sampling_locations,
    _references_and_offsets,
    {
        "the offset was not divided by the size of its level": located_by(lambda o, h, w: o),
        "width and height are swapped: divide (dx, dy) by (W, H)": located_by(
            lambda o, h, w: o / torch.tensor([h, w])
        ),
        "x and y of the offset are swapped": located_by(
            lambda o, h, w: o.flip(-1) / torch.tensor([w, h])
        ),
        "the result is in pixels; locations are fractions of the level": lambda r, o, shapes: (
            solutions.sampling_locations(r, o, shapes)
            * torch.tensor([(w, h) for h, w in shapes])[:, None]
        ),
        "every level was divided by the size of the first": lambda r, o, shapes: (
            solutions.sampling_locations(r, o, [shapes[0]] * len(shapes))
        ),
        "the offset was subtracted": lambda r, o, shapes: solutions.sampling_locations(
            r, -o, shapes
        ),
        "the locations were clamped to [0, 1]; they may leave the picture": lambda r, o, shapes: (
            solutions.sampling_locations(r, o, shapes).clamp(0, 1)
        ),
    },
)


# --- lesson 05

attention_weights = Exercise(
    "scores (N, Lq, M, L, P) -> weights of the same shape",
    solutions.attention_weights,
    lambda seed: (torch.randn(2, 3, 5, 4, 7, generator=generator(seed), dtype=torch.float64) * 2,),
    {
        "the softmax ran over the points of each level; levels compete too": (
            lambda scores: scores.softmax(-1)
        ),
        "each level was given the same share; levels compete too": (
            lambda scores: scores.softmax(-1) / scores.shape[-2]
        ),
        "the softmax ran over the levels; points compete too": lambda scores: scores.softmax(-2),
        "the softmax ran over all heads together; each head has its own": (
            lambda scores: scores.flatten(2).softmax(-1).view_as(scores)
        ),
        "the softmax ran over the heads": lambda scores: scores.softmax(2),
        "the softmax ran over the queries": lambda scores: scores.softmax(1),
        "the scores were shared out without exp": lambda scores: (
            scores / scores.sum((-1, -2), keepdim=True)
        ),
        "the sum of exp is missing: weights must sum to 1": lambda scores: scores.exp(),
        "a sigmoid was used; the points of a head share one sum": lambda scores: scores.sigmoid(),
    },
)


# --- lesson 06


def _samples_and_weights(seed: int) -> tuple:
    g = generator(seed)
    samples = torch.randn(2, 3, 5, 4, 7, 11, generator=g, dtype=torch.float64)
    weights = torch.rand(2, 3, 5, 4, 7, generator=g, dtype=torch.float64)
    if seed == 0:  # the sum is asked for, also where weights do not sum to 1
        return samples, weights
    return samples, weights / weights.sum((-1, -2), keepdim=True)


aggregate = Exercise(
    "samples (N,Lq,M,L,P,D), weights (N,Lq,M,L,P) -> (N,Lq,M*D)",
    solutions.aggregate,
    _samples_and_weights,
    {
        "the heads were summed; they stand side by side": lambda s, w: torch.einsum(
            "nqmlpd,nqmlp->nqd", s, w
        ),
        "the heads were summed and repeated; they stand side by side": lambda s, w: torch.einsum(
            "nqmlpd,nqmlp->nqd", s, w
        ).repeat(1, 1, s.shape[2]),
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
)


# --- lesson 09


def _cost(seed: int) -> tuple:
    # Few queries for many objects, so that the first choices of several objects collide.
    n_queries, n_objects = ((7, 5), (11, 7), (5, 5), (13, 3), (6, 4))[seed]
    cost = torch.rand(n_queries, n_objects, generator=generator(seed), dtype=torch.float64)
    cost[seed % n_queries] -= 0.8  # one query that every object would like
    return (cost,)


assign = Exercise(
    "cost (Q, T) -> the query of each object, (T,)",
    solutions.assign,
    _cost,
    {
        "each object took its cheapest query; one query may then serve several objects": (
            lambda cost: cost.argmin(0)
        ),
        "the cheapest pair went first each time; a lower total exists": cheapest_pair_first,
        "the objects chose in turn; a lower total exists": one_after_another,
        "the queries are in scipy's order; that of object 0 comes first": (
            lambda cost: linear_sum_assignment(cost)[0]
        ),
        "these are the objects; the queries are asked for": (
            lambda cost: linear_sum_assignment(cost)[1]
        ),
        "the total was made as large as possible; these are costs": lambda cost: solutions.assign(
            -cost
        ),
    },
)


def _logits(seed: int) -> tuple:
    g = generator(seed)
    logits = torch.randn(3, 11, 5, generator=g, dtype=torch.float64) * 2
    is_object = torch.rand(3, 11, 5, generator=g) < 0.1
    return logits, is_object, int(is_object.sum()) + seed + 2


focal_loss = Exercise(
    "(logits, is_object, n_objects) -> a number",
    solutions.focal_loss,
    _logits,
    {
        "alpha is on the wrong side: 0.25 belongs to the objects": focal(alpha=0.75),
        "gamma is missing: easy answers must count less": focal(gamma=0),
        "gamma is 1; it should be 2": focal(gamma=1),
        "alpha is missing: 0.25 for objects, 0.75 for the rest": lambda logits, o, n: (
            2 * focal(alpha=0.5)(logits, o, n)
        ),
        "the minus sign is missing": lambda logits, o, n: -focal()(logits, o, n),
        "p and 1 - p are swapped in the factors: a sure answer must count less": (
            focal(mirrored=True)
        ),
        "alpha and gamma are both missing: this is plain cross entropy": lambda logits, o, n: (
            2 * focal(alpha=0.5, gamma=0)(logits, o, n)
        ),
        "the sum was divided by the matched entries; divide by n_objects": lambda logits, o, n: (
            focal()(logits, o, int(o.sum()))
        ),
        "the mean over all answers was taken; divide the sum by the number of objects": (
            lambda logits, o, n: focal(divide=False)(logits, o, n) / logits.numel()
        ),
        "the sum was not divided by the number of objects": focal(divide=False),
        "only the objects were counted; the rest must learn to say no": lambda logits, o, n: (
            focal()(torch.where(o, logits, -math.inf).clamp(min=-1e4), o, n)
        ),
    },
)
