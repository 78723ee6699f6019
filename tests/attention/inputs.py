"""Inputs in which no two axes have the same length and no level is square."""

import torch

SHAPES = [(7, 5), (3, 4)]  # H > W on one level, W > H on the other
N, LQ, M, D, P = 2, 3, 5, 7, 11
S = sum(h * w for h, w in SHAPES)

KINDS = ("inside", "border", "outside", "whole")


def draw(kind: str, dtype=torch.float64, seed: int = 0):
    """value, shapes, locations, weights; locations inside, on the border, outside, or whole."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(N, S, M, D, generator=generator, dtype=torch.float64)
    locations = torch.rand(N, LQ, M, len(SHAPES), P, 2, generator=generator, dtype=torch.float64)
    if kind == "border":  # within a pixel of the edge, on either side of it
        edge = (locations > 0.5).double()
        locations = edge + (locations - 0.5) * 0.3
    elif kind == "outside":
        locations = locations * 5 - 2
    elif kind == "whole":  # exactly on pixel centres, some of them beyond the border
        for level, (h, w) in enumerate(SHAPES):
            size = torch.tensor([w, h], dtype=torch.float64)
            pixel = (locations[:, :, :, level] * (size + 4) - 2).floor()
            locations[:, :, :, level] = (pixel + 0.5) / size
    weights = torch.rand(N, LQ, M, len(SHAPES), P, generator=generator, dtype=torch.float64)
    return value.to(dtype), SHAPES, locations.to(dtype), weights.to(dtype)
