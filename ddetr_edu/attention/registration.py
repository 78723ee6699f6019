"""The operation as torch knows it: one name, one derivative, an implementation for each device.

`torch.ops.ddetr_edu.ms_deform_attn(value, sides, locations, weights)` takes the levels as a flat
list of numbers, H and W in turns. It exists once a compiled kernel has been loaded.
"""

import threading
from collections.abc import Callable

import torch


def implement(device: str, forward: Callable, backward: Callable) -> None:
    """Let the operation run on a kind of device, "CPU" or "CUDA". Once per process and device."""
    with _one_at_a_time:
        if not _registries:
            _registries.append(_define())
    _registries[0].impl("ms_deform_attn", forward, device)
    _registries[0].impl("ms_deform_attn_backward", backward, device)


_registries: list[torch.library.Library] = []  # what is registered lasts as long as this object
_one_at_a_time = threading.Lock()  # an operation can be defined only once


def _define() -> torch.library.Library:
    """The schema, the shapes of the results, the derivative."""
    registry = torch.library.Library("ddetr_edu", "FRAGMENT")
    registry.define(
        "ms_deform_attn(Tensor value, SymInt[] sides, Tensor locations, Tensor weights) -> Tensor"
    )
    registry.define(
        "ms_deform_attn_backward(Tensor grad, Tensor value, SymInt[] sides, Tensor locations, "
        "Tensor weights) -> (Tensor, Tensor, Tensor)"
    )

    def fake(value, sides, locations, weights):
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    def fake_backward(grad, value, sides, locations, weights):
        return tuple(
            torch.empty_like(t, memory_format=torch.contiguous_format)
            for t in (value, locations, weights)
        )

    def remember(ctx, inputs, output):
        value, ctx.sides, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def differentiate(ctx, grad):
        value, locations, weights = ctx.saved_tensors
        grads = torch.ops.ddetr_edu.ms_deform_attn_backward(
            grad, value, ctx.sides, locations, weights
        )
        return grads[0], None, grads[1], grads[2]

    def no_second_derivative(ctx, *grads):
        raise NotImplementedError(
            'the compiled kernels have no second derivative; use backend="naive" for that'
        )

    name = "ddetr_edu::ms_deform_attn"
    torch.library.register_fake(name, fake, lib=registry)
    torch.library.register_fake(name + "_backward", fake_backward, lib=registry)
    torch.library.register_autograd(name, differentiate, setup_context=remember, lib=registry)
    torch.library.register_autograd(name + "_backward", no_second_derivative, lib=registry)
    return registry
