"""Other implementations of the attention, in one form, for benchmarks/gpu.py.

None of them belongs to this repository; those that can be loaded are timed beside ours:

official     the CUDA kernels of github.com/fundamentalvision/Deformable-DETR. OFFICIAL_MSDA names
             the folder of ms_deform_im2col_cuda.cuh, models/ops/src/cuda; nvcc compiles it there.
deformops    its CUDA kernel, if the installation has it compiled, and its Triton kernels.
msda-triton  the package of github.com/rziga/msda-triton.
mmcv         the CUDA kernel in mmcv.ops.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention.kernels import cuda
from ddetr_edu.attention.locations import SpatialShapes

ALL = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Peer:
    """An implementation of the attention, and the types that it takes.

    call takes value (N, S, M, D), the (H, W) of each level, locations (N, Lq, M, L, P, 2) and
    weights (N, Lq, M, L, P), all contiguous, and returns (N, Lq, M*D).
    """

    call: Callable[[Tensor, SpatialShapes, Tensor, Tensor], Tensor]
    dtypes: tuple[torch.dtype, ...] = ALL  # of value
    locations_like_value: bool = False  # otherwise fp32
    weights_like_value: bool = False

    def prepare(self, value: Tensor, locations: Tensor, weights: Tensor) -> list[Tensor]:
        """Copies of the inputs in the types that the implementation takes, requiring gradients.

        Args:
            value: (N, S, M, D).
            locations: (N, Lq, M, L, P, 2), fp32.
            weights: (N, Lq, M, L, P), fp32.

        Returns:
            The three tensors for `call`.
        """
        if self.locations_like_value:
            locations = locations.to(value.dtype)
        if self.weights_like_value:
            weights = weights.to(value.dtype)
        return [
            tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            for tensor in (value, locations, weights)
        ]


# What is timed, and the package that must be installed for it.
NAMES = {
    "official": None,
    "deformops-cuda": "deformops",
    "deformops-triton": "deformops",
    "deformops-triton-fp32acc": "deformops",
    "msda-triton": "msda_triton",
    "mmcv": "mmcv",
}


def missing(name: str) -> str | None:
    """Why a peer cannot be loaded here, as far as that can be told without loading it.

    Args:
        name: One of NAMES.

    Returns:
        The reason, or None.
    """
    package = NAMES[name]
    if package is None:
        found = "OFFICIAL_MSDA" in os.environ
        return None if found else "OFFICIAL_MSDA does not name the folder of its kernels"
    return None if find_spec(package) else f"there is no {package}"


def load(name: str) -> Peer:
    """Load, and perhaps compile, one implementation.

    Args:
        name: One of NAMES.

    Returns:
        The implementation.

    Raises:
        Exception: If it cannot be loaded.
    """
    if name.startswith("deformops-triton"):
        return deformops_triton()[name]
    loaders = {
        "official": official,
        "deformops-cuda": deformops_cuda,
        "msda-triton": msda_triton,
        "mmcv": mmcv,
    }
    return loaders[name]()[name]


def level_tensors(
    levels: SpatialShapes, device: torch.device, dtype: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor]:
    """The (H, W) of each level and where each starts among the tokens, as tensors: (L, 2), (L)."""
    return _level_tensors(tuple(levels), device, dtype)


@functools.lru_cache
def _level_tensors(levels, device, dtype) -> tuple[Tensor, Tensor]:
    shapes = torch.tensor(levels, dtype=dtype, device=device)
    sizes = shapes.prod(1)
    return shapes, (sizes.cumsum(0) - sizes).to(dtype)


# ---- Deformable DETR's own kernels ----

# A C interface of addresses and a stream, so that neither torch's nor Python's headers are needed.
INTERFACE = r"""
#include <cuda_runtime.h>
#include <cstdint>
#include "ms_deform_im2col_cuda.cuh"

#define SIZES int images, int tokens, int heads, int channels, int levels, int queries, int points
#define INPUTS const float *value, const int64_t *shapes, const int64_t *starts, \
    const float *locations, const float *weights

extern "C" void forward(void* stream, INPUTS, SIZES, float* output) {
  ms_deformable_im2col_cuda(
      static_cast<cudaStream_t>(stream), value, shapes, starts, locations, weights, images, tokens,
      heads, channels, levels, queries, points, output);
}
extern "C" void backward(void* stream, const float* grad_output, INPUTS, SIZES, float* grad_value,
                         float* grad_locations, float* grad_weights) {
  ms_deformable_col2im_cuda(
      static_cast<cudaStream_t>(stream), grad_output, value, shapes, starts, locations, weights,
      images, tokens, heads, channels, levels, queries, points, grad_value, grad_locations,
      grad_weights);
}
"""
HEADERS = ("ATen/ATen.h", "ATen/cuda/CUDAContext.h", "THC/THCAtomics.cuh")  # none is needed


def official() -> dict[str, Peer]:
    if "OFFICIAL_MSDA" not in os.environ:
        raise ImportError("OFFICIAL_MSDA does not name the folder of the official kernels")
    folder = Path(os.environ["OFFICIAL_MSDA"])
    library = folder / "libofficial_msda.so"
    if not library.exists():
        compile_official(folder, library, cuda.architecture(0))
    _official_library(library)
    return {
        "official": Peer(
            lambda value, levels, locations, weights: Official.apply(
                value, locations, weights, level_tensors(levels, value.device), library
            ),
            dtypes=(torch.float32,),  # models in 16 bits convert everything to fp32 for it
        )
    }


def compile_official(folder: Path, library: Path, architecture: str) -> None:
    """Compile the official kernels with nvcc.

    Args:
        folder: Where ms_deform_im2col_cuda.cuh is.
        library: Where to write the library.
        architecture: The GPU's, such as sm_90.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for header in HEADERS:
            path = Path(temporary, header)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        source = Path(temporary, "official.cu")
        source.write_text(INTERFACE)
        subprocess.run(
            ["nvcc", "-O3", "-w", f"-arch={architecture}", f"-I{temporary}", f"-I{folder}"]
            + ["-shared", "-Xcompiler", "-fPIC", "-o", str(library), str(source)],
            check=True,
        )


@functools.cache
def _official_library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    address, size = ctypes.c_void_p, ctypes.c_int
    library.forward.argtypes = [address] * 6 + [size] * 7 + [address]
    library.backward.argtypes = [address] * 7 + [size] * 7 + [address] * 3
    library.forward.restype = library.backward.restype = None
    return library


class Official(torch.autograd.Function):
    """What the original's C++ does around the launches: buffers of zeros, and nothing else."""

    @staticmethod
    def forward(ctx, value, locations, weights, shapes_and_starts, library):
        ctx.save_for_backward(value, *shapes_and_starts, locations, weights)
        ctx.library = _official_library(library)
        n_images, n_tokens, n_heads, channels = value.shape
        _, n_queries, _, n_levels, n_points, _ = locations.shape
        ctx.sizes = (n_images, n_tokens, n_heads, channels, n_levels, n_queries, n_points)
        output = value.new_zeros(n_images, n_queries, n_heads * channels)
        ctx.library.forward(
            torch.cuda.current_stream().cuda_stream,
            *(tensor.data_ptr() for tensor in ctx.to_save),
            *ctx.sizes,
            output.data_ptr(),
        )
        return output

    @staticmethod
    def backward(ctx, grad_output):
        saved = ctx.saved_tensors
        grads = [torch.zeros_like(saved[i]) for i in (0, 3, 4)]
        grad_output = grad_output.contiguous()
        ctx.library.backward(
            torch.cuda.current_stream().cuda_stream,
            *(tensor.data_ptr() for tensor in (grad_output, *saved)),
            *ctx.sizes,
            *(grad.data_ptr() for grad in grads),
        )
        return *grads, None, None


# ---- Packages ----


def deformops_cuda() -> dict[str, Peer]:
    from deformops.registry import Backend, msda

    msda.load(Backend.CUDA)

    def call(value, levels, locations, weights):
        shapes, starts = level_tensors(levels, value.device)
        return msda(value, shapes, starts, locations, weights, backend=Backend.CUDA)

    return {"deformops-cuda": Peer(call, weights_like_value=True)}


def deformops_triton() -> dict[str, Peer]:
    from deformops.registry import Backend, msda

    msda.load(Backend.TRITON)

    def call(value, levels, locations, weights, fp32acc):
        shapes, starts = level_tensors(levels, value.device, torch.int32)
        return msda(
            *(value, shapes, starts, locations, weights), backend=Backend.TRITON, fp32acc=fp32acc
        )

    # It prefers the first from sm_90 on: gradients of 16 bits are summed in 16 bits.
    return {
        "deformops-triton": Peer(functools.partial(call, fp32acc=False), weights_like_value=True),
        "deformops-triton-fp32acc": Peer(
            functools.partial(call, fp32acc=True), ALL[1:], weights_like_value=True
        ),
    }


def msda_triton() -> dict[str, Peer]:
    from msda_triton.frontend import triton_multiscale_deformable_attention as attention

    def call(value, levels, locations, weights):
        shapes, _ = level_tensors(levels, value.device)
        return attention(value, shapes, locations, weights, "zeros", False).flatten(-2)

    return {"msda-triton": Peer(call, (torch.float32, torch.float16), True, True)}


def mmcv() -> dict[str, Peer]:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    def call(value, levels, locations, weights):
        shapes, starts = level_tensors(levels, value.device)
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)

    return {"mmcv": Peer(call, (torch.float32, torch.float16), True, True)}
