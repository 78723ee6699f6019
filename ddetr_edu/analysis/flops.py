"""How many floating-point operations (FLOPs) a model needs: counted, not estimated.

torch's counter looks at every operation that runs. It knows matrix products and convolutions, with
two FLOPs for each multiply-add: one multiplication, one addition. Norms, activations, softmax and
sums count nothing, as is usual. Deformable attention it does not know; its formula is below.

Only shapes matter. So a model on the device "meta" will do, whose tensors have shapes and no
numbers: nothing is computed, and the count is the same on every machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddetr_edu.analysis.parts import share_out
from ddetr_edu.attention.kernels.torch_library import define
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR


def sampling_flops(
    value: Sequence[int], spatial_shapes: object, locations: object, weights: Sequence[int], **_
) -> int:
    """The FLOPs of sampling and adding up: one multiply-add for each channel of each corner.

    The weight of a corner, its bilinear weight times the attention weight, is computed once for all
    channels of a head, and not counted.

    Args:
        value: (N, S, M, D), a shape.
        spatial_shapes: Not needed.
        locations: Not needed.
        weights: (N, Lq, M, L, P), a shape.

    Returns:
        2 * 4 * N * Lq * M * L * P * D.
    """
    return 2 * 4 * math.prod(weights) * value[-1]


def sampling_backward_flops(
    grad: object,
    value: Sequence[int],
    spatial_shapes: object,
    locations: object,
    weights: Sequence[int],
    **_,
) -> int:
    """The FLOPs of the backward pass: two multiply-adds for each channel of each corner.

    One adds to the gradient of the value, the other to a scalar product, from which the gradients
    of the location and of the attention weight follow.

    Args:
        grad: Not needed.
        value: (N, S, M, D), a shape.
        spatial_shapes: Not needed.
        locations: Not needed.
        weights: (N, Lq, M, L, P), a shape.

    Returns:
        2 * 2 * 4 * N * Lq * M * L * P * D.
    """
    return 2 * sampling_flops(value, spatial_shapes, locations, weights)


def flop_counter() -> FlopCounterMode:
    """torch's counter, which knows deformable attention as well. Use it as a context manager."""
    define()  # the counter needs the operation, even if no kernel has been loaded
    return FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.ddetr_edu.ms_deform_attn: sampling_flops,
            torch.ops.ddetr_edu.ms_deform_attn_backward: sampling_backward_flops,
        },
    )


def count_flops(run: Callable[[], object]) -> int:
    """Count the FLOPs of whatever a function computes.

    Args:
        run: Takes no arguments, such as `lambda: model(images, padding_mask)`.

    Returns:
        The FLOPs; those of deformable attention only if a compiled kernel or no device computes it.
    """
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def flops_by_part(parts: Mapping[nn.Module, str], run: Callable[[], object]) -> dict[str, float]:
    """As `count_flops`, shared out between the parts of a model.

    Args:
        parts: {module: part}, such as `main_parts(model)`.
        run: A forward pass of that model.

    Returns:
        {part: FLOPs}.
    """
    with flop_counter() as counter:
        return share_out(parts, run, counter.get_total_flops)


def model_without_numbers(config: DeformableDETRConfig) -> DeformableDETR:
    """A Deformable DETR on the device "meta", in evaluation mode.

    Args:
        config: The architecture.

    Returns:
        The model, whose parameters have no numbers and take no memory.
    """
    with torch.device("meta"):
        return DeformableDETR(config).eval()


def detr_without_numbers(config: DETRConfig) -> DETR:
    """The same of a DETR.

    Args:
        config: The architecture.

    Returns:
        The model.
    """
    with torch.device("meta"):
        return DETR(config).eval()


def image_without_numbers(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The input of a model on the device "meta": one image without padding.

    Args:
        height: In pixels.
        width: In pixels.

    Returns:
        The image (1, 3, H, W) and its padding mask (1, H, W).
    """
    with torch.device("meta"):
        return torch.empty(1, 3, height, width), torch.zeros(1, height, width, dtype=torch.bool)
