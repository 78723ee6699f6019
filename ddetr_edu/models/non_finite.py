"""Which tensor of a model is NaN or infinite first, so that nobody searches for it.

A NaN does not always reach the answer: sampling at a location that is NaN reads zeros, and of
objectnesses that are NaN a wrong token is chosen. So parameters are checked as well as answers.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ddetr_edu.models.deformable_detr import Predictions


@torch.no_grad()
def check_finite(
    model: nn.Module, images: Tensor, padding_mask: Tensor, predictions: Predictions
) -> None:
    """Raise unless a model and what it predicted are finite.

    If all is finite, this only sums every tensor; otherwise the model runs once more.

    Args:
        model: The model.
        images: (N, 3, H, W), its input.
        padding_mask: (N, H, W) bool, its input.
        predictions: Its output.

    Raises:
        ValueError: Naming the first tensor that is not finite: a parameter or a buffer, the images,
            or else the output of a module.
    """
    layers = [predictions, *predictions.aux, predictions.encoder]
    answers = [tensor for layer in layers if layer for tensor in (layer.logits, layer.boxes)]
    if seem_finite([*model.parameters(), *model.buffers(), *answers]):
        return
    found = first_non_finite(model)
    if found is None:
        if all(bool(tensor.isfinite().all()) for tensor in answers):
            return  # the sum of large numbers overflowed
        if not images.isfinite().all():
            raise ValueError(f"the images hold NaN or infinity {share(images)}; give other images")
        found = first_activation(model, images, padding_mask) or "the predictions"
    raise ValueError(
        f"the model's answer cannot be used: the first tensor with NaN or infinity is {found}; "
        "load an earlier checkpoint, or train again with a lower learning rate"
    )


def first_non_finite(model: nn.Module) -> str | None:
    """Find the first parameter or buffer of a model that is not finite.

    Args:
        model: Any module.

    Returns:
        Such as "the parameter heads.0.weight (1 of 64 numbers)"; None if all are finite.
    """
    for kind, name, tensor in named_floats(model):
        if not tensor.isfinite().all():
            return f"the {kind} {name} {share(tensor)}"
    return None


def first_activation(model: nn.Module, *inputs: Tensor) -> str | None:
    """Run a model again, and find the first module whose output is not finite.

    Args:
        model: Any module.
        *inputs: Its arguments.

    Returns:
        Such as "the output of heads.0 (3 of 640 numbers)"; None if all are finite.
    """
    found: list[str] = []

    def look(name: str):
        def hook(module, args, output) -> None:
            for tensor in tensors_in(output):
                if not found and not tensor.isfinite().all():
                    found.append(f"the output of {name or 'the model'} {share(tensor)}")

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def named_floats(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """("parameter" or "buffer", its name, the tensor) for each that is of floats."""
    kinds: tuple[tuple[str, Iterable], ...] = (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    )
    for kind, tensors in kinds:
        for name, tensor in tensors:
            if tensor.is_floating_point():
                yield kind, name, tensor


def seem_finite(tensors: list[Tensor]) -> bool:
    """Whether the sum of each is finite: then all numbers are, and one transfer tells."""
    sums = [tensor.sum(dtype=torch.float32) for tensor in tensors]
    return bool(torch.stack(sums).isfinite().all())


def tensors_in(output: object) -> Iterator[Tensor]:
    """The tensors of floats in what a module returns: a tensor, a tuple, a dataclass, ..."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from tensors_in(getattr(output, field.name))
    elif isinstance(output, dict):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from tensors_in(each)


def share(tensor: Tensor) -> str:
    """ "(1 of 64 numbers)" """
    return f"({int((~tensor.isfinite()).sum())} of {tensor.numel()} numbers)"
