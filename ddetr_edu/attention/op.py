"""`ms_deform_attn`: one operation, several implementations, and the checks at its door."""

import functools
import os
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_edu.attention import cuda, native
from ddetr_edu.attention.grid_sample import ms_deform_attn_grid_sample
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.naive import ms_deform_attn_naive

IMPLEMENTATIONS = {
    "naive": ms_deform_attn_naive,
    "grid_sample": ms_deform_attn_grid_sample,
    "cpu": native.ms_deform_attn_cpu,
    "cuda": cuda.ms_deform_attn_cuda,
}


@dataclass(frozen=True)
class Backend:
    """One implementation of the operation: whether it runs here, and one line on what or why."""

    available: bool
    note: str

    def __str__(self) -> str:
        return self.note if self.available else f"not here: {self.note}"


def backends() -> dict[str, Backend]:
    """The implementations there are: what each is, or why it does not run here.

    Asking compiles the kernels if that has not happened yet.
    """

    def compiled(kernel, what: str) -> Backend:
        problem = kernel.why_not()
        if problem is not None:
            return Backend(False, str(problem))
        return Backend(True, f"the {what} kernel of csrc/, compiled here: {kernel.description()}")

    return {
        "naive": Backend(True, "plain loops, the definition: exact and slow, for small inputs"),
        "grid_sample": Backend(
            True, "torch's grid_sample, one call per level: runs wherever torch runs"
        ),
        "cpu": compiled(native, "C++"),
        "cuda": compiled(cuda, "CUDA"),
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

    value:              (N, S, M, D), projected and already masked; 16-bit values may come with
                        32-bit locations and weights
    spatial_shapes:     [(H, W), ...] plain ints, finest level first, adding up to S
    sampling_locations: (N, Lq, M, L, P, 2)
    attention_weights:  (N, Lq, M, L, P)
    backend:            one of `backends()`, or "auto": what the environment variable
                        DDETR_BACKEND names, else the fastest that runs on the tensors' device
    Returns:            (N, Lq, M*D)
    Raises: ValueError for shapes that do not fit together, an unknown backend or tensors on
        different devices; TypeError for dtypes that do not go together; BuildError if a compiled
        kernel is asked for by name and cannot run here.
    Source: paper, equation 3.
    """
    check_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    if backend == "auto":
        backend = _best(value.device.type)
    if backend not in IMPLEMENTATIONS:
        names = ", ".join(f'"{name}"' for name in ["auto", *IMPLEMENTATIONS])
        raise ValueError(f'backend "{backend}" does not exist; choose one of {names}')
    return IMPLEMENTATIONS[backend](value, spatial_shapes, sampling_locations, attention_weights)


def _best(device: str) -> str:
    """The backend that "auto" stands for on this kind of device."""
    asked = os.environ.get("DDETR_BACKEND", "auto")
    if asked not in ("auto", *IMPLEMENTATIONS):
        names = ", ".join(["auto", *IMPLEMENTATIONS])
        raise ValueError(
            f'the environment variable DDETR_BACKEND is "{asked}"; set it to one of {names}'
        )
    if asked != "auto":
        return asked
    kernel = {"cpu": native, "cuda": cuda}.get(device)
    if kernel is None:
        return "grid_sample"
    problem = kernel.why_not()
    if problem is None:
        return device
    _warn_once(str(problem))
    return "grid_sample"


_best._dynamo_marked_constant = True  # for torch.compile, as in native.py


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        "deformable attention falls back to grid_sample, slower than the compiled kernel, "
        f"because of this: {reason}; `ddetr doctor` says more",
        RuntimeWarning,
        stacklevel=4,
    )


def check_arguments(
    value: Tensor, spatial_shapes: SpatialShapes, locations: Tensor, weights: Tensor
) -> None:
    """Raise ValueError or TypeError, in one sentence, if the arguments do not fit together."""
    if isinstance(spatial_shapes, Tensor):
        raise TypeError(
            "spatial_shapes is a tensor, but plain integers are needed: "
            "pass a list [(H, W), ...], for example spatial_shapes.tolist()"
        )
    for name, tensor, letters in (
        ("value", value, "(N, S, M, D)"),
        ("sampling_locations", locations, "(N, Lq, M, L, P, 2)"),
        ("attention_weights", weights, "(N, Lq, M, L, P)"),
    ):
        if tensor.dim() != letters.count(",") + 1:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but it takes "
                f"{letters.count(',') + 1} axes, {letters}"
            )
    n_images, n_tokens, n_heads, _ = value.shape
    n_queries, n_levels, n_points = locations.shape[1], locations.shape[3], locations.shape[4]
    if locations.shape != (n_images, n_queries, n_heads, n_levels, n_points, 2):
        raise ValueError(
            f"sampling_locations has shape {tuple(locations.shape)}, but with value of shape "
            f"{tuple(value.shape)} it must be (N={n_images}, Lq, M={n_heads}, L, P, 2)"
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(
            f"attention_weights has shape {tuple(weights.shape)}, but sampling_locations ask for "
            f"{tuple(locations.shape[:-1])}: one weight for each location"
        )
    if len(spatial_shapes) != n_levels:
        raise ValueError(
            f"spatial_shapes names {len(spatial_shapes)} levels, but sampling_locations has "
            f"{n_levels} on its level axis; pass one (H, W) for each level"
        )
    if any(height < 1 or width < 1 for height, width in spatial_shapes):
        raise ValueError(
            f"spatial_shapes {spatial_shapes} has a level with no pixel; "
            "every (H, W) must be at least (1, 1)"
        )
    total = sum(height * width for height, width in spatial_shapes)
    if total != n_tokens:
        raise ValueError(
            f"value has {n_tokens} tokens, but the levels {list(spatial_shapes)} add up to "
            f"{total}; pass the (H, W) of the maps that value was flattened from"
        )
    if not value.device == locations.device == weights.device:
        raise ValueError(
            f"value is on {value.device}, sampling_locations on {locations.device}, "
            f"attention_weights on {weights.device}; move them to one device"
        )
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if (
        locations.dtype not in floats
        or locations.dtype != weights.dtype
        or not (
            value.dtype == locations.dtype
            or (value.dtype in (torch.float16, torch.bfloat16) and locations.dtype == torch.float32)
        )
    ):
        raise TypeError(
            f"value is {value.dtype}, sampling_locations {locations.dtype}, attention_weights "
            f"{weights.dtype}; use one floating type for all three, or 16-bit values with "
            "32-bit locations and weights"
        )
