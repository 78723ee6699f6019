"""Discrete sampling: the nearest pixel instead of a weighted mean of four.

This is another operation than that of `naive` and its likes, under the same signature. It needs
nothing but indexing, where bilinear sampling needs `grid_sample` or a kernel. But a nearest pixel
does not change when a location moves a little, so locations have no gradient, and a model cannot
learn where to look: train it with bilinear sampling first. Lesson 18 is about this module.
"""

import torch
from torch import Tensor

from ddetr_edu.attention.locations import SpatialShapes


def ms_deform_attn_discrete(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention that reads the pixel in which each location lies.

    Convention: locations are (x, y) fractions of their level; pixel i covers [i, i + 1), so a
    location lies in column floor(x * W); zeros outside. At pixel centres it is the same as bilinear
    sampling. RT-DETRv2's discrete sampling reads column floor(x * W + 1/2) instead, and outside the
    map the pixel at the border.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2); they get no gradient.
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).
    """
    device = value.device
    images = torch.arange(value.shape[0], device=device)[:, None, None, None, None]
    heads = torch.arange(value.shape[2], device=device)[:, None, None]
    heights, widths = torch.tensor(spatial_shapes, device=device).T[..., None]  # (L, 1) each
    starts = (heights * widths).cumsum(0) - heights * widths  # the first token of each level
    x, y = sampling_locations.detach().unbind(-1)  # (N, Lq, M, L, P) each
    column, row = (x * widths).floor(), (y * heights).floor()
    inside = (column >= 0) & (column < widths) & (row >= 0) & (row < heights)  # NaN is not
    tokens = starts + (row * widths + column).where(inside, 0).long()
    samples = value[images, tokens, heads]  # (N, Lq, M, L, P, D)
    weights = attention_weights.where(inside, 0)[..., None]
    return (samples * weights).sum((3, 4)).flatten(2).to(value.dtype)
