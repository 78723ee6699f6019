"""Deformable attention in a model of your own, which has nothing to do with detection.

    uv run python examples/attention_in_your_model.py

A block that lets each pixel of two feature maps read a few points of both.
"""

import torch
from torch import nn

import ddetr_edu as dd
from ddetr_edu.attention import encoder_reference_points


class Block(nn.Module):
    def __init__(self, channels: int = 64):
        super().__init__()
        self.attention = dd.MSDeformAttn(channels, n_levels=2, n_heads=4, n_points=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        shapes = [(m.shape[2], m.shape[3]) for m in maps]  # (H, W) of each level
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (N, S, C)
        whole = torch.ones(len(tokens), len(shapes), 2)  # nothing of a map is padding
        references = encoder_reference_points(shapes, whole)  # (N, S, L, 2)
        return self.norm(tokens + self.attention(tokens, references, tokens, shapes))


maps = [torch.rand(2, 64, 20, 28), torch.rand(2, 64, 10, 14)]
block = Block()
output = block(maps)
output.square().mean().backward()
print(f"560 + 140 tokens in, {tuple(output.shape)} out")
