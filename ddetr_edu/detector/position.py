"""Where a token stands, written as sines: the position embedding of the encoder."""

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
    dtype:        float32 or float64
    Returns:      (N, C, H, W), C = d_model (a multiple of 4)
    Source: models/position_encoding.py of the official code.
    """
    picture = (~padding_mask).to(dtype)
    y, x = picture.cumsum(1), picture.cumsum(2)  # 1, 2, 3, ... inside the picture
    y = (y - shift) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x - shift) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    half = torch.arange(0, d_model // 2, 2, device=padding_mask.device, dtype=dtype)  # C/4 waves
    period = 10000 ** (half / (d_model // 2))

    def waves(place: Tensor) -> Tensor:
        angle = place[..., None] / period  # (N, H, W, C/4)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (N, H, W, C/2)

    return torch.cat([waves(y), waves(x)], dim=-1).permute(0, 3, 1, 2)  # (N, C, H, W)
