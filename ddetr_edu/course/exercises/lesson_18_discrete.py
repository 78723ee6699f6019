"""The exercise of lesson 18 about discrete sampling: attention that reads nearest pixels."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention.discrete import ms_deform_attn_discrete
from ddetr_edu.attention.grid_sample import ms_deform_attn_grid_sample
from ddetr_edu.course.exercise import Cases, Exercise


def my_discrete_attention(value, spatial_shapes, locations, weights):
    """(value (N, S, M, D), shapes, locations (N, Lq, M, L, P, 2), weights) -> (N, Lq, M*D)"""
    n_images, n_queries, n_heads, _, _, _ = locations.shape
    output = torch.zeros(n_images, n_queries, n_heads, value.shape[-1], dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        column = torch.floor(locations[:, :, :, level, :, 0] * width)  # (N, Lq, M, P)
        row = torch.floor(locations[:, :, :, level, :, 1] * height)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        token = start + torch.where(inside, row * width + column, 0).long()
        weight = torch.where(inside, weights[:, :, :, level], 0)  # zero is read outside
        for n in range(n_images):
            for m in range(n_heads):
                samples = value[n, token[n, :, m], m]  # (Lq, P, D)
                output[n, :, m] += (samples * weight[n, :, m, :, None]).sum(dim=1)
        start = start + height * width
    return output.flatten(2)


def random_arguments(
    n: int, lq: int, m: int, p: int, d: int, shapes: list[tuple[int, int]], seed: int
) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Random arguments; no location comes within a tenth of a pixel of a border between pixels.

    Args:
        n: N, images.
        lq: Lq, queries.
        m: M, heads.
        p: P, points.
        d: D, channels of a head.
        shapes: (H, W) of each level.
        seed: Of the random numbers.

    Returns:
        Value, shapes, locations and weights, in fp64. Some locations lie outside.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    value = 2 * uniform(n, sum(h * w for h, w in shapes), m, d) - 1
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)[:, None]  # (L, 1, 2)
    pixels = ((1.4 * uniform(n, lq, m, len(shapes), p, 2) - 0.2) * sizes).floor()
    locations = (pixels + 0.1 + 0.8 * uniform(*pixels.shape)) / sizes
    weights = uniform(n, lq, m, len(shapes), p).flatten(-2).softmax(-1)
    return value, shapes, locations, weights.view(n, lq, m, len(shapes), p)


def _arguments() -> Cases:
    sizes: dict[str, tuple] = {  # N, Lq, M, P, D, and the levels
        "one level, wide": (1, 3, 2, 5, 4, [(2, 7)]),
        "one level, tall": (1, 4, 3, 2, 5, [(8, 3)]),
        "two levels": (2, 3, 4, 6, 1, [(4, 6), (2, 3)]),
        "three levels, several images": (3, 5, 1, 4, 2, [(5, 9), (3, 4), (1, 2)]),
        "one query, one point": (4, 1, 5, 1, 3, [(6, 5), (3, 8)]),
        "a level of one pixel": (2, 6, 3, 7, 2, [(1, 1), (3, 7)]),
        "many points": (5, 2, 2, 11, 6, [(7, 4), (2, 9), (4, 2), (1, 3)]),
    }
    cases: Cases = {}
    for seed, (name, (n, lq, m, p, d, shapes)) in enumerate(sizes.items()):
        cases[name] = random_arguments(n, lq, m, p, d, shapes, seed)
    value, shapes, locations, weights = random_arguments(1, 7, 4, 3, 7, [(3, 11)], seed=9)
    outside = locations.sign() * (1.2 + locations.abs())
    cases["all points far outside"] = value, shapes, outside, weights
    return cases


def sampled_by(change: Callable) -> Callable:
    """Right attention, with the arguments changed first.

    Args:
        change: A function (value, shapes, locations, weights) -> the same four, changed.

    Returns:
        A function of the same arguments -> (N, Lq, M*D).
    """
    return lambda *arguments: my_discrete_attention(*change(*arguments))


def indexed_by(rule: Callable) -> Callable:
    """Attention in which pixels are found by a rule of one's own.

    Args:
        rule: A function (x, y, H, W) -> index within the level, and whether the point counts. x and
            y are the locations times width and height, not rounded.

    Returns:
        A function (value, shapes, locations, weights) -> (N, Lq, M*D).
    """

    def attention(value, shapes, locations, weights):
        (n, _, m), (_, lq) = (value.shape[0], None, value.shape[2]), locations.shape[:2]
        output = torch.zeros(n, lq, m, value.shape[-1], dtype=torch.float64)
        images, heads = torch.arange(n)[:, None, None, None], torch.arange(m)[:, None]
        start = 0
        for level, (height, width) in enumerate(shapes):
            x, y = (locations[:, :, :, level] * torch.tensor([width, height])).unbind(-1)
            index, counts = rule(x, y, height, width)
            token = (start + index.where(counts, 0).long()).clamp(0, value.shape[1] - 1)
            samples = value[images, token, heads]  # (N, Lq, M, P, D)
            weight = weights[:, :, :, level].where(counts, 0)
            output += (samples * weight[..., None]).sum(3)
            start += height * width
        return output.flatten(2)

    return attention


def _within(column: Tensor, row: Tensor, height: int, width: int) -> Tensor:
    return (column >= 0) & (column < width) & (row >= 0) & (row < height)


def by_rounding(rounded: Callable) -> Callable:
    """Attention that rounds positions in its own way.

    Args:
        rounded: A function (positions in pixels) -> whole numbers.

    Returns:
        A function (value, shapes, locations, weights) -> (N, Lq, M*D).
    """

    def rule(x, y, height, width):
        column, row = rounded(x), rounded(y)
        return row * width + column, _within(column, row, height, width)

    return indexed_by(rule)


def _clamped(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = x.floor().clamp(0, width - 1), y.floor().clamp(0, height - 1)
    return row * width + column, torch.ones_like(column, dtype=torch.bool)


def _one_limit(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = x.floor(), y.floor()
    return row * width + column, _within(column, row, height, height)


def _corners(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = (x / width * (width - 1)).round(), (y / height * (height - 1)).round()
    return row * width + column, _within(column, row, height, width)


def _one_too_many(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = x.floor(), y.floor()
    return row * width + column, _within(column, row, height + 1, width + 1)


def _rows_of_height(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = x.floor(), y.floor()
    return row * height + column, _within(column, row, height, width)


def _sizes_swapped(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = (x / width * height).floor(), (y / height * width).floor()
    return row * width + column, _within(column, row, height, width)


def _renormalised(value, shapes, locations, weights):
    inside = ((locations >= 0) & (locations < 1)).all(-1)
    kept = weights.where(inside, 0)
    total = kept.sum((-1, -2), keepdim=True)
    return value, shapes, locations, kept / total.where(total > 0, 1)


def _first_level_only(value, shapes, locations, weights):
    starts = [0] * len(shapes)
    levels = [value[:, start : start + h * w] for start, (h, w) in zip(starts, shapes, strict=True)]
    padded = [
        torch.cat([level, level.new_zeros(len(level), h * w - level.shape[1], *level.shape[2:])], 1)
        for level, (h, w) in zip(levels, shapes, strict=True)
    ]
    return torch.cat(padded, dim=1), shapes, locations, weights


def _interleaved(value, shapes, locations, weights):
    heads = my_discrete_attention(value, shapes, locations, weights).unflatten(2, value.shape[2:])
    return heads.transpose(2, 3).flatten(2)


discrete_attention = Exercise(
    my_discrete_attention,
    _arguments,
    {
        "x and y are swapped: a location is (x, y), and a shape is (H, W)": sampled_by(
            lambda value, shapes, locations, weights: (value, shapes, locations.flip(-1), weights)
        ),
        "points outside read the pixel at the border; here they read zero": indexed_by(_clamped),
        "everything is read half a pixel too far right and down; pixel i covers i to i + 1": (
            by_rounding(lambda x: (x + 0.5).floor())
        ),
        "everything is read half a pixel too far left and up; pixel i covers i to i + 1": (
            by_rounding(lambda x: (x - 0.5).floor())
        ),
        "positions were rounded up; pixel i covers i to i + 1": by_rounding(
            lambda x: x.floor() + 1
        ),
        "rounding towards zero makes pixel 0 of points just outside; floor makes them -1": (
            by_rounding(torch.trunc)
        ),
        "x was multiplied by W - 1 and rounded; a location is a fraction of W pixels": indexed_by(
            _corners
        ),
        "column W or row H counts as inside; the last ones are W - 1 and H - 1": indexed_by(
            _one_too_many
        ),
        "columns and rows were compared with the same limit; a map need not be square": indexed_by(
            _one_limit
        ),
        "a row was taken to be H pixels long; it has W pixels": indexed_by(_rows_of_height),
        "x was multiplied by the height, and y by the width": indexed_by(_sizes_swapped),
        "all levels were read from the tokens of level 0": sampled_by(_first_level_only),
        "this is bilinear sampling; read one pixel for each point": ms_deform_attn_grid_sample,
        "the attention weights were left out": sampled_by(
            lambda value, shapes, locations, weights: (
                value,
                shapes,
                locations,
                torch.ones_like(weights),
            )
        ),
        "the weights of the points inside were made to sum to 1; points outside count as zeros": (
            sampled_by(_renormalised)
        ),
        "all heads read the channels of head 0": sampled_by(
            lambda value, shapes, locations, weights: (
                value[:, :, :1].expand_as(value),
                shapes,
                locations,
                weights,
            )
        ),
        "the heads are interleaved; all D channels of head 0 come first, then those of head 1": (
            _interleaved
        ),
        "all images read the tokens of image 0": sampled_by(
            lambda value, shapes, locations, weights: (
                value[:1].expand_as(value),
                shapes,
                locations,
                weights,
            )
        ),
    },
    library=(ms_deform_attn_discrete,),
)
