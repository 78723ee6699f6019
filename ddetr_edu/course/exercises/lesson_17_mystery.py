"""The exercise of lesson 17 about unknown attentions: find out by experiments what each one does.

Whoever is about to do it should not read on: the versions and their peculiarities are named below.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddetr_edu.attention import sampling_locations
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.exercises.attention_faults import attention_by, fold

HEADS, LEVELS, POINTS, CHANNELS = 2, 2, 3, 4  # M, L, P and C; a head has two channels
Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class Peculiarity:
    """Something in which an attention differs from that of the course."""

    means: str  # what is different
    shows: str  # what an experiment would find
    query: Callable = lambda query: query  # (1, Lq, C) -> what offsets and scores are made of
    locations: Callable = lambda locations: locations  # (1, Lq, M, L, P, 2) -> the same
    shapes: Callable = lambda shapes: shapes  # the sizes by which offsets are divided
    weights: Callable = lambda scores: scores.flatten(-2).softmax(-1).view_as(scores)
    keys: bool = False  # whether scores also depend on what is read
    attention: dict = field(default_factory=dict)  # arguments of `attention_by`


def _over_all_heads(scores: Tensor) -> Tensor:
    return scores.flatten(2).softmax(-1).view_as(scores)


PECULIARITIES = {
    "nothing": Peculiarity(
        "nothing: it is the attention of this course",
        "then no experiment would find anything, and one of those for the other words does",
    ),
    "keys": Peculiarity(
        "the scores also depend on the values that are read",
        "then three times the value would not give three times the output",
        keys=True,
    ),
    "neighbours": Peculiarity(
        "what a query gets also depends on the other queries",
        "then changing one query would change the output of another",
        query=lambda query: query + query.mean(1, keepdim=True),
    ),
    "all heads": Peculiarity(
        "one softmax runs over all heads",
        "then a value of ones would give less than 1 everywhere, and 1 for both heads together",
        weights=_over_all_heads,
    ),
    "each level": Peculiarity(
        "each level has a softmax of its own",
        "then a value of ones would give 2, the number of levels, far from the border",
        weights=lambda scores: scores.softmax(-1),
    ),
    "sigmoid": Peculiarity(
        "each weight is the sigmoid of its score",
        "then a value of ones would give other numbers for other queries",
        weights=lambda scores: scores.sigmoid(),
    ),
    "H and W": Peculiarity(
        "offsets are divided by (H, W)",
        "then, with the column as the value, making both maps higher would move what is read in x",
        shapes=lambda shapes: [(width, height) for height, width in shapes],
    ),
    "clamp": Peculiarity(
        "locations are clamped to [0, 1]",
        "then a reference point far beyond a corner would still read a quarter of the corner pixel",
        locations=lambda locations: locations.clamp(0, 1),
    ),
    "border": Peculiarity(
        "the outermost pixels are repeated outside the map",
        "then a reference point far outside would read ones in a value of ones",
        attention={"padding_mode": "border"},
    ),
    "nearest": Peculiarity(
        "the nearest pixel is read, without interpolation",
        "then the output would stay the same for a while as the reference point moves, and jump",
        attention={"mode": "nearest"},
    ),
    "x and y": Peculiarity(
        "x and y of the locations are swapped when reading",
        "then a reference point in the upper right corner would read what is in the lower left",
        attention={"grid": lambda locations: 2 * fold(locations).flip(-1) - 1},
    ),
    "one level": Peculiarity(
        "level 1 reads the tokens of level 0",
        "then changing the tokens of level 1 would have no effect",
        attention={"start_of_level": lambda shapes, level: 0},
    ),
    "same heads": Peculiarity(
        "all heads sample at the locations of head 0",
        "then the pixels that channel 0 of the output depends on would be those that channel 2"
        " depends on",
        locations=lambda locations: locations[:, :, :1].expand_as(locations),
    ),
}
VERSIONS = {
    "A": "each level",
    "B": "clamp",
    "C": "nothing",
    "D": "keys",
    "E": "neighbours",
    "F": "nearest",
}


def ask(
    version: str, query: Tensor, reference_points: Tensor, value: Tensor, shapes: Shapes
) -> Tensor:
    """Run an unknown attention once: one image, M = 2 heads, L = 2 levels, P = 3 points, C = 4.

    Its parameters are random and always the same. Value and output are not projected, so that
    channels 0 and 1 of the output are what head 0 reads from channels 0 and 1 of the value.

    Args:
        version: "A" to "F".
        query: (Lq, 4).
        reference_points: (Lq, 2) (x, y), fractions of the map, the same on both levels.
        value: (S, 4), the tokens of level 0 row by row, then those of level 1.
        shapes: [(H, W), (H, W)] of the two levels.

    Returns:
        (Lq, 4), in double precision.
    """
    return attend(PECULIARITIES[VERSIONS[version]], query, reference_points, value, shapes)


def attend(
    what: Peculiarity, query: Tensor, reference_points: Tensor, value: Tensor, shapes: Shapes
) -> Tensor:
    """An attention with a peculiarity.

    Args:
        what: The peculiarity.
        query: (Lq, 4).
        reference_points: (Lq, 2).
        value: (S, 4).
        shapes: [(H, W), (H, W)].

    Returns:
        (Lq, 4).
    """
    query, reference_points, value = (
        torch.as_tensor(given).double() for given in (query, reference_points, value)
    )
    per_point = (HEADS, LEVELS, POINTS)
    generator = torch.Generator().manual_seed(17)
    drawn = [
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((CHANNELS, 24), (24,), (CHANNELS, 12), (12,))
    ]
    to_offsets, offset_bias, to_scores, score_bias = drawn
    features = what.query(query[None])  # (1, Lq, C)
    offsets = (0.3 * features @ to_offsets + 1.2 * offset_bias).unflatten(-1, (*per_point, 2))
    scores = (features @ to_scores + score_bias).unflatten(-1, per_point)
    references = reference_points[None, :, None].expand(-1, -1, LEVELS, -1)
    locations = what.locations(sampling_locations(references, offsets, what.shapes(shapes)))
    heads = value[None].unflatten(-1, (HEADS, -1))  # (1, S, M, D)
    attention = attention_by(**what.attention)
    if what.keys:
        # Reading the points one at a time says what the key at each would be.
        for level, point in ((l, p) for l in range(LEVELS) for p in range(POINTS)):
            only = torch.zeros_like(scores)
            only[..., level, point] = 1
            read = attention(heads, shapes, locations, only).unflatten(-1, (HEADS, -1))
            scores = scores + only * read.sum(-1)[..., None, None]
    return attention(heads, shapes, locations, what.weights(scores))[0]


mystery = Choice(
    "mystery",
    VERSIONS,
    {word: each.means for word, each in PECULIARITIES.items()},
    {
        (version, word): f"{each.shows}; try this with version {version}"
        for version, right in VERSIONS.items()
        for word, each in PECULIARITIES.items()
        if word != right
    },
)
