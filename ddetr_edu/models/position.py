"""Positions of tokens and boxes as sines and cosines: the sine embeddings."""

import math

import torch
from torch import Tensor


def sine_position(
    padding_mask: Tensor, d_model: int, shift: float = 0.5, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The sine embedding of each pixel's row and column, from high frequencies to low ones.

    Rows and columns are counted over the image without its padding and scaled to [0, 2*pi], so
    the embedding says "a third of the way down", not "row 33". The first half of the channels
    encodes y, the second x.

    Source: models/position_encoding.py of the official code.

    Args:
        padding_mask: (N, H, W) bool, True = padding; the image fills the top left corner.
        d_model: C, a multiple of 4.
        shift: Subtracted from the counts 1, 2, 3, ...: 0.5 gives the centres of the pixels, 0 their
            far edges, as in DETR.
        dtype: Of the result, float32 or float64.

    Returns:
        (N, C, H, W)
    """
    image = (~padding_mask).to(dtype)
    y, x = image.cumsum(1), image.cumsum(2)  # 1, 2, 3, ... inside the image
    y = (y - shift) / (y[:, -1:, :] + 1e-6)
    x = (x - shift) / (x[:, :, -1:] + 1e-6)
    return torch.cat([sinusoids(y, d_model), sinusoids(x, d_model)], dim=-1).permute(0, 3, 1, 2)


def sine_box_embedding(boxes: Tensor, d_model: int) -> Tensor:
    """The sine embedding of the four numbers of a box, in the order x, y, w, h.

    Source: get_proposal_pos_embed of the official deformable_transformer.py.

    Args:
        boxes: (..., 4) (cx, cy, w, h), fractions of the image.
        d_model: C, a multiple of 4.

    Returns:
        (..., 2C)
    """
    return sinusoids(boxes, d_model).flatten(-2)  # (..., 4, C/2) -> (..., 2C)


def sinusoids(x: Tensor, d_model: int) -> Tensor:
    """Sines and cosines of numbers, at C/4 wavelengths from 1 to almost 10000.

    Args:
        x: (...) in [0, 1].
        d_model: C, a multiple of 4.

    Returns:
        (..., C/2), sine and cosine of a wavelength side by side.
    """
    half = torch.arange(0, d_model // 2, 2, dtype=x.dtype, device=x.device)
    wavelength = 10000 ** (half / (d_model // 2))
    angle = (x * 2 * math.pi)[..., None] / wavelength  # (..., C/4)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (..., C/2)
