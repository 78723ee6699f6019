"""The definition: multi-scale deformable attention as plain loops, one point after another.

Slow and obvious. Every other implementation is right if it agrees with this one.
"""

import torch
from torch import Tensor

from ddetr_edu.attention.interpolation import bilinear_sample
from ddetr_edu.attention.locations import SpatialShapes


def ms_deform_attn_naive(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention, point by point.

    Convention: locations are (x, y) fractions of their level, half-pixel centres, zeros outside.

    Source: paper, equation 3.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).
    """
    n_images, n_queries, n_heads, _, n_points, _ = sampling_locations.shape
    channels = value.shape[-1]
    rows = []
    for n in range(n_images):
        for q in range(n_queries):
            for m in range(n_heads):
                head = value.new_zeros(channels)
                start = 0
                for level, (height, width) in enumerate(spatial_shapes):
                    tokens = value[n, start : start + height * width, m]  # (H*W, D)
                    feature_map = tokens.unflatten(0, (height, width))  # (H, W, D)
                    start += height * width
                    for p in range(n_points):
                        x, y = sampling_locations[n, q, m, level, p]
                        weight = attention_weights[n, q, m, level, p]
                        head = head + weight * bilinear_sample(feature_map, x, y)
                rows.append(head)
    if not rows:
        return value.new_zeros(n_images, n_queries, n_heads * channels)
    return torch.cat(rows).view(n_images, n_queries, n_heads * channels)  # (N, Lq, M*D)
