"""Compile csrc/ms_deform_attn.cu with NVRTC when it is first needed, and keep the result.

NVRTC is a library that torch's wheels bring, so neither nvcc nor a CUDA toolkit is needed. Each
kernel is compiled for one direction, one type and one width in less than a second, and is kept in
the cache beside the CPU's library.
"""

import contextlib
import functools
import io
from pathlib import Path

import torch

from ddetr_edu.attention.kernels.build import BuildError, move_into_cache, short_hash, source_folder
from ddetr_edu.attention.kernels.cuda_plan import Kernel
from ddetr_edu.files import cache_folder

SOURCE = "ms_deform_attn.cu"
HEADERS = ("ms_deform_attn.h", "cuda_point.h", "cuda_forward.h", "cuda_backward.h")
TYPES = {  # their names in csrc/cuda_point.h
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.float32: "float",
    torch.float64: "double",
}


def cubin(kernel: Kernel, arch: str) -> bytes:
    """A kernel's machine code: from the cache, or compiled now.

    If the cache cannot be written to, the kernel is compiled once in each process.

    Args:
        kernel: The kernel.
        arch: A type of GPU, such as "sm_90".

    Returns:
        The content of a cubin file.

    Raises:
        BuildError: If it cannot be compiled.
    """
    cached = cached_cubin(kernel, arch)
    if cached.is_file():
        return cached.read_bytes()
    code = compile_cubin(kernel, arch)
    with contextlib.suppress(OSError):  # read-only, full, or owned by someone else
        move_into_cache(code, cached)
    return code


def cached_cubin(kernel: Kernel, arch: str) -> Path:
    """A kernel's file in the cache, whether or not it exists.

    Args:
        kernel: The kernel.
        arch: A type of GPU, such as "sm_90".

    Returns:
        A path whose name contains a hash of everything that the machine code depends on.

    Raises:
        BuildError: If NVRTC is missing.
    """
    parts = [repr(nvrtc_version()), arch, repr(macros(kernel))]
    parts += [(source_folder() / name).read_text() for name in (*HEADERS, SOURCE)]
    return cache_folder() / f"{kernel.name}_{arch}_{short_hash(parts)}.cubin"


def compile_cubin(kernel: Kernel, arch: str, report: io.StringIO | None = None) -> bytes:
    """Compile a kernel for one type of GPU; this machine need not have such a GPU.

    Args:
        kernel: The kernel.
        arch: A type of GPU, such as "sm_90".
        report: If given, receives how many registers the kernel uses and what it spills.

    Returns:
        The content of a cubin file.

    Raises:
        BuildError: If NVRTC is missing or fails; with NVRTC's output.
    """
    nvrtc_version()
    from cuda.core import Program, ProgramOptions

    folder = source_folder()
    options = ProgramOptions(
        arch=arch,
        std="c++17",
        include_path=str(folder),
        define_macro=macros(kernel),
        ptxas_options="-v",
    )
    program = Program((folder / SOURCE).read_text(), "c++", options)
    try:
        return program.compile("cubin", logs=report).code
    except Exception as error:  # cuda.core has no base class for its errors
        lines = str(error).splitlines()
        reason = next((line for line in lines if ": error" in line), str(error))
        raise BuildError(f"NVRTC failed for {arch}: {reason.strip()}", str(error)) from None


def macros(kernel: Kernel) -> list[tuple[str, str]]:
    """The macros that select a kernel in csrc/ms_deform_attn.cu.

    Args:
        kernel: The kernel.

    Returns:
        The name and the definition of each.
    """
    return [
        ("DDETR_DIRECTION", kernel.direction),
        ("DDETR_VALUE", TYPES[kernel.dtype]),
        ("DDETR_VECTOR", str(kernel.vector)),
        ("DDETR_LANES", str(kernel.lanes)),
        ("DDETR_QUERIES", str(kernel.queries)),
        ("DDETR_HEADS", str(kernel.heads)),
        ("DDETR_ENTRIES", str(kernel.entries)),
        ("DDETR_BLOCKS", str(kernel.blocks)),
    ]


@functools.cache
def nvrtc_version() -> tuple[int, int]:
    """The compiler's version (major, minor).

    Raises:
        BuildError: If NVRTC, or a package around it, is missing.
    """
    requirement = f"cuda-core[cu{(torch.version.cuda or '13').split('.')[0]}]"
    try:
        import cuda.core  # noqa: F401
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        reason = f"NVRTC is missing ({error}): pip install '{requirement}'"
        raise BuildError(reason) from None
    return major, minor
