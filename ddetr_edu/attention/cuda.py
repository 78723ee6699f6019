"""The same attention on an NVIDIA GPU: csrc/ms_deform_attn.cu, compiled when it is first needed.

The compiler is NVRTC, a library that torch's wheels bring; nobody needs nvcc or a CUDA toolkit.
Each kernel is compiled for one direction, one type and one width, takes under a second, and is kept
in the cache beside the CPU's library.

A call has two halves. `plan` says which kernel runs, on how many blocks of threads, and with which
numbers; it knows nothing of GPUs, and tests follow it on a CPU. `launch` adds the addresses, and
hands all to the driver, on torch's current stream.
"""

import contextlib
import ctypes
import functools
import hashlib
import io
import math
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention.build import BuildError, cache_folder, move_into_place, source_folder
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.registration import implement

SOURCE = "ms_deform_attn.cu"
TYPES = {  # as csrc/ms_deform_attn.cu calls them
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.float32: "float",
    torch.float64: "double",
}
NO_CONTEXT = 201  # the driver's CUDA_ERROR_INVALID_CONTEXT
MAX_LEVELS, TILE_WIDTH = 16, 8  # as in csrc/ms_deform_attn.cu
ADDRESSES, SIZES = struct.Struct("8Q"), struct.Struct(f"2q6i{3 * MAX_LEVELS}i")  # its Arguments


def ms_deform_attn_cuda(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention in CUDA. 16-bit values are summed in 32 bits, rounded once.

    The gradient of value is summed by atomics: its last bits differ from run to run.

    Convention: locations are (x, y) fractions of their level, half-pixel centres, zeros outside.

    value (N, S, M, D); sampling_locations (N, Lq, M, L, P, 2); attention_weights (N, Lq, M, L, P)
    Returns: (N, Lq, M*D)
    Raises: BuildError if the kernel cannot be compiled here; ValueError if value is not on a GPU,
        or beyond the kernel's limits.
    Source: paper, equation 3; csrc/ms_deform_attn.cu.
    """
    require()
    if value.device.type != "cuda":
        raise ValueError(f'backend "cuda" needs tensors on a GPU, but value is on {value.device}')
    if sampling_locations.dtype != torch.float64:
        sampling_locations = sampling_locations.float()
        attention_weights = attention_weights.float()
    sides = [side for shape in spatial_shapes for side in shape]
    return torch.ops.ddetr_edu.ms_deform_attn(value, sides, sampling_locations, attention_weights)


def why_not() -> BuildError | None:
    """What keeps the kernel from running here; None if nothing does. Compiles one if need be."""
    if not _started:
        with _one_at_a_time:
            if not _started:
                try:
                    _try()
                    implement("CUDA", forward, backward)
                    _started.append(None)
                except BuildError as problem:
                    _started.append(problem)
    return _started[0]


_started: list[BuildError | None] = []  # what `why_not` found, once it has run
_one_at_a_time = threading.Lock()


def _try() -> None:
    """Load a kernel on the current GPU. Raises: BuildError."""
    if torch.version.hip is not None:
        raise BuildError("this torch is made for AMD's GPUs, and the kernel for NVIDIA's")
    if not torch.cuda.is_available():
        raise BuildError("there is no NVIDIA GPU that torch can use")
    torch.zeros(1, device="cuda")  # enters the GPU's context
    load(Kernel("forward", torch.float32, vector=4, lanes=8), torch.cuda.current_device())


def require() -> None:
    """Make the operation ready to be called. Raises: BuildError if it cannot be."""
    problem = why_not()
    if problem is not None:
        raise problem


def description() -> str:
    """What the kernels are compiled for, and by what."""
    return f"NVRTC {'.'.join(map(str, nvrtc_version()))} for {architecture(0)}"


# ---- Which kernel, and how much of it ----


@dataclass(frozen=True)
class Kernel:
    """One kernel of csrc/ms_deform_attn.cu."""

    direction: str  # "forward" or "backward"
    dtype: torch.dtype  # of value, output and grad_output
    vector: int  # channels that a lane reads at once
    lanes: int  # that share a head of a query

    @property
    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.direction}_{dtype}_{self.lanes}x{self.vector}"

    @property
    def most_queries(self) -> int:
        """Of one head, per block. Reads are shared within a block; backward needs its registers."""
        return 64 if self.direction == "forward" else 32


@dataclass(frozen=True)
class Plan:
    """A launch, but for the addresses: the kernel, its grid, and the sizes it is told."""

    kernel: Kernel
    blocks: int
    threads: int
    sizes: bytes


@functools.lru_cache(maxsize=1024)
def plan(
    direction: str,
    dtype: torch.dtype,
    value_shape: tuple[int, int, int, int],
    n_queries: int,
    sides: tuple[int, ...],
    n_points: int,
) -> Plan:
    """How to launch one direction: value (N, S, M, D), Lq queries, levels H, W, ..., P points.

    Raises: ValueError beyond what the kernel can count.
    """
    n_images, n_tokens, n_heads, channels = value_shape
    heights, widths = sides[0::2], sides[1::2]
    # 16 bytes at once is the most that a lane can read; the gradient of value has at least 32 bits.
    vector = 16 // (dtype.itemsize if direction == "forward" else max(dtype.itemsize, 4))
    if channels % vector:
        vector = 1
    kernel = Kernel(direction, dtype, vector, lanes=4 if channels <= 4 * vector else 8)
    queries_are_tokens = n_queries == n_tokens  # as in an encoder: neighbours read the same pixels
    if queries_are_tokens:
        in_block = kernel.most_queries
        rows = in_block // TILE_WIDTH
        tiles = sum(
            math.ceil(height / rows) * math.ceil(width / TILE_WIDTH)
            for height, width in zip(heights, widths, strict=True)
        )
    else:
        in_block = 16  # few queries: rather many small blocks, one for every multiprocessor
        tiles = math.ceil(n_queries / in_block)
    blocks = n_images * n_heads * tiles
    for amount, limit, what in (
        (len(heights), MAX_LEVELS + 1, "levels"),
        (n_tokens * n_heads * channels, 2**29, "numbers in one image's value"),
        (blocks, 2**31, "blocks of threads"),
    ):
        if amount >= limit:
            raise ValueError(
                f"the CUDA kernel takes fewer than {limit} {what}, but there are {amount}; "
                'use backend="grid_sample", or fewer images at once'
            )
    areas = [height * width for height, width in zip(heights, widths, strict=True)]
    starts = [sum(areas[:level]) for level in range(len(areas))]
    padding = [0] * (MAX_LEVELS - len(heights))
    sizes = SIZES.pack(
        n_tokens, n_queries, n_heads, channels, len(heights), n_points, tiles, queries_are_tokens,
        *heights, *padding, *widths, *padding, *starts, *padding,
    )  # fmt: skip
    return Plan(kernel, blocks, in_block * kernel.lanes, sizes)


# ---- The operation ----


def forward(value: Tensor, sides: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    value, locations, weights = map(_dense, (value, locations, weights))
    n_images, _, n_heads, channels = value.shape
    _, n_queries, _, _, n_points, _ = locations.shape
    work = plan("forward", value.dtype, tuple(value.shape), n_queries, tuple(sides), n_points)
    output = value.new_empty(n_images, n_queries, n_heads * channels)
    launch(work, value.device, value, locations, weights, None, output, None, None, None)
    return output


def backward(
    grad: Tensor, value: Tensor, sides: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, value, locations, weights = map(_dense, (grad, value, locations, weights))
    _, n_queries, _, _, n_points, _ = locations.shape
    work = plan("backward", value.dtype, tuple(value.shape), n_queries, tuple(sides), n_points)
    # Summed in the type of the coordinates, and rounded to 16 bits once.
    grad_value = torch.zeros_like(value, dtype=locations.dtype)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    launch(work, value.device, value, locations, weights, grad, None, grad_value, grad_locations,
           grad_weights)  # fmt: skip
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as the kernel reads it: in plain memory order, from a multiple of 16 bytes."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def launch(work: Plan, device: torch.device, *arrays: Tensor | None) -> None:
    """Put the kernel on the device's current stream. Waits for nothing, so graphs can record it."""
    if work.blocks == 0:
        return
    addresses = [0 if array is None else array.data_ptr() for array in arrays]
    arguments = ctypes.create_string_buffer(ADDRESSES.pack(*addresses) + work.sizes)
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        kernel = load(work.kernel, torch.cuda.current_device())
        # cuda.core's launch takes single numbers; the driver's own takes a struct as well.
        start = functools.partial(
            driver().cuLaunchKernel, kernel.address, work.blocks, 1, 1, work.threads, 1, 1,
            0, stream, ctypes.addressof(parameters), 0,
        )  # fmt: skip
        (status,) = start()
        if status == NO_CONTEXT:  # the first thing this thread does on the GPU
            torch.zeros(1, device=device)
            (status,) = start()
    if status != 0:
        raise RuntimeError(f"the GPU's driver refused to run the attention kernel: {status!r}")


@functools.cache
def driver():
    """The driver's functions. Imported late: most machines have no such package, nor need it."""
    from cuda.bindings import driver

    return driver


# ---- Compiling ----


@dataclass(frozen=True)
class Loaded:
    """A kernel on a GPU. It stays there as long as the object lives."""

    address: int
    owner: object


@functools.cache
def load(kernel: Kernel, device: int) -> Loaded:
    """The kernel, ready to run on GPU number `device`: from the cache, or compiled now.

    Raises: BuildError.
    """
    arch = architecture(device)
    code, cached = cubin(kernel, arch)
    try:
        return _load(code)
    except Exception:  # damaged in the cache: compile it once more
        cached.unlink(missing_ok=True)
    try:
        return _load(cubin(kernel, arch)[0])
    except BuildError:
        raise
    except Exception as error:  # cuda.core has no common ancestor for what it raises
        raise BuildError(f"the GPU's driver cannot load the kernel: {error}") from None


def _load(code: bytes) -> Loaded:
    from cuda.core import ObjectCode

    function = ObjectCode.from_cubin(code).get_kernel("ms_deform_attn")
    return Loaded(int(function.handle), function)


def architecture(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def cubin(kernel: Kernel, arch: str) -> tuple[bytes, Path]:
    """The kernel's machine code, and its place in the cache. Raises: BuildError."""
    version = nvrtc_version()
    parts = [repr(version), arch, repr(macros(kernel))]
    parts += [(source_folder() / name).read_text() for name in ("ms_deform_attn.h", SOURCE)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    cached = cache_folder() / f"{kernel.name}_{arch}_{key}.cubin"
    if cached.is_file():
        return cached.read_bytes(), cached
    code = compile_cubin(kernel, arch)
    with contextlib.suppress(OSError):  # read-only, full, or not ours: then once per process
        move_into_place(code, cached)
    return code, cached


def compile_cubin(kernel: Kernel, arch: str, report: io.StringIO | None = None) -> bytes:
    """Compile the kernel for GPUs of type `arch`, such as "sm_90"; there need not be one here.

    report: is told how many registers the kernel takes, and what does not fit into them
    Raises: BuildError, with NVRTC's output.
    """
    nvrtc_version()
    from cuda.core import Program, ProgramOptions

    folder = source_folder()
    settings = ProgramOptions(
        arch=arch,
        std="c++17",
        include_path=str(folder),
        define_macro=macros(kernel),
        ptxas_options="-v",
    )
    program = Program((folder / SOURCE).read_text(), "c++", settings)
    try:
        return program.compile("cubin", logs=report).code
    except Exception as error:  # cuda.core has no common ancestor for what it raises
        lines = str(error).splitlines()
        reason = next((line for line in lines if ": error" in line), str(error))
        raise BuildError(f"NVRTC failed for {arch}: {reason.strip()}", str(error)) from None


def macros(kernel: Kernel) -> list[tuple[str, str]]:
    return [
        ("DDETR_DIRECTION", kernel.direction),
        ("DDETR_VALUE", TYPES[kernel.dtype]),
        ("DDETR_VECTOR", str(kernel.vector)),
        ("DDETR_LANES", str(kernel.lanes)),
        ("DDETR_THREADS", str(kernel.most_queries * kernel.lanes)),
    ]


@functools.cache
def nvrtc_version() -> tuple[int, int]:
    """The compiler's version. Raises: BuildError if it, or a package around it, is missing."""
    wanted = f"cuda-core[cu{(torch.version.cuda or '13').split('.')[0]}]"
    try:
        import cuda.core  # noqa: F401
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise BuildError(f"NVRTC is not here ({error}): pip install '{wanted}'") from None
    return major, minor


# For torch.compile, as in native.py.
for _function in (why_not, require):
    _function._dynamo_marked_constant = True
