"""The portable version: the same attention through torch's own `grid_sample`.

It runs wherever torch runs, and autograd differentiates it. `grid_sample` reads maps with the
channels first, (D, H, W), while our value is stored token by token; the transposes below are the
price of that, and the reason why a dedicated kernel can be much faster.
"""

import torch.nn.functional as F
from torch import Tensor

from ddetr_edu.attention.locations import SpatialShapes


def ms_deform_attn_grid_sample(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention, one `grid_sample` per level.

    Convention: locations are (x, y) fractions of their level, half-pixel centres, zeros outside.
    `grid_sample` counts from -1 to 1, hence 2x - 1.

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
    dtype = value.dtype
    value = value.to(sampling_locations.dtype)  # 16-bit values are sampled at fp32 coordinates
    # At -1 and below, and at 2 and above, a location reaches no pixel of any level. So clamping
    # there changes nothing; it keeps NaN and infinity out of grid_sample, which would spread them.
    grids = sampling_locations.nan_to_num(nan=-1.0).clamp(-1, 2) * 2 - 1
    output = value.new_zeros(n_images * n_heads, channels, n_queries)
    per_level = value.split([height * width for height, width in spatial_shapes], dim=1)
    for level, (height, width) in enumerate(spatial_shapes):
        feature_map = per_level[level].permute(0, 2, 3, 1)  # (N, M, D, H*W)
        feature_map = feature_map.reshape(n_images * n_heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2)  # (N, M, Lq, P, 2)
        grid = grid.reshape(n_images * n_heads, n_queries, n_points, 2)
        samples = F.grid_sample(
            feature_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )  # (N*M, D, Lq, P)
        weights = attention_weights[:, :, :, level].transpose(1, 2)  # (N, M, Lq, P)
        weights = weights.reshape(n_images * n_heads, 1, n_queries, n_points)
        output = output + (samples * weights).sum(-1)
    output = output.view(n_images, n_heads * channels, n_queries)  # heads are concatenated
    return output.transpose(1, 2).contiguous().to(dtype)  # (N, Lq, M*D)
