"""Step 1 of 5, O: where to sample, relative to the reference point.

A linear layer maps each query to one (dx, dy) for every head, level and point. Its weight starts
at zero, so at first the offsets are its bias alone, the same for every query: a star. Training
then adapts the star to each query. Lesson 04 is about this module.
"""

import math

import torch
from torch import Tensor, nn


def initial_offsets(n_heads: int, n_levels: int, n_points: int) -> Tensor:
    """The star that sampling offsets start from: one ray per head, one step per point.

    Head m points in the direction of angle 2*pi*m/M. Dividing the direction by its larger
    component puts the ends of the rays on a square: with 8 heads every offset is a whole number of
    pixels, and the diagonal heads reach sqrt(2) times as far. Point p lies p + 1 steps out.

    Convention: last axis (dx, dy), x to the right, y down, in pixels of the point's own level.

    Source: ms_deform_attn.py of the official code, `_reset_parameters`.

    Args:
        n_heads: M.
        n_levels: L.
        n_points: P.

    Returns:
        (M, L, P, 2), the same for every level.
    """
    angles = torch.arange(n_heads) * (2 * math.pi / n_heads)
    direction = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (M, 2)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    steps = torch.arange(1, n_points + 1)
    star = direction[:, None, None, :] * steps[None, None, :, None]  # (M, 1, P, 2)
    return star.repeat(1, n_levels, 1, 1)  # (M, L, P, 2)


def reset_sampling_offsets(linear: nn.Linear, n_heads: int, n_levels: int, n_points: int) -> None:
    """Initialise the offset layer: weight 0, bias the star of `initial_offsets`.

    Args:
        linear: C -> M*L*P*2, its output ordered (head, level, point, xy).
        n_heads: M.
        n_levels: L.
        n_points: P.
    """
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias.copy_(initial_offsets(n_heads, n_levels, n_points).flatten())
