"""The same attention through csrc/: C++ on the CPU.

The compiled library knows nothing of torch. It is called through ctypes with plain addresses; this
module makes the tensors dense and hands them over. What torch must know is in registration.py.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention.build import BuildError, library
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.registration import implement


@dataclass
class Kernel:
    """The compiled functions, one for each type of coordinates, and what they were compiled for."""

    forward: dict[torch.dtype, Callable[..., int]]
    backward: dict[torch.dtype, Callable[..., int]]
    description: str


def ms_deform_attn_cpu(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention in C++. 16-bit values are summed in 32 bits, rounded once.

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
    return _start()[1]


def require() -> None:
    """Make the operation ready to be called. Raises: BuildError if it cannot be."""
    problem = why_not()
    if problem is not None:
        raise problem


def description() -> str:
    """What the library was compiled for: vector instructions and threads."""
    require()
    return kernel().description


def kernel() -> Kernel:
    """The loaded functions. Only to be called where `why_not()` is None."""
    return _start()[0]


def _start() -> tuple[Kernel | None, BuildError | None]:
    """Compile, load and register, once per process; a failure is remembered like a success."""
    if not _started:
        with _one_at_a_time:
            if not _started:
                try:
                    loaded = _load()
                    implement("CPU", _forward, _backward)
                    _started.append((loaded, None))
                except BuildError as problem:
                    _started.append((None, problem))
    return _started[0]


_started: list = []  # what `_start` found, once it has run
_one_at_a_time = threading.Lock()  # an implementation can be registered only once


def _load() -> Kernel:
    path = library()
    try:
        return load(path)
    except OSError:
        path.unlink(missing_ok=True)  # damaged in the cache: compile it once more
    try:
        return load(library())
    except OSError as error:
        raise BuildError(f"the compiled kernel cannot be loaded: {error}") from None


def load(path: Path) -> Kernel:
    """The functions of a compiled library. Raises: OSError if it is not one."""
    shared = ctypes.CDLL(str(path))
    functions = {}
    for direction, n_tensors in (("forward", 4), ("backward", 7)):
        functions[direction] = {}
        for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
            function = getattr(shared, f"ddetr_cpu_{direction}_{name}")
            address = ctypes.c_void_p
            function.argtypes = [address, address, ctypes.c_int, *[address] * n_tensors]
            functions[direction][dtype] = function
    shared.ddetr_cpu_description.restype = ctypes.c_char_p
    return Kernel(**functions, description=shared.ddetr_cpu_description().decode())


def _forward(value: Tensor, sides: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    n_images, _, n_heads, channels = value.shape
    output = locations.new_empty(n_images, locations.shape[1], n_heads * channels)
    run = kernel().forward[locations.dtype]
    wide, locations, weights = _dense(locations.dtype, value, locations, weights)
    _check(
        run(
            *_arguments(value, sides, locations),
            wide.data_ptr(),
            locations.data_ptr(),
            weights.data_ptr(),
            output.data_ptr(),
        )
    )
    return output.to(value.dtype)


def _backward(
    grad: Tensor, value: Tensor, sides: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    run = kernel().backward[locations.dtype]
    grad, wide, locations, weights = _dense(locations.dtype, grad, value, locations, weights)
    grad_value, grad_locations, grad_weights = map(torch.empty_like, (wide, locations, weights))
    _check(
        run(
            *_arguments(value, sides, locations),
            grad.data_ptr(),
            wide.data_ptr(),
            locations.data_ptr(),
            weights.data_ptr(),
            grad_value.data_ptr(),
            grad_locations.data_ptr(),
            grad_weights.data_ptr(),
        )
    )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _dense(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    """The tensors as the kernel reads them: in plain memory order, 16-bit numbers widened."""
    return [tensor.to(dtype).contiguous() for tensor in tensors]


def _arguments(value: Tensor, sides: list[int], locations: Tensor) -> tuple:
    """What both directions begin with: the sizes, the levels, the number of threads."""
    sizes = (*value.shape, locations.shape[1], *locations.shape[3:5])  # N, S, M, D, Lq, L, P
    integers = (ctypes.c_int64 * len(sizes))(*sizes)
    levels = (ctypes.c_int64 * len(sides))(*sides)
    return integers, levels, torch.get_num_threads()


def _check(status: int) -> None:
    if status:
        raise MemoryError("deformable attention ran out of memory in its C++ kernel")


# While torch.compile traces a model it must not look inside: this is plain Python that compiles
# and loads a file, and its result stays the same for the whole process. (What
# torch.compiler.assume_constant_result does, without importing the compiler for it.)
for _function in (why_not, require):
    _function._dynamo_marked_constant = True
