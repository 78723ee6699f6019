"""Batch norms fused into the convolutions before them, for faster inference."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

from ddetr_edu.models.backbone import FrozenBatchNorm2d

NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d)


def fuse_conv_bn(backbone: nn.Module) -> None:
    """Fuse each batch norm into the convolution before it: faster, and for inference only.

    In evaluation a batch norm scales and shifts each channel, which the parameters of the
    convolution can do as well; two passes over every feature map are saved. The norms' own
    parameters are gone then: the backbone can neither be trained nor saved.

    Args:
        backbone: In evaluation mode, changed in place. A fused batch norm becomes an identity or,
            if it is one of timm's with an activation in it, that activation. A norm that reads
            something else than the convolution before it, such as a sum, is left as it is.
    """
    convolution = convolution_before_each_norm(backbone)
    for parent in list(backbone.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(norm, NORMS) and convolution.get(norm) is conv:
                assert isinstance(conv, nn.Conv2d)
                assert norm.running_mean is not None and norm.running_var is not None
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight,
                    conv.bias,
                    norm.running_mean,
                    norm.running_var,
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                setattr(parent, name, getattr(norm, "act", nn.Identity()))


@torch.no_grad()
def convolution_before_each_norm(backbone: nn.Module) -> dict[nn.Module, nn.Module]:
    """The convolution whose output each batch norm reads, as observed on an image.

    The order in which modules are registered is no proof: in some backbones of timm the norm after
    a convolution reads the sum of two branches.

    Args:
        backbone: In evaluation mode.

    Returns:
        {batch norm: convolution}, without the norms that read something else.
    """
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # tensors are kept, so that ids stay theirs
    found: dict[nn.Module, nn.Module] = {}

    def record_output(conv, args, output):
        outputs[id(output)] = conv, output

    def record_input(norm, args):
        if id(args[0]) in outputs:
            found[norm] = outputs[id(args[0])][0]

    hooks = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(record_output))
        elif isinstance(module, NORMS):
            hooks.append(module.register_forward_pre_hook(record_input))
    try:
        backbone(next(backbone.parameters()).new_zeros(1, 3, 128, 192))
    finally:
        for hook in hooks:
            hook.remove()
    return found
