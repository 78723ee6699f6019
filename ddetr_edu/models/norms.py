"""Norms that leave out padding: an image gets the same features alone and beside a larger one.

A batch is as large as its largest image, and a norm that takes its mean and variance over all of a
feature map takes them over the padding as well. Then the features of an image depend on the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize_mask(padding_mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """The padding mask of a level, by nearest neighbour: (N, H, W) bool -> (N, *shape) bool."""
    return F.interpolate(padding_mask[None].float(), size=shape, mode="nearest")[0].bool()


def clear_padding(maps: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
    """Put zeros into the padding of feature maps.

    Args:
        maps: (N, C_i, H_i, W_i) each.
        padding_mask: (N, H, W) bool, True = padding, at the size of the images.

    Returns:
        Maps of the same shapes.
    """
    masks = [resize_mask(padding_mask, (m.shape[2], m.shape[3])) for m in maps]
    return [m.masked_fill(mask[:, None], 0.0) for m, mask in zip(maps, masks, strict=True)]


def apply_norm(norm: nn.Module, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Apply a norm; with a mask, its statistics are those of the image, and padding becomes zero.

    The zeros are what a convolution pads an image with that is alone, so that the next convolution
    computes the same at its borders.

    Without a mask this is `norm(x)`, except where a norm has one value only, such as one image of
    32 x 32 at stride 32, which torch refuses. A group norm then gives its bias, and a batch norm in
    training uses its running statistics, since one value has no variance.

    Args:
        norm: A group norm or a batch norm, or what replaces one: a frozen norm or an identity.
        x: (N, C, H_l, W_l), the feature map of any stride.
        padding_mask: (N, H, W) bool, True = padding, at the size of the images; None for norms over
            the whole map.

    Returns:
        (N, C, H_l, W_l)
    """
    if padding_mask is None:
        if isinstance(norm, nn.GroupNorm):
            return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        if isinstance(norm, nn.BatchNorm2d) and norm.training:
            return _batch_norm(norm, x)
        return norm(x)
    padding = resize_mask(padding_mask, (x.shape[2], x.shape[3]))  # (N, H_l, W_l)
    if isinstance(norm, nn.BatchNorm2d) and norm.training:
        return _masked_batch_norm(norm, x, padding)
    x = _masked_group_norm(norm, x, padding) if isinstance(norm, nn.GroupNorm) else norm(x)
    return x * (~padding[:, None]).to(x.dtype)  # on a CPU four times as fast as masked_fill


def _masked_group_norm(norm: nn.GroupNorm, x: Tensor, padding: Tensor) -> Tensor:
    """A group norm whose mean and variance leave out the padding (N, H, W)."""
    dtype = torch.promote_types(x.dtype, torch.float32)  # 16 bits are too few for sums
    groups = x.to(dtype).unflatten(1, (norm.num_groups, -1))  # (N, G, C/G, H, W)
    outside = padding[:, None, None]
    count = (~outside).sum((2, 3, 4), keepdim=True) * groups.shape[2]
    mean = groups.masked_fill(outside, 0.0).sum((2, 3, 4), keepdim=True) / count
    centred = (groups - mean).masked_fill(outside, 0.0)
    variance = centred.square().sum((2, 3, 4), keepdim=True) / count
    normed = (centred * torch.rsqrt(variance + norm.eps)).flatten(1, 2)
    normed = normed * norm.weight[:, None, None] + norm.bias[:, None, None]
    # As torch's own, whose result under autocast has 16 bits on a CPU and 32 on a GPU.
    return normed.to(x.dtype if x.device.type == "cpu" else norm.weight.dtype)


def _masked_batch_norm(norm: nn.BatchNorm2d, x: Tensor, padding: Tensor) -> Tensor:
    """A batch norm in training that sees only the values outside the padding (N, H, W)."""
    tokens = x.permute(0, 2, 3, 1)  # (N, H, W, C)
    inside = (~padding).flatten().nonzero()[:, 0]
    values = tokens.flatten(0, 2).index_select(0, inside)  # (number of values, C)
    # Each value as an image of one pixel: of a view (1, C, number, 1) torch gives wrong gradients.
    normed = _batch_norm(norm, values[:, :, None, None])[:, :, 0, 0]
    result = normed.new_zeros(padding.numel(), x.shape[1]).index_copy(0, inside, normed)
    return result.view(tokens.shape).permute(0, 3, 1, 2)


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A batch norm in training; its running statistics where there is one value per channel."""
    if x.numel() > x.shape[1]:
        return norm(x)
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
