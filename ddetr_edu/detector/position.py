"""Where a token or a box stands, written as sines."""

import math

import torch
from torch import Tensor


def sine_position(
    padding_mask: Tensor, d_model: int, shift: float = 0.5, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sines and cosines of each pixel's row and column, from slow waves to fast ones.

    Rows and columns are counted over the picture without its padding and scaled to [0, 2*pi], so
    the embedding says "a third of the way down", not "row 33". The first half of the channels
    encodes y, the second x.

    padding_mask: (N, H, W) bool, True = padding
    shift:        0.5 counts to the centres of the pixels; DETR counts to their far edges: 0
    Returns:      (N, C, H, W) of that dtype (float32 or float64), C = d_model (a multiple of 4)
    Source: models/position_encoding.py of the official code.
    """
    picture = (~padding_mask).to(dtype)
    y, x = picture.cumsum(1), picture.cumsum(2)  # 1, 2, 3, ... inside the picture
    y = (y - shift) / (y[:, -1:, :] + 1e-6)
    x = (x - shift) / (x[:, :, -1:] + 1e-6)
    return torch.cat([waves(y, d_model), waves(x, d_model)], dim=-1).permute(0, 3, 1, 2)


def sine_boxes(boxes: Tensor, d_model: int) -> Tensor:
    """Sines and cosines of the four numbers of a box, in the order x, y, w, h.

    boxes:   (..., 4), fractions of the picture
    Returns: (..., 2C), C = d_model (a multiple of 4)
    Source: get_proposal_pos_embed of the official deformable_transformer.py.
    """
    return waves(boxes, d_model).flatten(-2)  # (..., 4, C/2) -> (..., 2C)


def waves(place: Tensor, d_model: int) -> Tensor:
    """Sines and cosines of places in [0, 1], in C/4 wave lengths: (...) -> (..., C/2)."""
    half = torch.arange(0, d_model // 2, 2, dtype=place.dtype, device=place.device)
    period = 10000 ** (half / (d_model // 2))
    angle = (place * 2 * math.pi)[..., None] / period  # (..., C/4)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (..., C/2)
