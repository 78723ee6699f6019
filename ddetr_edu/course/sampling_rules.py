"""Other rules for reading a map, tried inside a trained model, or on a map of one's own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.attention.discrete import ms_deform_attn_discrete
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.op import IMPLEMENTATIONS


@contextmanager
def sampling_by(rule: Callable, *parts: nn.Module) -> Iterator[None]:
    """Let the deformable attention in parts of a model sample by another rule inside a block.

    Args:
        rule: Called as `ms_deform_attn_discrete` is.
        *parts: Such as a model, its encoder or its decoder.
    """
    layers = [m for part in parts for m in part.modules() if isinstance(m, MSDeformAttn)]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(IMPLEMENTATIONS, discrete=rule))
        for layer in layers:
            stack.enter_context(mock.patch.object(layer, "backend", "discrete"))
        yield


def half_a_pixel_off(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Discrete sampling as in RT-DETRv2: column floor(x * W + 1/2), clamped to the map.

    Its limits are those of Hugging Face's version: W - 1 for columns and H - 1 for rows.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).
    """
    sizes = torch.tensor([(w, h) for h, w in spatial_shapes])[:, None].to(value.device)  # (L, 1, 2)
    pixels = (sampling_locations * sizes + 0.5).floor()
    pixels = torch.minimum(pixels.clamp(min=0), sizes - 1)
    centres = (pixels + 0.5) / sizes
    return ms_deform_attn_discrete(value, spatial_shapes, centres, attention_weights)


def read_grid(
    rule: Callable, feature_map: Tensor, margin: float = 0.25, points_per_side: int = 60
) -> Tensor:
    """What a rule reads at a grid of locations over a map and around it.

    Args:
        rule: Called as `ms_deform_attn_discrete` is.
        feature_map: (H, W).
        margin: How far the grid extends beyond each side, as a fraction of the map.
        points_per_side: The number of rows and of columns of the grid.

    Returns:
        (points_per_side, points_per_side), rows downwards.
    """
    height, width = feature_map.shape
    steps = (torch.arange(points_per_side) + 0.5) / points_per_side * (1 + 2 * margin) - margin
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    locations = torch.stack([x, y], dim=-1).view(1, -1, 1, 1, 1, 2)  # a query for each location
    value = feature_map.float().reshape(1, -1, 1, 1)
    read = rule(value, [(height, width)], locations, torch.ones(locations.shape[:-1]))
    return read.view(points_per_side, points_per_side)
