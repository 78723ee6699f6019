"""The argument checks of the attention, so that its other functions contain nothing but the work.

Every mistake becomes one sentence that names the argument which does not fit. One call checks
everything once: `ms_deform_attn` by `check_operation`, and the module `MSDeformAttn` by
`check_module_inputs` together with `check_reference_points`, which `sampling_locations` calls.
"""

import os
from collections.abc import Collection

import torch
from torch import Tensor

AXES = {  # of each argument, in the letters of the documentation
    "value": ("N", "S", "M", "D"),
    "sampling_locations": ("N", "Lq", "M", "L", "P", "2"),
    "attention_weights": ("N", "Lq", "M", "L", "P"),
    "reference_points": ("N", "Lq", "L", "2 or 4"),
    "offsets": ("N", "Lq", "M", "L", "P", "2"),
}
SIXTEEN_BITS = (torch.float16, torch.bfloat16)
FLOATS = (*SIXTEEN_BITS, torch.float32, torch.float64)


def check_operation(
    value: Tensor, spatial_shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> None:
    """Check that the arguments of `ms_deform_attn` fit together.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        locations: (N, Lq, M, L, P, 2).
        weights: (N, Lq, M, L, P).

    Raises:
        ValueError: For shapes that do not fit together, or tensors on different devices.
        TypeError: For dtypes that do not fit together, or spatial_shapes as a tensor.
    """
    _check_not_a_tensor(spatial_shapes)
    _check_axes("value", value)
    _check_axes("sampling_locations", locations)
    _check_axes("attention_weights", weights)
    n_images, n_tokens, n_heads, _ = value.shape
    _, n_queries, _, n_levels, n_points, _ = locations.shape
    if locations.shape != (n_images, n_queries, n_heads, n_levels, n_points, 2):
        raise ValueError(
            f"sampling_locations has shape {tuple(locations.shape)}, but with value of shape "
            f"{tuple(value.shape)} it must be (N={n_images}, Lq, M={n_heads}, L, P, 2)"
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(
            f"attention_weights has shape {tuple(weights.shape)}, but with these "
            f"sampling_locations it must be {tuple(locations.shape[:-1])}: "
            "one weight for each location"
        )
    if len(spatial_shapes) != n_levels:
        raise ValueError(
            f"spatial_shapes names {len(spatial_shapes)} levels, but sampling_locations has "
            f"{n_levels} on its level axis; pass one (H, W) for each level"
        )
    _check_level_sizes(spatial_shapes, n_tokens)
    if not value.device == locations.device == weights.device:
        raise ValueError(
            f"value is on {value.device}, sampling_locations on {locations.device}, "
            f"attention_weights on {weights.device}; move them to one device"
        )
    if locations.dtype != weights.dtype or not _fit_together(value.dtype, locations.dtype):
        raise TypeError(
            f"value is {value.dtype}, sampling_locations {locations.dtype}, attention_weights "
            f"{weights.dtype}; use one floating type for all three, or 16-bit values with "
            "32-bit locations and weights"
        )


def check_module_inputs(
    parameter: Tensor,
    n_levels: int,
    query: Tensor,
    reference_points: Tensor,
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    padding_mask: Tensor | None,
) -> None:
    """Check that the arguments of `MSDeformAttn.forward` fit together and fit the module.

    The number of levels and the axes of reference_points are left to `check_reference_points`.

    Args:
        parameter: (C, C), the weight of a layer of the module: gives its device, dtype and C.
        n_levels: L, of the module.
        query: (N, Lq, C).
        reference_points: (N, Lq, L, 2 or 4).
        value: (N, S, C).
        spatial_shapes: (H, W) of each level.
        padding_mask: (N, S) bool, or None.

    Raises:
        ValueError: For shapes that do not fit together, a mask that is not bool, or tensors on
            another device than the module.
        TypeError: For dtypes that do not fit together, or spatial_shapes as a tensor.
    """
    _check_not_a_tensor(spatial_shapes)
    for name, tensor in (
        ("query", query),
        ("value", value),
        ("reference_points", reference_points),
    ):
        if tensor.device != parameter.device:
            raise ValueError(
                f"{name} is on {tensor.device}, but this module is on {parameter.device}; "
                "move one to the other"
            )
    _check_module_dtypes(parameter, query, value, reference_points)
    d_model = parameter.shape[1]
    for name, tensor, length in (("query", query, "Lq"), ("value", value, "S")):
        if tensor.dim() != 3 or tensor.shape[-1] != d_model:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but this module takes "
                f"(N, {length}, C={d_model})"
            )
    if value.shape[0] != query.shape[0]:
        raise ValueError(
            f"value holds {value.shape[0]} images, but query {query.shape[0]}; "
            "they must belong to the same images"
        )
    if reference_points.shape[:2] != query.shape[:2]:
        raise ValueError(
            f"reference_points has shape {tuple(reference_points.shape)}, but with this query "
            f"it must be ({query.shape[0]}, {query.shape[1]}, L={n_levels}, 2 or 4)"
        )
    if len(spatial_shapes) == n_levels:  # check_reference_points reports any other number
        _check_level_sizes(spatial_shapes, value.shape[1])
    if padding_mask is not None and (
        padding_mask.shape != value.shape[:2] or padding_mask.dtype != torch.bool
    ):
        raise ValueError(
            f"padding_mask is {padding_mask.dtype} of shape {tuple(padding_mask.shape)}, but "
            f"it must be bool of shape (N, S) = {tuple(value.shape[:2])}, True = padding"
        )


def check_reference_points(
    reference_points: Tensor, offsets: Tensor, spatial_shapes: list[tuple[int, int]]
) -> None:
    """Check that the arguments of `sampling_locations` have the same levels and known axes.

    Args:
        reference_points: (N, Lq, L, 2) or (N, Lq, L, 4).
        offsets: (N, Lq, M, L, P, 2).
        spatial_shapes: (H, W) of each level.

    Raises:
        ValueError: If the levels differ in number, or an axis is missing, or the last axis of the
            reference points is neither 2 nor 4.
    """
    _check_axes("reference_points", reference_points)
    _check_axes("offsets", offsets)
    if not reference_points.shape[2] == offsets.shape[3] == len(spatial_shapes):
        raise ValueError(
            f"reference_points has shape {tuple(reference_points.shape)} with "
            f"{reference_points.shape[2]} levels, but the offsets are for "
            f"n_levels={offsets.shape[3]}, and spatial_shapes names {len(spatial_shapes)}; "
            "the three must agree"
        )
    if reference_points.shape[-1] not in (2, 4):
        raise ValueError(
            f"reference_points ends in an axis of {reference_points.shape[-1]}, not 2 for (x, y) "
            "or 4 for (cx, cy, w, h); check how the reference points were made"
        )


def check_module_sizes(d_model: int, n_heads: int, n_levels: int, n_points: int) -> None:
    """Check the sizes that an `MSDeformAttn` is built with.

    Args:
        d_model: C.
        n_heads: M, which must divide C.
        n_levels: L.
        n_points: P.

    Raises:
        ValueError: If one is less than 1, or d_model is not a multiple of n_heads.
    """
    sizes = {"d_model": d_model, "n_heads": n_heads, "n_levels": n_levels, "n_points": n_points}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; MSDeformAttn needs at least 1")
    if d_model % n_heads:
        raise ValueError(
            f"d_model={d_model} channels cannot be divided among n_heads={n_heads}; "
            "choose a number of heads that divides d_model"
        )


def check_backend(backend: str, known: Collection[str]) -> None:
    """Check the name of a backend that was passed as an argument.

    Args:
        backend: The name.
        known: The names that exist.

    Raises:
        ValueError: If it does not exist.
    """
    if backend not in known:
        raise ValueError(f'backend "{backend}" does not exist; choose one of {_quoted(known)}')


def backend_from_environment(known: Collection[str]) -> str:
    """The backend that the environment variable DDETR_BACKEND names; "auto" if it is not set.

    Args:
        known: The names that exist.

    Returns:
        The name.

    Raises:
        ValueError: If it does not exist.
    """
    backend = os.environ.get("DDETR_BACKEND", "auto")
    if backend not in known:
        raise ValueError(
            f'the environment variable DDETR_BACKEND is "{backend}"; set it to one of '
            f"{_quoted(known)}"
        )
    return backend


def check_device(backend: str, value: Tensor) -> None:
    """Check that the tensors are where a compiled kernel can read them.

    Args:
        backend: "cpu" or "cuda".
        value: The tensor that stands for all.

    Raises:
        ValueError: If it is on another kind of device.
    """
    if value.device.type != backend:
        needed = {"cpu": "on the CPU", "cuda": "on a GPU"}[backend]
        raise ValueError(
            f'backend "{backend}" needs tensors {needed}, but value is on {value.device}'
        )


def _check_axes(name: str, tensor: Tensor) -> None:
    axes = AXES[name]
    if tensor.dim() != len(axes):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, but it takes {len(axes)} axes, "
            f"({', '.join(axes)})"
        )


def _check_not_a_tensor(spatial_shapes: object) -> None:
    if isinstance(spatial_shapes, Tensor):
        raise TypeError(
            "spatial_shapes is a tensor, but plain integers are needed: "
            "pass a list [(H, W), ...], for example spatial_shapes.tolist()"
        )


def _check_level_sizes(spatial_shapes: list[tuple[int, int]], n_tokens: int) -> None:
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


def _check_module_dtypes(
    parameter: Tensor, query: Tensor, value: Tensor, reference_points: Tensor
) -> None:
    device = parameter.device.type
    computes_in = parameter.dtype
    if device == "meta" or not torch.is_autocast_enabled(device):
        for name, tensor in (("query", query), ("value", value)):
            if tensor.dtype != parameter.dtype:
                raise TypeError(
                    f"{name} is {tensor.dtype}, but this module computes in {parameter.dtype}; "
                    "convert one to the other"
                )
    elif computes_in != torch.float64:  # which autocast leaves alone
        computes_in = torch.get_autocast_dtype(device)
    if not _fit_together(computes_in, reference_points.dtype):
        raise TypeError(
            f"reference_points is {reference_points.dtype}, but this module computes in "
            f"{computes_in}; use one floating type, or 32-bit reference points in a 16-bit module"
        )


def _fit_together(value: torch.dtype, coordinates: torch.dtype) -> bool:
    """Whether values of one dtype can be sampled at coordinates of another."""
    if value in SIXTEEN_BITS and coordinates == torch.float32:
        return True
    return value == coordinates and value in FLOATS


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
