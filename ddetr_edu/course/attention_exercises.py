"""The exercises of lessons 04 to 06: offsets, locations, attention weights, aggregation."""

import torch

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.mistakes import sampling_locations_by, star


def _sizes_of_the_star() -> Cases:
    return {
        "eight heads, as in the paper": (8, 4, 4),
        "four heads: only along the axes": (4, 3, 7),
        "five heads: no ray points straight down": (5, 2, 3),
        "an odd number of heads": (7, 6, 2),
        "one head": (1, 5, 6),
        "one level": (6, 1, 5),
        "one point": (3, 7, 1),
    }


initial_offsets = Exercise(
    solutions.initial_offsets,
    _sizes_of_the_star,
    {
        "the rays end on a circle: divide each direction by its larger component": (
            lambda m, l, p: star(m, l, p, square=False)
        ),
        "the first point is at the reference point: steps are 1, 2, 3, ...": (
            lambda m, l, p: star(m, l, p, first=0)
        ),
        "the last head repeats the first: M heads share a full turn, 2 pi / M apart": (
            lambda m, l, p: star(m, l, p, closed=True)
        ),
        "y points up; in an image it points down": (
            lambda m, l, p: star(m, l, p) * torch.tensor([1, -1])
        ),
        "x and y are swapped: a direction is (cos, sin)": lambda m, l, p: star(m, l, p, swap=True),
        "directions were given to points; they belong to heads": (
            lambda m, l, p: star(m, l, p, by_point=True)
        ),
        "all points of a ray are one step out: point p is p + 1 steps out": (
            lambda m, l, p: star(m, l, 1).expand(m, l, p, 2)
        ),
        "all offsets are zero: the layer's weight is, its bias is not": (
            lambda m, l, p: torch.zeros(m, l, p, 2)
        ),
    },
)


def _references_and_offsets() -> Cases:
    # (N, Lq, M, L, P) all different in each case, one (H, W) for each level, pixels an offset spans
    sizes = {
        "three levels": ((2, 4, 5, 3, 7), [(11, 13), (5, 7), (2, 3)], 1.0),
        "two levels, taller than wide": ((3, 5, 7, 2, 4), [(17, 6), (9, 4)], 1.0),
        "one level": ((5, 3, 2, 1, 6), [(7, 12)], 1.0),
        "one image and one query": ((1, 1, 3, 4, 2), [(19, 8), (10, 4), (5, 2), (3, 1)], 1.0),
        "one head and one point": ((4, 6, 1, 5, 1), [(9, 5), (4, 3), (8, 2), (2, 7), (1, 4)], 1.0),
        "offsets that lead out of the image": ((7, 2, 4, 2, 3), [(3, 10), (2, 5)], 20.0),
        "offsets of zero": ((2, 7, 6, 2, 5), [(4, 13), (6, 5)], 0.0),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((n, lq, m, l, p), shapes, reach) in sizes.items():
        references = torch.rand(n, lq, l, 2, generator=generator, dtype=torch.float64)
        offsets = torch.randn(n, lq, m, l, p, 2, generator=generator, dtype=torch.float64)
        cases[name] = references, offsets * reach, shapes
    return cases


sampling_locations = Exercise(
    solutions.sampling_locations,
    _references_and_offsets,
    {
        "the offset was not divided by the size of its level": sampling_locations_by(
            lambda o, h, w: o
        ),
        "width and height are swapped: divide (dx, dy) by (W, H)": sampling_locations_by(
            lambda o, h, w: o / torch.tensor([h, w])
        ),
        "x and y of the offset are swapped": sampling_locations_by(
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
        "the locations were clamped to [0, 1]; they may leave the image": lambda r, o, shapes: (
            solutions.sampling_locations(r, o, shapes).clamp(0, 1)
        ),
    },
)


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
    solutions.attention_weights,
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
)


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
