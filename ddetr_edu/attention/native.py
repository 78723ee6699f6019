"""The same attention through csrc/: C++ on the CPU, registered with `torch.library`.

The compiled library knows nothing of torch. It is called through ctypes with plain addresses; this
module makes the tensors dense, hands them over, and tells torch how the operation differentiates.
"""

import ctypes
import functools

import torch
from torch import Tensor

from ddetr_edu.attention.build import BuildError, library
from ddetr_edu.attention.locations import SpatialShapes

TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # enum Type


def ms_deform_attn_cpu(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention in C++; with 16-bit values, all arithmetic is 32-bit.

    Convention: locations are (x, y) fractions of their level, half-pixel centres, zeros outside.

    value (N, S, M, D); sampling_locations (N, Lq, M, L, P, 2); attention_weights (N, Lq, M, L, P)
    Returns: (N, Lq, M*D)
    Raises: BuildError if the kernel cannot be compiled; ValueError if value is not on the CPU.
    Source: paper, equation 3; csrc/ms_deform_attn_cpu.cpp.
    """
    if value.device.type != "cpu":
        raise ValueError(f'backend "cpu" needs tensors on the CPU, but value is on {value.device}')
    require()
    if sampling_locations.dtype != torch.float64:
        sampling_locations = sampling_locations.float()
        attention_weights = attention_weights.float()
    sides = [side for shape in spatial_shapes for side in shape]
    return torch.ops.ddetr_edu.ms_deform_attn(value, sides, sampling_locations, attention_weights)


def why_not() -> BuildError | None:
    """What keeps the kernel from running here; None if nothing does. Compiles it if need be."""
    return _start()[2]


def require() -> None:
    """Make the operation ready to be called. Raises: BuildError if it cannot be."""
    problem = why_not()
    if problem is not None:
        raise problem


def description() -> str:
    """What the library was compiled for: vector instructions and threads."""
    require()
    return _start()[0].ddetr_cpu_description().decode()


@functools.cache
def _start() -> tuple[ctypes.CDLL | None, torch.library.Library | None, BuildError | None]:
    """Compile, load and register, once per process; a failure is remembered like a success."""
    try:
        return _load(), _register(), None
    except BuildError as problem:
        return None, None, problem


def _load() -> ctypes.CDLL:
    path = library()
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        path.unlink(missing_ok=True)  # damaged in the cache: compile it once more
        try:
            loaded = ctypes.CDLL(str(library()))
        except OSError:
            raise BuildError(f"the compiled kernel cannot be loaded: {error}") from None
    address, number = ctypes.c_void_p, ctypes.c_int
    loaded.ddetr_cpu_forward.argtypes = [address, address, number, number, *[address] * 4]
    loaded.ddetr_cpu_backward.argtypes = [address, address, number, number, *[address] * 7]
    loaded.ddetr_cpu_description.restype = ctypes.c_char_p
    return loaded


def _forward(value: Tensor, sides: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    n_images, _, n_heads, channels = value.shape
    output = value.new_empty(n_images, locations.shape[1], n_heads * channels)
    status = _start()[0].ddetr_cpu_forward(
        *_arguments(value, sides, locations), value.data_ptr(), locations.data_ptr(),
        weights.data_ptr(), output.data_ptr(),
    )
    _check(status)
    return output


def _backward(
    grad: Tensor, value: Tensor, sides: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, value = grad.contiguous(), value.contiguous()
    locations, weights = locations.contiguous(), weights.contiguous()
    grad_value = torch.empty_like(value)  # the kernel writes all of it, and adds to the others
    grad_locations, grad_weights = torch.zeros_like(locations), torch.zeros_like(weights)
    status = _start()[0].ddetr_cpu_backward(
        *_arguments(value, sides, locations), grad.data_ptr(), value.data_ptr(),
        locations.data_ptr(), weights.data_ptr(), grad_value.data_ptr(),
        grad_locations.data_ptr(), grad_weights.data_ptr(),
    )
    _check(status)
    return grad_value, grad_locations, grad_weights


def _arguments(value: Tensor, sides: list[int], locations: Tensor) -> tuple:
    """What both directions begin with: the sizes, the levels, the type, the number of threads."""
    sizes = (*value.shape, locations.shape[1], *locations.shape[3:5])  # N, S, M, D, Lq, L, P
    integers = (ctypes.c_int64 * len(sizes))(*sizes)
    levels = (ctypes.c_int64 * len(sides))(*sides)
    return integers, levels, TYPES[value.dtype], torch.get_num_threads()


def _check(status: int) -> None:
    if status:
        raise MemoryError("deformable attention ran out of memory in its C++ kernel")


def _register() -> torch.library.Library:
    """Tell torch about the operation: its schema, how it runs, its shapes, its derivative.

    What is registered lasts as long as the object that is returned.
    """
    registry = torch.library.Library("ddetr_edu", "FRAGMENT")
    registry.define(
        "ms_deform_attn(Tensor value, SymInt[] sides, Tensor locations, Tensor weights) -> Tensor"
    )
    registry.define(
        "ms_deform_attn_backward(Tensor grad, Tensor value, SymInt[] sides, Tensor locations, "
        "Tensor weights) -> (Tensor, Tensor, Tensor)"
    )
    registry.impl("ms_deform_attn", _forward, "CPU")
    registry.impl("ms_deform_attn_backward", _backward, "CPU")

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
            'the C++ kernel has no second derivative; use backend="naive" for that'
        )

    name = "ddetr_edu::ms_deform_attn"
    torch.library.register_fake(name, fake, lib=registry)
    torch.library.register_fake(name + "_backward", fake_backward, lib=registry)
    torch.library.register_autograd(
        name, differentiate, setup_context=remember, lib=registry
    )
    torch.library.register_autograd(name + "_backward", no_second_derivative, lib=registry)
    return registry


# While torch.compile traces a model it must not look inside: this is plain Python that compiles
# and loads a file, and its result stays the same for the whole process. (What
# torch.compiler.assume_constant_result does, without importing the compiler for it.)
for _function in (why_not, require):
    _function._dynamo_marked_constant = True
