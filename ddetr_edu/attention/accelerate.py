"""Our operation under other people's models: the same answers, faster on a CPU.

The models of transformers, mmcv and the official code each compute offsets and weights in a way of
their own, but all of them end in one function of values, locations and weights. That function is
replaced, where they look it up, by one that takes the same arguments and calls `ms_deform_attn`.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ddetr_edu.attention.kernels.checks import SIXTEEN_BITS
from ddetr_edu.attention.op import ms_deform_attn

# The models of transformers that have deformable attention; older versions lack some of them.
FAMILIES = [
    "d_fine",
    "deformable_detr",
    "deimv2",
    "grounding_dino",
    "lw_detr",
    "mask2former",
    "mm_grounding_dino",
    "omdet_turbo",
    "oneformer",
    "pp_doclayout_v2",
    "pp_doclayout_v3",
    "pp_doclayout_v4",
    "rf_detr",
    "rt_detr",
    "rt_detr_v2",
]
Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Put our operation under a model of another library.

    Known are transformers' Deformable DETR, RT-DETR and its heirs, Grounding DINO and Mask2Former,
    mmcv's MultiScaleDeformableAttention and the official code's MSDeformAttn. The answers are the
    same up to rounding, and the model's parameters are not touched. All models of its kind in this
    process are accelerated from now on; `accelerated_transformers` does it for a while.

    Args:
        model: With deformable attention anywhere in it.

    Returns:
        The model itself.

    Raises:
        ValueError: If no part of the model is known.
    """
    sources = {sys.modules[type(part).__module__] for part in model.modules()}
    patches = [patch for source in sources for patch in patches_of(source)]
    if not patches:
        raise ValueError(
            f"accelerate knows no deformable attention in {type(model).__name__} of "
            f"{type(model).__module__}; it knows that of transformers ({', '.join(FAMILIES)}), of "
            "mmcv and of the official code"
        )
    for patch in patches:
        patch.apply()
    return model


@contextlib.contextmanager
def accelerated_transformers() -> Iterator[None]:
    """Put our operation under all models of transformers, as long as the block lasts.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
    """
    undos = [patch.apply() for source in transformers_sources() for patch in patches_of(source)]
    try:
        yield
    finally:
        for undo in reversed(undos):
            undo()


def transformers_sources() -> list[ModuleType]:
    """The Python modules of the models of transformers that have deformable attention.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
    """
    names = [f"transformers.models.{family}" for family in FAMILIES]
    names = [
        f"{name}.modeling_{name.rpartition('.')[2]}"
        for name in names
        if importlib.util.find_spec(name)
    ]
    return [importlib.import_module(name) for name in names]


class Patch(NamedTuple):
    """One attribute of a class or a Python module that is to be replaced."""

    owner: type | ModuleType
    name: str
    ours: object

    def apply(self) -> Callable[[], None]:
        """Replace the attribute; calling what is returned puts back what was there."""
        had_one = self.name in vars(self.owner)
        theirs = vars(self.owner).get(self.name)
        setattr(self.owner, self.name, self.ours)

        def undo() -> None:
            if had_one:
                setattr(self.owner, self.name, theirs)
            else:
                delattr(self.owner, self.name)

        return undo


def patches_of(source: ModuleType) -> list[Patch]:
    """What is to be replaced in a Python module of another library.

    Args:
        source: The one that defines a model's classes.

    Returns:
        The patches, not yet applied; none if the module has no deformable attention, or one that
        takes other arguments than those known here.
    """
    found: dict[str, Any] = vars(source)
    patches = []
    for name in ("multi_scale_deformable_attention", "multi_scale_deformable_attn_pytorch"):
        if takes(found.get(name), function):
            patches.append(Patch(source, name, function))
    if takes(theirs := found.get("multi_scale_deformable_attention_v2"), function_v2):
        ours = functools.partial(function_v2, original=original_of(theirs))
        patches.append(Patch(source, "multi_scale_deformable_attention_v2", ours))
        # The modules of D-FINE and DEIMv2 keep the function that they were built with.
        keepers = [part for part in found.values() if inspect.isclass(part) and keeps(part)]
        patches += [Patch(part, KEPT, OurFunction(ours)) for part in keepers]
    part = found.get("MultiScaleDeformableAttention")
    if inspect.isclass(part) and takes(getattr(part, "forward", None), forward):
        patches.append(Patch(part, "forward", forward))
    for name in ("MultiScaleDeformableAttnFunction", "MSDeformAttnFunction"):
        if takes(getattr(found.get(name), "forward", None), Kernel.forward):
            patches.append(Patch(source, name, Kernel))
    return patches


def takes(theirs: object, ours: Callable) -> bool:
    """Whether a function of another library takes the arguments that ours takes."""
    if not callable(theirs):
        return False
    names = [list(inspect.signature(function).parameters) for function in (theirs, ours)]
    return [n for n in names[0] if n != "original"] == [n for n in names[1] if n != "original"]


def original_of(function: Any) -> Callable:
    """A function of another library, also if it is replaced at the moment."""
    return getattr(function, "keywords", {}).get("original", function)


def attend(
    value: Tensor, spatial_shapes: Tensor | list, locations: Tensor, weights: Tensor
) -> Tensor:
    """`ms_deform_attn` for tensors as other libraries have them.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each of the L levels: a tensor (L, 2), or a list.
        locations: (N, Lq, M, L, P, 2), (x, y), fractions of their level.
        weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D), of the dtype of value.
    """
    shapes = [(int(height), int(width)) for height, width in spatial_shapes]
    if value.dtype in SIXTEEN_BITS:
        locations, weights = locations.float(), weights.float()
    # Others can read an exported model only if it is made of torch's own operations.
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    backend = "grid_sample" if exporting else "auto"
    return ms_deform_attn(value, shapes, locations, weights, backend=backend)


def function(value, value_spatial_shapes, sampling_locations, attention_weights):
    """In place of `multi_scale_deformable_attention`, and of mmcv's function for the CPU."""
    return attend(value, value_spatial_shapes, sampling_locations, attention_weights)


def function_v2(
    value,
    value_spatial_shapes,
    sampling_locations,
    attention_weights,
    num_points_list,
    method="default",
    *,
    original,
):
    """In place of `multi_scale_deformable_attention_v2`, which RT-DETRv2 and its heirs have."""
    if method != "default":  # "discrete" reads the nearest pixel: another operation
        return original(
            value,
            value_spatial_shapes,
            sampling_locations,
            attention_weights,
            num_points_list,
            method,
        )
    locations = split_levels(sampling_locations, num_points_list)  # (N, Lq, M, L, P, 2)
    weights = split_levels(attention_weights, num_points_list)  # (N, Lq, M, L, P)
    return attend(value, value_spatial_shapes, locations, weights)


def split_levels(points: Tensor, n_points: list[int]) -> Tensor:
    """Give the levels an axis of their own.

    Args:
        points: (N, Lq, M, sum of n_points, ...), level after level.
        n_points: The number of points of each of the L levels.

    Returns:
        (N, Lq, M, L, P, ...), where P is the largest number of points. A level with fewer is filled
        up with zeros, so that its additional points have no weight.
    """
    if len(set(n_points)) == 1:  # nothing to fill up, and nothing to copy
        return points.unflatten(3, (len(n_points), n_points[0]))
    levels = points.movedim(3, 0).split(n_points)  # L times (its points, N, Lq, M, ...)
    return pad_sequence(list(levels)).movedim((1, 0), (3, 4))  # from (P, L, N, Lq, M, ...)


def forward(
    self,
    value,
    value_spatial_shapes,
    value_spatial_shapes_list,
    level_start_index,
    sampling_locations,
    attention_weights,
    im2col_step,
):
    """In place of the method of transformers' `MultiScaleDeformableAttention`."""
    return attend(value, value_spatial_shapes_list, sampling_locations, attention_weights)


class Kernel:
    """In place of the autograd function that calls the kernel of mmcv or of the official code."""

    @staticmethod
    def forward(
        ctx,
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights,
        im2col_step,
    ):
        """With the arguments of theirs; ctx is not used."""
        return attend(value, value_spatial_shapes, sampling_locations, attention_weights)

    @classmethod
    def apply(cls, *arguments):
        """Attention as an ordinary function, which has a gradient of its own."""
        return cls.forward(None, *arguments)


KEPT = "ms_deformable_attn_core"


def keeps(part: type) -> bool:
    """Whether a class calls a function that its instances keep."""
    code = getattr(vars(part).get("forward"), "__code__", None)
    return code is not None and KEPT in code.co_names


class OurFunction:
    """An attribute of a class that hides what its instances keep under the same name.

    Args:
        ours: What the attribute is while it hides theirs.
    """

    def __init__(self, ours: Callable):
        self.ours = ours

    def __get__(self, instance: object, owner: type) -> Callable:
        return self.ours

    def __set__(self, instance: object, theirs: Callable) -> None:
        vars(instance)[KEPT] = original_of(theirs)  # for later: it may be built meanwhile
