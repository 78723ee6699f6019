"""`ms_deform_attn`: one operation with several implementations, and the choice between them.

One backend, "discrete", is another operation under the same signature; it runs only by name.
"""

import functools
import warnings
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from ddetr_edu.attention.discrete import ms_deform_attn_discrete
from ddetr_edu.attention.grid_sample import ms_deform_attn_grid_sample
from ddetr_edu.attention.kernels import cpu, cuda
from ddetr_edu.attention.kernels.checks import (
    backend_from_environment,
    check_backend,
    check_operation,
)
from ddetr_edu.attention.kernels.startup import constant_when_traced
from ddetr_edu.attention.kernels.torch_library import ms_deform_attn_meta
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.naive import ms_deform_attn_naive

IMPLEMENTATIONS = {
    "naive": ms_deform_attn_naive,
    "grid_sample": ms_deform_attn_grid_sample,
    "cpu": cpu.ms_deform_attn_cpu,
    "cuda": cuda.ms_deform_attn_cuda,
    "discrete": ms_deform_attn_discrete,  # another operation: "auto" never stands for it
}
BACKENDS = ("auto", *IMPLEMENTATIONS)


@dataclass(frozen=True)
class Backend:
    """One implementation of the operation: whether it runs here, and one line on what or why."""

    available: bool
    note: str

    def __str__(self) -> str:
        return self.note if self.available else f"not here: {self.note}"


def backends() -> dict[str, Backend]:
    """The implementations: what each is, or why it does not run here.

    This compiles the kernels if that has not happened yet.

    Returns:
        A `Backend` for each name that `ms_deform_attn` takes, without "auto".
    """

    def compiled(kernel: ModuleType, language: str) -> Backend:
        problem = kernel.unavailable_reason()
        if problem is not None:
            return Backend(False, str(problem))
        return Backend(
            True, f"the {language} kernel of csrc/, compiled here: {kernel.description()}"
        )

    return {
        "naive": Backend(True, "plain loops, the definition: exact and slow, for small inputs"),
        "grid_sample": Backend(
            True, "torch's grid_sample, one call per level: runs wherever torch runs"
        ),
        "cpu": compiled(cpu, "C++"),
        "cuda": compiled(cuda, "CUDA"),
        "discrete": Backend(True, "another operation: nearest pixels, no gradient of locations"),
    }


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Multi-scale deformable attention: each query reads L*P points per head and adds them up.

    Convention: sampling_locations are (x, y), fractions of their level, x to the right and y
    down; pixel i has its centre at i + 0.5 (x_pixel = x * W - 0.5); outside the map, zeros.

    Source: paper, equation 3.

    Args:
        value: (N, S, M, D), projected and already masked; 16-bit values may come with 32-bit
            locations and weights.
        spatial_shapes: [(H, W), ...] plain ints, finest level first, adding up to S.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).
        backend: One of `backends()`, or "auto": the one that the environment variable
            DDETR_BACKEND names, else the fastest that runs on the tensors' device. On the device
            "meta" it stands for a compiled kernel, of which only the shapes are computed. All
            compute the same, except "discrete", which reads nearest pixels.

    Returns:
        (N, Lq, M*D).

    Raises:
        ValueError: For shapes that do not fit together, an unknown backend, or tensors on
            different devices.
        TypeError: For dtypes that do not fit together, or spatial_shapes as a tensor.
        BuildError: If a compiled kernel is asked for by name and cannot run here.
    """
    check_operation(value, spatial_shapes, sampling_locations, attention_weights)
    return run_backend(value, spatial_shapes, sampling_locations, attention_weights, backend)


def run_backend(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> Tensor:
    """`ms_deform_attn` without its checks, for callers that have checked their own arguments.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).
        backend: As in `ms_deform_attn`.

    Returns:
        (N, Lq, M*D).

    Raises:
        ValueError: For an unknown backend.
        BuildError: If a compiled kernel is asked for by name and cannot run here.
    """
    check_backend(backend, BACKENDS)
    if backend == "auto":
        if value.device.type == "meta":
            return ms_deform_attn_meta(value, spatial_shapes, sampling_locations, attention_weights)
        backend = _best_backend(value.device.type)
    return IMPLEMENTATIONS[backend](value, spatial_shapes, sampling_locations, attention_weights)


@constant_when_traced
def _best_backend(device: str) -> str:
    """The backend that "auto" stands for on this kind of device."""
    backend = backend_from_environment(BACKENDS)
    if backend != "auto":
        return backend
    kernel = {"cpu": cpu, "cuda": cuda}.get(device)
    if kernel is None:
        return "grid_sample"
    problem = kernel.unavailable_reason()
    if problem is None:
        return device
    _warn_once(str(problem))
    return "grid_sample"


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        "deformable attention falls back to grid_sample, slower than the compiled kernel, "
        f"because of this: {reason}; `ddetr doctor` says more",
        RuntimeWarning,
        stacklevel=5,
    )
