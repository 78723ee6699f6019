"""Attention masks of denoising with a hole, through which queries see what they must not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ddetr_edu.models.deformable_detr import DeformableDETR


@contextmanager
def leaking(model: DeformableDETR, leak: str, groups: int) -> Iterator[None]:
    """Let a model use a leaky mask among its queries, as long as the `with` block lasts.

    Args:
        model: The model; it has to be called with denoising queries.
        leak: One of `LEAKS`.
        groups: The number of groups of the denoising queries.

    Raises:
        ValueError: For another leak, listing those that exist.
    """
    if leak not in LEAKS:
        raise ValueError(f'leak "{leak}" does not exist; choose one of {", ".join(LEAKS)}')

    def hook(decoder, args):
        *others, attn_mask = args
        n_own = int((~attn_mask[0, 0]).sum())  # the first query attends to the model's own
        return *others, LEAKS[leak](attn_mask.clone(), n_own, groups)

    handle = model.decoder.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _own_sees_all(attn_mask: Tensor, n_own: int, groups: int) -> Tensor:
    attn_mask[:, :n_own] = False
    return attn_mask


def _groups_see_each_other(attn_mask: Tensor, n_own: int, groups: int) -> Tensor:
    among_extra = attn_mask[:, n_own:, n_own:]
    padding = among_extra.all(dim=1, keepdim=True)  # nobody attends to it
    among_extra[:] = padding
    return attn_mask


def _padding_is_seen(attn_mask: Tensor, n_own: int, groups: int) -> Tensor:
    n_extra = attn_mask.shape[1] - n_own
    group = torch.arange(n_extra) // (n_extra // groups)
    attn_mask[:, n_own:, n_own:] = group[:, None] != group
    return attn_mask


# What leaks -> a function (right mask (N, Lq + E, Lq + E), Lq, groups) -> the leaky one.
LEAKS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "nothing": lambda attn_mask, n_own, groups: attn_mask,
    "the model's own queries see all": _own_sees_all,
    "groups see each other": _groups_see_each_other,
    "the padding is seen": _padding_is_seen,
}
