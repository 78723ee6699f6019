"""The operation as torch knows it: one name, one derivative, an implementation for each device.

`torch.ops.ddetr_edu.ms_deform_attn(value, flat_spatial_shapes, locations, weights)` takes the
shapes of the levels as one list of integers, H and W in turn, because a schema of torch has no
lists of pairs. The operation exists as soon as a compiled kernel has been loaded, or `define` has
been called.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

FORWARD = (
    "ms_deform_attn("
    "Tensor value, SymInt[] flat_spatial_shapes, Tensor locations, Tensor weights"
    ") -> Tensor"
)
BACKWARD = (
    "ms_deform_attn_backward("
    "Tensor grad, Tensor value, SymInt[] flat_spatial_shapes, Tensor locations, Tensor weights"
    ") -> (Tensor, Tensor, Tensor)"
)


def flatten_shapes(spatial_shapes: list[tuple[int, int]]) -> list[int]:
    """[(H, W), ...] as the operation takes them: [H, W, H, W, ...].

    Args:
        spatial_shapes: (H, W) of each level.

    Returns:
        A list of 2*L integers.
    """
    return [size for shape in spatial_shapes for size in shape]


def register_kernel(device: str, forward: Callable, backward: Callable) -> None:
    """Register an implementation of the operation; once per process and device.

    Args:
        device: The kind of device that it runs on, "CPU" or "CUDA".
        forward: Takes what `ms_deform_attn` takes.
        backward: Takes what `ms_deform_attn_backward` takes.
    """
    library = define()
    library.impl("ms_deform_attn", forward, device)
    library.impl("ms_deform_attn_backward", backward, device)


def ms_deform_attn_meta(
    value: Tensor, spatial_shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The operation on tensors of the device "meta", which have a shape and no numbers.

    It keeps for the backward pass what a compiled kernel keeps, and needs no compiler.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        locations: (N, Lq, M, L, P, 2).
        weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D), on the device "meta".
    """
    define()
    return torch.ops.ddetr_edu.ms_deform_attn(
        value, flatten_shapes(spatial_shapes), locations, weights
    )


def define() -> torch.library.Library:
    """Make the operation known to torch, unless it is already.

    Returns:
        The library that implementations are added to.
    """
    with _lock:
        if not _libraries:
            _libraries.append(_define())
    return _libraries[0]


_libraries: list[torch.library.Library] = []  # a registration lasts as long as this object
_lock = threading.Lock()  # an operation can be defined only once


def _define() -> torch.library.Library:
    """The schemas, the shapes of the results, and the derivative."""
    library = torch.library.Library("ddetr_edu", "FRAGMENT")
    library.define(FORWARD)
    library.define(BACKWARD)

    def fake(value, flat_spatial_shapes, locations, weights):
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    def fake_backward(grad, value, flat_spatial_shapes, locations, weights):
        return tuple(
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for tensor in (value, locations, weights)
        )

    def setup_context(ctx, inputs, output):
        value, ctx.flat_spatial_shapes, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def backward(ctx, grad):
        value, locations, weights = ctx.saved_tensors
        grads = torch.ops.ddetr_edu.ms_deform_attn_backward(
            grad, value, ctx.flat_spatial_shapes, locations, weights
        )
        return grads[0], None, grads[1], grads[2]

    def no_second_derivative(ctx, *grads):
        raise NotImplementedError(
            'the compiled kernels have no second derivative; use backend="naive" for that'
        )

    name = "ddetr_edu::ms_deform_attn"
    torch.library.register_fake(name, fake, lib=library)
    torch.library.register_fake(name + "_backward", fake_backward, lib=library)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=library)
    torch.library.register_autograd(name + "_backward", no_second_derivative, lib=library)
    return library
