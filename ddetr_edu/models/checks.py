"""What a model can take: batches of images, and parameters. Every mistake becomes one sentence."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def check_batch(images: Tensor, padding_mask: Tensor, parameter: Tensor) -> None:
    """Check that a model can take this batch.

    Args:
        images: What should be (N, 3, H, W), normalised.
        padding_mask: What should be (N, H, W) bool, True = padding.
        parameter: Any parameter of the model, which tells its device and dtype.

    Raises:
        ValueError: For a wrong shape, device or mask.
        TypeError: For something else than tensors, or images of another dtype than the model.
    """
    for name, value in (("images", images), ("padding_mask", padding_mask)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is of type {type(value).__name__}, but the model takes a tensor; "
                "`make_batch` makes a batch and its padding_mask from images, and a `Detector` "
                "takes a list of images"
            )
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images is {images.dtype} of shape {tuple(images.shape)}, but the model takes "
            "normalised floating-point images (N, 3, H, W)"
        )
    if 0 in images.shape:
        raise ValueError(
            f"images has shape {tuple(images.shape)}; the model takes one or more images (N, 3, H, "
            "W) of at least one pixel"
        )
    if images.device != parameter.device or padding_mask.device != parameter.device:
        raise ValueError(
            f"images are on {images.device} and padding_mask on {padding_mask.device}, but the "
            f"model is on {parameter.device}; move them to one device"
        )
    if images.dtype != parameter.dtype and not torch.is_autocast_enabled(parameter.device.type):
        raise TypeError(
            f"images are {images.dtype}, but the model computes in {parameter.dtype}; convert one "
            "to the other"
        )
    expected = (images.shape[0], *images.shape[2:])
    if padding_mask.shape != expected or padding_mask.dtype != torch.bool:
        raise ValueError(
            f"padding_mask is {padding_mask.dtype} of shape {tuple(padding_mask.shape)}, but "
            f"with these images it must be bool of shape {expected}, True = padding"
        )
    if torch.compiler.is_compiling() or padding_mask.is_meta:
        return  # a graph does not depend on values, and on the device "meta" there are none
    if padding_mask[:, 0, 0].any():
        raise ValueError(
            "padding_mask marks the top left pixel of an image as padding; images must lie "
            "in the top left corner, with True = padding (Hugging Face's pixel_mask is the "
            "inverse)"
        )
    if not torch.equal(padding_mask, rectangular_mask(padding_mask)):
        raise ValueError(
            "padding_mask leaves something else than a rectangle in the top left corner of an "
            "image; an image fills a rectangle there, and all right of it and below it is padding"
        )


def rectangular_mask(padding_mask: Tensor) -> Tensor:
    """The mask of images as high as the first column of a mask says, and as wide as the first row.

    Args:
        padding_mask: (N, H, W) bool, True = padding.

    Returns:
        (N, H, W) bool: the same, if each image fills a rectangle in the top left corner.
    """
    _, height, width = padding_mask.shape
    heights, widths = (~padding_mask[:, :, 0]).sum(1), (~padding_mask[:, 0, :]).sum(1)  # (N,)
    below = torch.arange(height, device=padding_mask.device) >= heights[:, None]  # (N, H)
    right = torch.arange(width, device=padding_mask.device) >= widths[:, None]  # (N, W)
    return below[:, :, None] | right[:, None, :]


class ConfiguredModel(nn.Module):
    """A module with a `config`, which loads parameters only if they fit that configuration."""

    config: Any

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module, but a mismatch is a sentence that names the configuration's fields.

        Raises:
            ValueError: If a shape differs, or, with strict, a name.
        """
        check_parameters(self, state_dict, strict)
        return super().load_state_dict(state_dict, strict, assign)


def check_parameters(model: ConfiguredModel, given: Mapping[str, Any], strict: bool) -> None:
    """Check that a state dict fits a model.

    Args:
        model: The model.
        given: The parameters and buffers to load.
        strict: Whether names must be the same; shapes always must.

    Raises:
        ValueError: Naming the first that does not fit, and the fields of the configuration that its
            size may come from.
    """
    own = dict([*model.named_parameters(), *model.named_buffers()])
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    differing = [name for name in own if name in given and given[name].shape != own[name].shape]
    problems = []
    if differing:
        ours, theirs = own[differing[0]].shape, given[differing[0]].shape
        fields = [
            f"{field}={value}"
            for field, value in vars(model.config).items()
            if type(value) is int and value in ours and value not in theirs
        ]
        because = f"with {' and '.join(fields)} " if fields else ""
        problems.append(
            f"{differing[0]} has shape {tuple(theirs)}, but in this model {because}it is "
            f"{tuple(ours)}"
        )
    if strict and missing:
        problems.append(f"{len(missing)} of this model's are missing, such as {missing[0]}")
    if strict and unknown:
        problems.append(f"{len(unknown)} are unknown to this model, such as {unknown[0]}")
    if problems:
        raise ValueError(
            f"the parameters do not fit the model: {'; '.join(problems)}. Build the model with the "
            "configuration that the parameters were trained with; another one has to be trained"
        )
