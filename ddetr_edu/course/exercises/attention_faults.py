"""Deformable attention with one thing wrong: what learners do, and what tests have to notice."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def fold(points: Tensor) -> Tensor:
    """Move the heads into the batch axis.

    Args:
        points: (N, Lq, M, ...), of one level.

    Returns:
        (N*M, Lq, ...).
    """
    return points.transpose(1, 2).flatten(0, 1)


def fold_wrongly(points: Tensor) -> Tensor:
    """The same shape as `fold` gives, but with the heads still behind the queries in memory.

    Args:
        points: (N, Lq, M, ...), of one level.

    Returns:
        (N*M, Lq, ...).
    """
    n_images, n_queries, n_heads = points.shape[:3]
    return points.reshape(n_images * n_heads, n_queries, *points.shape[3:])


def maps_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """The map of each image and head.

    Args:
        tokens: (N, H*W, M, D), of one level.
        height: H.
        width: W.

    Returns:
        (N*M, D, H, W).
    """
    return fold(tokens).transpose(1, 2).unflatten(-1, (height, width))


def side_by_side(heads: Tensor) -> Tensor:
    """The heads of each query side by side.

    Args:
        heads: (N, M, D, Lq).

    Returns:
        (N, Lq, M*D).
    """
    return heads.permute(0, 3, 1, 2).flatten(2)


def first_token(spatial_shapes: list[tuple[int, int]], level: int) -> int:
    """Where the tokens of a level start.

    Args:
        spatial_shapes: (H, W) of each level.
        level: Its number.

    Returns:
        The number of tokens of all levels before it.
    """
    return sum(height * width for height, width in spatial_shapes[:level])


def attention_by(
    maps: Callable = maps_of,
    grid: Callable = lambda locations: 2 * fold(locations) - 1,
    weigh: Callable = fold,
    join: Callable = side_by_side,
    start_of_level: Callable = first_token,
    add: Callable = lambda total, summand: total + summand,
    reduce: Callable = lambda weighted: weighted.sum(-1),
    **options,
) -> Callable:
    """Deformable attention in which each step can be replaced by another.

    Args:
        maps: The tokens of a level (N, H*W, M, D), H and W -> (N*M, D, H, W).
        grid: The locations of a level (N, Lq, M, P, 2) -> a grid (N*M, Lq, P, 2).
        weigh: The weights of a level (N, Lq, M, P) -> (N*M, Lq, P).
        join: (N, M, D, Lq) -> the output.
        start_of_level: The levels' sizes and the number of a level -> its first token.
        add: What becomes of the sum so far and the summand of a level.
        reduce: (N*M, D, Lq, P) -> (N*M, D, Lq).
        options: Of `grid_sample`.

    Returns:
        A function like `ms_deform_attn`.
    """

    def attend(value, spatial_shapes, locations, weights):
        output = value.new_zeros(())
        for level, (height, width) in enumerate(spatial_shapes):
            start = start_of_level(spatial_shapes, level)
            feature_maps = maps(value[:, start : start + height * width], height, width)
            points = grid(locations[:, :, :, level])
            samples = F.grid_sample(feature_maps, points, **{"align_corners": False, **options})
            weighted = samples * weigh(weights[:, :, :, level])[:, None]
            output = add(output, reduce(weighted))  # (N*M, D, Lq)
        return join(output.unflatten(0, (len(value), -1)))

    return attend


def after(change: Callable) -> Callable:
    """Deformable attention whose output is changed.

    Args:
        change: The output with heads and channels apart, (N, Lq, M, D) -> a new output.

    Returns:
        A function like `ms_deform_attn`.
    """
    return attention_by(join=lambda heads: change(heads.permute(0, 3, 1, 2)))


def with_inputs(change: Callable) -> Callable:
    """Deformable attention whose value, locations and weights are changed first.

    Args:
        change: (value, spatial_shapes, locations, weights) -> the new ones.

    Returns:
        A function like `ms_deform_attn`.
    """
    return lambda *arguments: attention_by()(*change(*arguments))


def with_gradient(tensor: Tensor, change: Callable) -> Tensor:
    """The same tensor, whose gradient is changed on its way back.

    Args:
        tensor: Of any shape.
        change: The gradient -> another of the same shape.

    Returns:
        The same numbers.
    """
    same = tensor.view_as(tensor)
    if same.requires_grad:
        same.register_hook(change)
    return same


def _sizes(spatial_shapes: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([(width, height) for height, width in spatial_shapes])[:, None]


def _wide_map(tokens: Tensor, height: int, width: int) -> Tensor:
    return maps_of(tokens, width, height)


def _images_interleaved(heads: Tensor) -> Tensor:
    """(N, Lq, M, D), in which the queries of the images take turns."""
    return heads.transpose(0, 1).reshape(heads.shape).flatten(2)


def _one_for_all_channels(grad_output: Tensor) -> Tensor:
    """Every channel of a head gets the gradient of the first."""
    return grad_output[..., :1].expand_as(grad_output)


# Three change what is read, two the order of the output, one adds a constant to it, and three leave
# the output right and change the gradients.
FAULTS = {
    "x and y swapped": attention_by(grid=lambda locations: 2 * fold(locations).flip(-1) - 1),
    "maps laid out as (W, H)": attention_by(maps=_wide_map),
    "outermost pixels repeated outside": attention_by(padding_mode="border"),
    "heads and channels interleaved": after(lambda heads: heads.transpose(2, 3).flatten(2)),
    "queries of the images interleaved": after(_images_interleaved),
    "the sum does not start at zero": after(lambda heads: heads.flatten(2) + 0.125),
    "no gradient for the locations": with_inputs(
        lambda value, shapes, locations, weights: (value, shapes, locations.detach(), weights)
    ),
    "their gradient lacks W and H": with_inputs(
        lambda value, shapes, locations, weights: (
            value,
            shapes,
            with_gradient(locations, lambda grad: grad / _sizes(shapes)),
            weights,
        )
    ),
    "channel 0's gradient for all of them": after(
        lambda heads: with_gradient(heads, _one_for_all_channels).flatten(2)
    ),
}
