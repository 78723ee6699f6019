"""`capture`: look at what every attention of a model did, without changing the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.module import MSDeformAttn


@dataclass
class AttentionRecord:
    """What one deformable attention did in one forward pass. Tensors are detached."""

    name: str  # where the attention sits in the model, e.g. "decoder.layers.2.cross_attn"
    spatial_shapes: SpatialShapes
    reference_points: Tensor  # (N, Lq, L, 2 or 4)
    offsets: Tensor  # (N, Lq, M, L, P, 2), in pixels of the level
    locations: Tensor  # (N, Lq, M, L, P, 2), fractions of the level
    weights: Tensor  # (N, Lq, M, L, P)


@contextmanager
def capture(model: nn.Module) -> Iterator[list[AttentionRecord]]:
    """Record every MSDeformAttn that runs inside the `with` block, in the order they run.

        with capture(model) as records:
            model(images, padding_mask)

    The hooks are removed when the block ends, also by an exception.

    Raises: ValueError if the model contains no MSDeformAttn.
    """
    attentions = [(n, m) for n, m in model.named_modules() if isinstance(m, MSDeformAttn)]
    if not attentions:
        raise ValueError(
            f"{type(model).__name__} contains no MSDeformAttn, so there is nothing to capture"
        )
    records: list[AttentionRecord] = []
    names = {module: name for name, module in attentions}

    def remember(module, args, kwargs, output):
        given = signature(module.forward).bind(*args, **kwargs).arguments
        reference_points, spatial_shapes = given["reference_points"], given["spatial_shapes"]
        with torch.no_grad():
            offsets, locations, weights = module.look(
                given["query"], reference_points, spatial_shapes
            )
        records.append(
            AttentionRecord(
                names[module],
                spatial_shapes,
                reference_points.detach(),
                offsets,
                locations,
                weights,
            )
        )

    handles = [m.register_forward_hook(remember, with_kwargs=True) for _, m in attentions]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
