"""The exercises of lesson 07 about reference points: of a query, and of every token."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu import attention
from ddetr_edu.course.exercise import Cases, Exercise


def my_reference_on_levels(references, spatial_shapes):
    """(references (Lq, 2), [(H, W), ...]) -> positions in pixels (Lq, L, 2)"""
    pixels = torch.zeros(len(references), len(spatial_shapes), 2)
    for level, (height, width) in enumerate(spatial_shapes):
        pixels[:, level, 0] = references[:, 0] * width - 0.5
        pixels[:, level, 1] = references[:, 1] * height - 0.5
    return pixels


def my_encoder_reference_points(spatial_shapes):
    """[(H, W), ...] -> reference points (S, L, 2)"""
    centres = []
    for height, width in spatial_shapes:
        for row in range(height):
            for column in range(width):
                centres.append([(column + 0.5) / width, (row + 0.5) / height])
    return torch.tensor(centres)[:, None].repeat(1, len(spatial_shapes), 1)


def reference_on_levels_by(rule: Callable) -> Callable:
    """Positions on the levels by a rule of one's own.

    Args:
        rule: A function (references (Lq, 2), sizes (L, 2) as (W, H), both fp64) -> (Lq, L, 2).

    Returns:
        A function (references, shapes) -> positions in pixels.
    """

    def positions(references, shapes):
        sizes = torch.tensor(shapes, dtype=torch.float64).flip(-1)
        return rule(references.double()[:, None], sizes)

    return positions


def halved_sizes(sizes: Tensor) -> Tensor:
    """Sizes of levels as if each were exactly half as large as the one before.

    Args:
        sizes: (L, 2).

    Returns:
        (L, 2), not whole numbers.
    """
    return sizes[0] / 2 ** torch.arange(len(sizes), dtype=sizes.dtype)[:, None]


def _references_of_queries() -> Cases:
    sizes = {  # how many references, and (H, W) of each level
        "four levels": (3, [(25, 38), (13, 19), (7, 10), (4, 5)]),
        "two levels, taller than wide": (5, [(9, 4), (5, 2)]),
        "one level": (2, [(6, 11)]),
        "one reference": (1, [(12, 7), (3, 8), (2, 5)]),
        "levels of one row and of one column": (4, [(1, 9), (8, 1), (1, 1), (1, 3), (2, 1)]),
        "corners and centre of the image": (7, [(2, 3), (1, 2)]),
        "many references": (17, [(21, 3), (11, 2), (6, 1)]),
    }
    generator = torch.Generator().manual_seed(0)
    by_hand = torch.tensor([[5.5 / 16, 3.5 / 8]], dtype=torch.float64)
    cases: Cases = {"the token that was done by hand": (by_hand, [(8, 16), (4, 8), (2, 4)])}
    for name, (count, shapes) in sizes.items():
        references = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        if name.startswith("corners"):
            references[:5] = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
        cases[name] = references, shapes
    return cases


reference_on_levels = Exercise(
    my_reference_on_levels,
    _references_of_queries,
    {
        "half a pixel is missing: x_pixel is x * W - 0.5": reference_on_levels_by(
            lambda r, s: r * s
        ),
        "half a pixel was added: from a fraction to pixels it is subtracted": (
            reference_on_levels_by(lambda r, s: r * s + 0.5)
        ),
        "height and width are swapped: x goes with W, y with H": reference_on_levels_by(
            lambda r, s: r * s.flip(-1) - 0.5
        ),
        "the result is in the order (y, x); return (x, y)": reference_on_levels_by(
            lambda r, s: (r * s - 0.5).flip(-1)
        ),
        "align_corners: 0 and 1 were taken for the centres of the outer pixels": (
            reference_on_levels_by(lambda r, s: r * (s - 1))
        ),
        "the position was rounded to a whole pixel; it may lie between pixels": (
            reference_on_levels_by(lambda r, s: (r * s).floor())
        ),
        "the position was clamped to the pixel centres; near the border it lies beyond them": (
            reference_on_levels_by(lambda r, s: (r * s - 0.5).clamp(min=0).minimum(s - 1))
        ),
        "every level was given the size of the first": reference_on_levels_by(
            lambda r, s: (r * s[0] - 0.5).expand(-1, len(s), -1)
        ),
        "each level was taken for exactly half of the one before; take the sizes as given": (
            reference_on_levels_by(lambda r, s: r * halved_sizes(s) - 0.5)
        ),
    },
)


def centres_by(
    centre: Callable, order: Callable = lambda levels: levels, across: bool = False
) -> Callable:
    """Reference points of all tokens, with switches for what goes wrong.

    Args:
        centre: A function (index, count) -> positions along one axis, one for each index.
        order: Puts the levels into another order.
        across: List the tokens of a level column by column.

    Returns:
        A function (shapes) -> (S, L, 2).
    """

    def references(shapes):
        levels = []
        for height, width in shapes:
            x = centre(torch.arange(width, dtype=torch.float64), width)
            y = centre(torch.arange(height, dtype=torch.float64), height)
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H, W, 2)
            levels.append((grid.transpose(0, 1) if across else grid).flatten(0, 1))
        return torch.cat(order(levels))[:, None].repeat(1, len(shapes), 1)

    return references


def sizes_of(shapes: list[tuple[int, int]]) -> Tensor:
    """The sizes of levels in the order of coordinates.

    Args:
        shapes: (H, W) of each level.

    Returns:
        (L, 2), (W, H) of each level.
    """
    return torch.tensor(shapes, dtype=torch.float64).flip(-1)


def snap_to_pixels(shapes: list[tuple[int, int]]) -> Tensor:
    """Reference points that are moved to the nearest pixel centre of each level.

    Args:
        shapes: (H, W) of each level.

    Returns:
        (S, L, 2).
    """
    references, sizes = my_encoder_reference_points(shapes), sizes_of(shapes)
    return ((references * sizes).floor().minimum(sizes - 1) + 0.5) / sizes


def _shapes_of_levels() -> Cases:
    return {
        "two levels": ([(3, 5), (2, 4)],),
        "one level, taller than wide": ([(7, 2)],),
        "four levels": ([(6, 9), (3, 5), (2, 3), (1, 2)],),
        "one row": ([(1, 11), (4, 1), (2, 7)],),
        "one column": ([(13, 1), (5, 6)],),
        "a single token": ([(1, 1)],),
        "levels that grow": ([(2, 3), (4, 7), (8, 10), (9, 12), (10, 17)],),
        "five levels, the last three of one token": ([(5, 8), (1, 4), (1, 1), (1, 1), (1, 1)],),
    }


encoder_reference_points = Exercise(
    my_encoder_reference_points,
    _shapes_of_levels,
    {
        "half a pixel is missing: pixel i has its centre at i + 0.5": centres_by(
            lambda i, n: i / n
        ),
        "align_corners: the outer pixels' centres are not at 0 and 1": centres_by(
            lambda i, n: i / max(n - 1, 1)
        ),
        "the far edge of each pixel was taken; its centre is at i + 0.5": centres_by(
            lambda i, n: (i + 1) / n
        ),
        "the result is in pixels; divide x by W and y by H": centres_by(lambda i, n: i + 0.5),
        "x and y are swapped; return (x, y)": lambda shapes: my_encoder_reference_points(
            shapes
        ).flip(-1),
        "height and width are swapped: divide x by W and y by H": lambda shapes: torch.cat(
            [
                my_encoder_reference_points([(h, w)]) * torch.tensor([w / h, h / w])
                for h, w in shapes
            ]
        ).repeat(1, len(shapes), 1),
        "tokens were listed column by column; a level is read row by row": centres_by(
            lambda i, n: (i + 0.5) / n, across=True
        ),
        "the levels are in the wrong order; the first of the list comes first": centres_by(
            lambda i, n: (i + 0.5) / n, order=lambda levels: levels[::-1]
        ),
        "every level was divided by the size of the first": lambda shapes: torch.cat(
            [
                my_encoder_reference_points([shape]) * sizes_of([shape]) / sizes_of(shapes[:1])
                for shape in shapes
            ]
        ).repeat(1, len(shapes), 1),
        "a centre was divided by the size of each level in turn; divide by that of its own level": (
            lambda shapes: (
                my_encoder_reference_points(shapes)
                * torch.cat([sizes_of([shape]).repeat(math.prod(shape), 1) for shape in shapes])[
                    :, None
                ]
                / sizes_of(shapes)
            )
        ),
        "the reference was moved to a pixel centre of each level; it is the same on all": (
            snap_to_pixels
        ),
        "the reference was multiplied by the size of each level; it stays a fraction": (
            lambda shapes: my_encoder_reference_points(shapes) * sizes_of(shapes)
        ),
    },
    library=(attention.encoder_reference_points,),
)
