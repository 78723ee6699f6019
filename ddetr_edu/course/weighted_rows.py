"""The attention as a weighted sum of rows of a table, which torch has had for years.

Every corner of every sampling point reads one row of D numbers. So the output of one query and head
is a sum of 4 L P rows of a table, each with a weight. `embedding_bag`, made for words, computes
just that, and it reads rows as they lie in memory: channels last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_edu.attention.locations import SpatialShapes


def ms_deform_attn_rows(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention by one call of `embedding_bag`.

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
    n_images, n_tokens, n_heads, channels = value.shape
    n_queries = sampling_locations.shape[1]
    rows, coefs = corner_rows(spatial_shapes, sampling_locations, attention_weights)
    output = F.embedding_bag(
        rows.reshape(n_images * n_queries * n_heads, -1),
        value.reshape(n_images * n_tokens * n_heads, channels),
        per_sample_weights=coefs.reshape(n_images * n_queries * n_heads, -1),
        mode="sum",
    )
    return output.view(n_images, n_queries, n_heads * channels)


def corner_rows(
    spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Which rows of value.view(N*S*M, D) the points read, and what each row counts.

    Args:
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2), finite.
        attention_weights: (N, Lq, M, L, P).

    Returns:
        Rows and their weights, (N, Lq, M, L, P, 4) each, the corners in the order top left, top
        right, bottom left, bottom right. A corner outside its level is row 0 with a weight of zero.
    """
    n_images, _, n_heads = sampling_locations.shape[:3]
    sides = torch.tensor(spatial_shapes)  # (L, 2)
    width, height = sides[:, 1, None], sides[:, 0, None]  # (L, 1): the same for all points
    areas = sides.prod(1)
    start = (areas.cumsum(0) - areas)[:, None]
    pixel = sampling_locations * torch.stack([width, height], dim=-1) - 0.5
    whole = pixel.floor().clamp(-2, 2**24)
    right, bottom = (pixel - whole).unbind(-1)
    left, top = whole.long().unbind(-1)
    image = torch.arange(n_images)[:, None, None, None, None]
    head = torch.arange(n_heads)[:, None, None]
    rows, coefs = [], []
    for row, weight_y in ((top, 1 - bottom), (top + 1, bottom)):
        for column, weight_x in ((left, 1 - right), (left + 1, right)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            token = image * int(areas.sum()) + start + row * width + column
            rows.append((token * n_heads + head) * inside)
            coefs.append(attention_weights * weight_y * weight_x * inside)
    return torch.stack(rows, dim=-1), torch.stack(coefs, dim=-1)
