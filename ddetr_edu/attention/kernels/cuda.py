"""The same attention on an NVIDIA GPU: csrc/ms_deform_attn.cu.

A call has two halves. `plan`, in cuda_plan.py, says which kernel runs, on how many blocks of
threads, and with which numbers. `launch` adds the addresses and passes everything to the driver, on
torch's current stream. cuda_build.py compiles the kernels.
"""

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddetr_edu.attention.kernels.build import BuildError
from ddetr_edu.attention.kernels.checks import check_device
from ddetr_edu.attention.kernels.cuda_build import cached_cubin, cubin, nvrtc_version
from ddetr_edu.attention.kernels.cuda_plan import Kernel, Plan, choose_kernel, plan
from ddetr_edu.attention.kernels.startup import Startup, constant_when_traced, load_or_recompile
from ddetr_edu.attention.kernels.torch_library import flatten_shapes, register_kernel
from ddetr_edu.attention.locations import SpatialShapes

NO_CONTEXT = 201  # the driver's CUDA_ERROR_INVALID_CONTEXT


def ms_deform_attn_cuda(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention in CUDA. 16-bit values are summed in fp32 and rounded once.

    The gradient of value is summed by atomics: its last bits differ from run to run.

    Convention: locations are (x, y) fractions of their level, half-pixel centres, zeros outside.

    Source: paper, equation 3; csrc/ms_deform_attn.cu.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).

    Raises:
        BuildError: If the kernel cannot be compiled here.
        ValueError: If value is not on a GPU, or beyond the kernel's limits.
    """
    require()
    check_device("cuda", value)
    if sampling_locations.dtype != torch.float64:
        sampling_locations = sampling_locations.float()
        attention_weights = attention_weights.float()
    return torch.ops.ddetr_edu.ms_deform_attn(
        value, flatten_shapes(spatial_shapes), sampling_locations, attention_weights
    )


@constant_when_traced
def unavailable_reason() -> BuildError | None:
    """What keeps the kernel from running here; None if nothing does. Compiles one if need be."""
    return _startup.unavailable_reason()


@constant_when_traced
def require() -> None:
    """Make the operation ready to be called.

    Raises:
        BuildError: If it cannot run here.
    """
    _startup.result()


def description() -> str:
    """What the kernels are compiled for, and by what.

    Raises:
        BuildError: If NVRTC is missing.
    """
    return f"NVRTC {'.'.join(map(str, nvrtc_version()))} for {architecture(0)}"


def _start() -> None:
    if torch.version.hip is not None:
        raise BuildError("this torch is made for AMD's GPUs, and the kernel for NVIDIA's")
    if not torch.cuda.is_available():
        raise BuildError("there is no NVIDIA GPU that torch can use")
    torch.zeros(1, device="cuda")  # creates the GPU's context
    load(
        choose_kernel("forward", torch.float32, 8, 32, queries_are_tokens=True),
        torch.cuda.current_device(),
    )
    register_kernel("CUDA", forward, backward)


_startup = Startup(_start)


# ---- The operation ----


def forward(
    value: Tensor, flat_spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """The forward pass.

    Args:
        value: (N, S, M, D).
        flat_spatial_shapes: H, W of each level, one after the other.
        locations: (N, Lq, M, L, P, 2), fp32 or fp64.
        weights: (N, Lq, M, L, P), of the same type.

    Returns:
        (N, Lq, M*D), of value's type.
    """
    value, locations, weights = map(_dense, (value, locations, weights))
    n_images, _, n_heads, channels = value.shape
    _, n_queries, _, _, n_points, _ = locations.shape
    work = plan(
        "forward", value.dtype, tuple(value.shape), n_queries, tuple(flat_spatial_shapes), n_points
    )
    output = value.new_empty(n_images, n_queries, n_heads * channels)
    launch(work, value.device, value=value, locations=locations, weights=weights, output=output)
    return output


def backward(
    grad: Tensor, value: Tensor, flat_spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass.

    Args:
        grad: (N, Lq, M*D), the gradient of the output.
        value: (N, S, M, D).
        flat_spatial_shapes: H, W of each level, one after the other.
        locations: (N, Lq, M, L, P, 2), fp32 or fp64.
        weights: (N, Lq, M, L, P), of the same type.

    Returns:
        The gradients of value, locations and weights.
    """
    grad, value, locations, weights = map(_dense, (grad, value, locations, weights))
    _, n_queries, _, _, n_points, _ = locations.shape
    work = plan(
        "backward", value.dtype, tuple(value.shape), n_queries, tuple(flat_spatial_shapes), n_points
    )
    # Summed in the type of the coordinates, and rounded to 16 bits once.
    grad_value = torch.zeros_like(value, dtype=locations.dtype)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    launch(
        work,
        value.device,
        value=value,
        locations=locations,
        weights=weights,
        grad_output=grad,
        grad_value=grad_value,
        grad_locations=grad_locations,
        grad_weights=grad_weights,
    )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as the kernel reads it: contiguous, and aligned to 16 bytes."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def launch(work: Plan, device: torch.device, **arrays: Tensor) -> None:
    """Queue a kernel on the current stream of a GPU. Waits for nothing, so graphs can record it.

    Args:
        work: The kernel, its grid and its sizes.
        device: The GPU.
        **arrays: The tensors that the kernel reads and writes, by the names of their fields in
            `Arguments`.

    Raises:
        BuildError: If the kernel cannot be compiled.
        RuntimeError: If the driver refuses the launch.
    """
    if 0 in work.grid:
        return
    arguments = work.arguments({name: array.data_ptr() for name, array in arrays.items()})
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    with torch.cuda.device(device):
        kernel = load(work.kernel, torch.cuda.current_device())
        # cuda.core's launch takes single numbers; the driver's own function takes a struct as well.
        launch_kernel = functools.partial(
            driver().cuLaunchKernel,
            kernel.address,
            *work.grid,
            *(work.kernel.threads, 1, 1),
            0,  # bytes of shared memory
            torch.cuda.current_stream().cuda_stream,
            ctypes.addressof(parameters),
            0,  # no extra options
        )
        (status,) = launch_kernel()
        if status == NO_CONTEXT:  # this thread has not used the GPU before
            torch.zeros(1, device=device)
            (status,) = launch_kernel()
    if status != 0:
        raise RuntimeError(f"the GPU's driver refused to run the attention kernel: {status!r}")


@functools.cache
def driver() -> Any:
    """The driver's functions. Imported late: most machines neither have nor need the package."""
    from cuda.bindings import driver

    return driver


# ---- Loading ----


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel on a GPU. It stays there as long as the object lives."""

    address: int
    owner: object


@functools.cache
def load(kernel: Kernel, device: int) -> LoadedKernel:
    """A kernel, ready to run on a GPU: from the cache, or compiled now.

    Args:
        kernel: The kernel.
        device: The number of the GPU.

    Returns:
        The loaded kernel, the same object for the same arguments.

    Raises:
        BuildError: If it cannot be compiled or loaded.
    """
    arch = architecture(device)
    return load_or_recompile(
        lambda: load_cubin(cubin(kernel, arch)), cached=lambda: cached_cubin(kernel, arch)
    )


def load_cubin(code: bytes) -> LoadedKernel:
    """Load a kernel's machine code onto the current GPU.

    Args:
        code: The content of a cubin file.

    Returns:
        The loaded kernel.

    Raises:
        Exception: If the driver does not accept it; cuda.core has no base class for its errors.
    """
    from cuda.core import ObjectCode

    function = ObjectCode.from_cubin(code).get_kernel("ms_deform_attn")
    return LoadedKernel(int(function.handle), function)


def architecture(device: int) -> str:
    """The type of a GPU as compilers name it, such as "sm_90".

    Args:
        device: The number of the GPU.

    Returns:
        The name.
    """
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
