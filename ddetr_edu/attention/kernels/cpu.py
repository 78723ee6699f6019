"""The same attention on the CPU: csrc/ms_deform_attn_cpu.cpp.

The compiled library knows nothing of torch. It is called through ctypes with plain addresses; this
module makes the tensors contiguous and passes them on. torch_library.py tells torch about the
operation.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention.kernels.build import BuildError, cached_library, library
from ddetr_edu.attention.kernels.checks import check_device
from ddetr_edu.attention.kernels.startup import Startup, constant_when_traced, load_or_recompile
from ddetr_edu.attention.kernels.torch_library import flatten_shapes, register_kernel
from ddetr_edu.attention.locations import SpatialShapes

Functions = dict[torch.dtype, Callable[..., int]]  # one for each type of coordinates


@dataclass
class LoadedLibrary:
    """The compiled functions."""

    forward: Functions
    backward: Functions
    description: str  # the vector instructions and threads that they were compiled for


def ms_deform_attn_cpu(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention in C++. 16-bit values are summed in fp32 and rounded once.

    Convention: locations are (x, y) fractions of their level, half-pixel centres, zeros outside.

    Source: paper, equation 3; csrc/ms_deform_attn_cpu.cpp.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).

    Raises:
        BuildError: If the kernel cannot be compiled.
        ValueError: If value is not on the CPU.
    """
    check_device("cpu", value)
    require()
    if sampling_locations.dtype != torch.float64:
        sampling_locations = sampling_locations.float()
        attention_weights = attention_weights.float()
    return torch.ops.ddetr_edu.ms_deform_attn(
        value, flatten_shapes(spatial_shapes), sampling_locations, attention_weights
    )


@constant_when_traced
def unavailable_reason() -> BuildError | None:
    """What keeps the kernel from running here; None if nothing does. Compiles it if need be."""
    return _startup.unavailable_reason()


@constant_when_traced
def require() -> None:
    """Make the operation ready to be called.

    Raises:
        BuildError: If it cannot run here.
    """
    _startup.result()


def description() -> str:
    """What the library was compiled for: vector instructions and threads.

    Raises:
        BuildError: If the kernel cannot run here.
    """
    return loaded_library().description


def loaded_library() -> LoadedLibrary:
    """The compiled functions. Compiles and loads them if need be.

    Raises:
        BuildError: If the kernel cannot run here.
    """
    return _startup.result()


def _start() -> LoadedLibrary:
    loaded = load_or_recompile(lambda: load(library()), cached=cached_library)
    register_kernel("CPU", _forward, _backward)
    return loaded


_startup = Startup(_start)


def load(path: Path) -> LoadedLibrary:
    """Load a compiled library.

    Args:
        path: The shared library.

    Returns:
        Its functions.

    Raises:
        OSError: If the file is not a shared library.
        AttributeError: If a function is missing from it.
    """
    shared = ctypes.CDLL(str(path))

    def functions(direction: str, n_tensors: int) -> Functions:
        found: Functions = {}
        for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
            function = getattr(shared, f"ddetr_cpu_{direction}_{name}")
            address = ctypes.c_void_p
            function.argtypes = [address, address, ctypes.c_int, *[address] * n_tensors]
            found[dtype] = function
        return found

    shared.ddetr_cpu_description.restype = ctypes.c_char_p
    return LoadedLibrary(
        functions("forward", 4), functions("backward", 7), shared.ddetr_cpu_description().decode()
    )


def _forward(
    value: Tensor, flat_spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    n_images, _, n_heads, channels = value.shape
    output = locations.new_empty(n_images, locations.shape[1], n_heads * channels)
    run = loaded_library().forward[locations.dtype]
    widened, locations, weights = _dense(locations.dtype, value, locations, weights)
    _check_status(
        run(
            *size_arguments(value, flat_spatial_shapes, locations),
            widened.data_ptr(),
            locations.data_ptr(),
            weights.data_ptr(),
            output.data_ptr(),
        )
    )
    return output.to(value.dtype)


def _backward(
    grad: Tensor, value: Tensor, flat_spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    run = loaded_library().backward[locations.dtype]
    grad, widened, locations, weights = _dense(locations.dtype, grad, value, locations, weights)
    grad_value, grad_locations, grad_weights = map(torch.empty_like, (widened, locations, weights))
    _check_status(
        run(
            *size_arguments(value, flat_spatial_shapes, locations),
            grad.data_ptr(),
            widened.data_ptr(),
            locations.data_ptr(),
            weights.data_ptr(),
            grad_value.data_ptr(),
            grad_locations.data_ptr(),
            grad_weights.data_ptr(),
        )
    )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _dense(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    """The tensors as the kernel reads them: contiguous, and 16-bit numbers widened."""
    return [tensor.to(dtype).contiguous() for tensor in tensors]


def size_arguments(
    value: Tensor, flat_spatial_shapes: list[int], locations: Tensor
) -> tuple[ctypes.Array, ctypes.Array, int]:
    """The first arguments of both compiled functions.

    Args:
        value: (N, S, M, D).
        flat_spatial_shapes: H, W of each level, one after the other.
        locations: (N, Lq, M, L, P, 2).

    Returns:
        The sizes N, S, M, D, Lq, L, P; the shapes of the levels; the number of threads.
    """
    sizes = (*value.shape, locations.shape[1], *locations.shape[3:5])
    integers = (ctypes.c_int64 * len(sizes))(*sizes)
    levels = (ctypes.c_int64 * len(flat_spatial_shapes))(*flat_spatial_shapes)
    return integers, levels, torch.get_num_threads()


def _check_status(status: int) -> None:
    if status:
        raise MemoryError("deformable attention ran out of memory in its C++ kernel")
