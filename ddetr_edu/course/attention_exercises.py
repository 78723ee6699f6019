"""The exercises of lessons 04 to 06: offsets, locations, attention weights, aggregation."""

import torch

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.mistakes import sampling_locations_by, star

initial_offsets = Exercise(
    solutions.initial_offsets,
    lambda seed: ((8, 4, 4), (5, 2, 3), (4, 3, 7), (7, 1, 2), (3, 2, 5))[seed],
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


def _references_and_offsets(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(7, 5), (3, 4)] if seed % 2 else [(11, 13), (5, 7), (2, 3)]
    references = torch.rand(2, 3, len(shapes), 2, generator=generator, dtype=torch.float64)
    offsets = torch.randn(2, 3, 5, len(shapes), 4, 2, generator=generator, dtype=torch.float64)
    return references, offsets, shapes


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


def _scores(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 3, 5, 4, 7, generator=generator, dtype=torch.float64) * 2,)


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


def _samples_and_weights(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(2, 3, 5, 4, 7, 11, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 3, 5, 4, 7, generator=generator, dtype=torch.float64)
    if seed == 0:  # the plain sum is expected even where the weights do not sum to 1
        return samples, weights
    return samples, weights / weights.sum((-1, -2), keepdim=True)


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
