"""A detector that forgets the padding of its batch somewhere, as its authors may.

Each fault replaces what one part of the model is given or returns; nothing else changes. Only
"whole batch" is three faults at once, which agree with each other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ddetr_edu.attention import MSDeformAttn, valid_ratios
from ddetr_edu.models.deformable_detr import DeformableDETR, Predictions


@contextmanager
def forgetting(model: DeformableDETR, fault: str) -> Iterator[None]:
    """Let a model have one of the faults, as long as the `with` block lasts.

    Args:
        model: A model in two stages.
        fault: One of `FAULTS`.

    Raises:
        ValueError: For another fault, listing those that exist.
    """
    if fault not in FAULTS:
        raise ValueError(f'fault "{fault}" does not exist; choose one of {", ".join(FAULTS)}')
    hooks = FAULTS[fault](model)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _nothing(model: DeformableDETR) -> list[RemovableHandle]:
    return []


def _at_each_attention(change: Callable) -> Callable:
    """A fault in each attention.

    Args:
        change: A function (value (N, S, C), padding_mask (N, S)) -> (value, padding_mask or None).

    Returns:
        A function (model) -> its hooks.
    """

    def hook(attention, args):
        query, references, value, spatial_shapes, padding_mask = args
        value, padding_mask = change(value, padding_mask)
        return query, references, value, spatial_shapes, padding_mask

    return lambda model: [
        module.register_forward_pre_hook(hook)
        for module in model.modules()
        if isinstance(module, MSDeformAttn)
    ]


def _mask_first(value: Tensor, padding_mask: Tensor) -> tuple[Tensor, None]:
    return value.masked_fill(padding_mask[..., None], 0.0), None


def _with_ratios(change: Callable, part: str) -> Callable:
    """A fault in the valid ratios that the encoder or the decoder is given.

    Args:
        change: A function (ratios (N, L, 2)) -> other ratios.
        part: "encoder" or "decoder".

    Returns:
        A function (model) -> its hooks.
    """

    def hook(module, args):
        before, ratios, after = args[:3], args[3], args[4:]
        return *before, change(ratios), *after

    return lambda model: [getattr(model, part).register_forward_pre_hook(hook)]


def _first_layer_only(model: DeformableDETR) -> list[RemovableHandle]:
    """From the second decoder layer on, references stay fractions of the image."""
    scale: list[Tensor] = []  # of the running forward pass, (N, 1, L, 4)

    def keep(decoder, args):
        scale[:] = [args[3].repeat(1, 1, 2)[:, None]]

    def undo(layer, args):
        content, position, on_levels, *others = args
        return content, position, on_levels / scale[0], *others

    later = [layer.register_forward_pre_hook(undo) for layer in model.decoder.layers[1:]]
    return [model.decoder.register_forward_pre_hook(keep), *later]


def _propose_everywhere(model: DeformableDETR) -> list[RemovableHandle]:
    def hook(queries, args):
        memory, padding_masks = args
        return memory, [torch.zeros_like(mask) for mask in padding_masks]

    return [model.queries.register_forward_pre_hook(hook)]


def _scale_to_batch(model: DeformableDETR) -> list[RemovableHandle]:
    """Fractions of the image are taken for fractions of the batch when they become pixels."""

    def hook(model, args, predictions: Predictions) -> Predictions:
        ratios = valid_ratios([args[1]])  # (N, 1, 2), of the images themselves
        return replace(predictions, boxes=predictions.boxes / ratios.repeat(1, 1, 2))

    return [model.register_forward_hook(hook)]


_forget_decoder_ratios = _with_ratios(torch.ones_like, "decoder")


def _stay_in_batch(model: DeformableDETR) -> list[RemovableHandle]:
    """From the proposals to the predicted boxes, everything is a fraction of the batch."""
    faults = (_propose_everywhere, _forget_decoder_ratios, _scale_to_batch)
    return [hook for fault in faults for hook in fault(model)]


# How the padding is forgotten -> a function (model) -> the hooks that make it so.
FAULTS: dict[str, Callable[[DeformableDETR], list[RemovableHandle]]] = {
    "nowhere": _nothing,
    "no mask": _at_each_attention(lambda value, padding_mask: (value, None)),
    "mask too early": _at_each_attention(_mask_first),
    "encoder ratios": _with_ratios(torch.ones_like, "encoder"),
    "decoder ratios": _forget_decoder_ratios,
    "later layers": _first_layer_only,
    "ratios swapped": _with_ratios(lambda ratios: ratios.flip(-1), "decoder"),
    "first image": _with_ratios(lambda ratios: ratios[:1].expand_as(ratios), "decoder"),
    "proposals": _propose_everywhere,
    "boxes": _scale_to_batch,
    "whole batch": _stay_in_batch,
}
