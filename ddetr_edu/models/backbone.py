"""From an image to feature maps: a convolutional network read at several depths."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import misc

from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig
from ddetr_edu.models.norms import apply_norm, clear_padding
from ddetr_edu.models.pretrained import load_backbone
from ddetr_edu.models.timm_backbone import TimmBackbone

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, in RGB
STD = (0.229, 0.224, 0.225)


class FrozenBatchNorm2d(misc.FrozenBatchNorm2d):
    """torchvision's frozen batch norm, in one pass over the feature map instead of two.

    Under autocast the feature map also stays in 16 bits, which torchvision's turns into fp32.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class ResNetBackbone(nn.Module):
    """A torchvision ResNet, read after its last three stages: C3, C4, C5.

    Every batch norm is frozen, and so are the stem and the first stage: batches in detection are
    too small to estimate statistics, and early filters need no change.

    `channels` are those of the three maps. Their strides are 8, 16 and 32, with dilation 8, 16 and
    16.

    Source: models/backbone.py of the official code.

    Args:
        name: The name of a torchvision ResNet.
        dilation: Dilate the convolutions of the last stage instead of giving it a stride (DC5).

    Raises:
        ValueError: If torchvision has no such model, or cannot dilate it.
    """

    channels: tuple[int, int, int]

    def __init__(self, name: str = "resnet50", dilation: bool = False):
        super().__init__()
        try:
            resnet = get_model(
                name,
                weights=None,
                norm_layer=FrozenBatchNorm2d,
                replace_stride_with_dilation=[False, False, dilation],
            )
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f'torchvision cannot build the backbone "{name}": {error}') from None
        stages = {"layer2": "C3", "layer3": "C4", "layer4": "C5"}
        self.body = IntermediateLayerGetter(resnet, stages)  # drops the classifier
        widest = resnet.fc.in_features
        self.name, self.channels = name, (widest // 4, widest // 2, widest)
        for parameter_name, parameter in self.body.named_parameters():
            if not parameter_name.startswith(("layer2", "layer3", "layer4")):
                parameter.requires_grad_(False)

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> list[Tensor]:
        """Images (N, 3, H, W) -> three maps (N, C_i, H_i, W_i), finest first.

        With a padding_mask (N, H, W) bool the maps are zero at the padding. The norms are frozen
        and have no statistics that padding could change, but convolutions at the border of an image
        read what the layers before have made of the padding, as in the official code.
        """
        maps = list(self.body(images).values())
        return maps if padding_mask is None else clear_padding(maps, padding_mask)

    def load_imagenet(self) -> None:
        """Load the ImageNet parameters that the official models started from.

        They are downloaded once, into torch.hub's cache.

        Raises:
            OSError: If they are not in the cache and cannot be downloaded.
        """
        weights = get_model_weights(self.name).IMAGENET1K_V1
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"the ImageNet parameters of {self.name} could not be downloaded from "
                f"{weights.url} ({error}); connect to the network, or put the file into "
                f"{torch.hub.get_dir()}/checkpoints, or train without them"
            ) from None
        state = {k: v for k, v in state.items() if not k.startswith("fc.")}
        self.body.load_state_dict(state)

    def load_file(self, path: str | Path) -> None:
        """Load the parameters of the whole ResNet from a .safetensors file.

        Args:
            path: The file, under torchvision's names, which are also those of timm's plain ResNets.

        Raises:
            ValueError: If it cannot be read, or does not fit.
        """
        load_backbone(self.body, path, get_model(self.name, weights=None), self.name)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; at first the shortcut alone, as the last norm is 0.

    Args:
        inputs: The input channels.
        outputs: The output channels.
        stride: Of the first convolution and the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride), rounded up."""
        out = apply_norm(self.norm1, self.conv1(x), padding_mask).relu()
        out = apply_norm(self.norm2, self.conv2(out), padding_mask)
        if isinstance(self.shortcut, nn.Sequential):
            conv, norm = self.shortcut
            x = apply_norm(norm, conv(x), padding_mask)
        return (out + x).relu()


class TinyBackbone(nn.Module):
    """A ResNet small enough to train from scratch on a laptop: 1.3 million parameters.

    A stride-4 stem and four stages of 32, 64, 128 and 192 channels. `channels` are those of the
    three maps, whose strides are 8, 16 and 32.
    """

    channels: tuple[int, int, int] = (64, 128, 192)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            ResidualBlock(32, 32, 1),
        )  # stride 4
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ResidualBlock(32, 64, 2), ResidualBlock(64, 64, 1)),  # stride 8
                nn.Sequential(ResidualBlock(64, 128, 2), ResidualBlock(128, 128, 1)),  # stride 16
                ResidualBlock(128, 192, 2),  # stride 32
            ]
        )

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> list[Tensor]:
        """Images (N, 3, H, W) -> three maps (N, C_i, H_i, W_i), finest first.

        With a padding_mask (N, H, W) bool every norm leaves out the padding, and every convolution
        reads zeros there.
        """
        conv1, norm1, relu, conv2, norm2, _, block = self.stem  # read one by one, for the mask
        x = relu(apply_norm(norm1, conv1(images), padding_mask))
        x = relu(apply_norm(norm2, conv2(x), padding_mask))
        x = block(x, padding_mask)
        maps = []
        for stage in self.stages:
            for block in stage if isinstance(stage, nn.Sequential) else [stage]:
                x = block(x, padding_mask)
            maps.append(x)
        return maps


def build_backbone(
    config: DeformableDETRConfig | DETRConfig,
) -> ResNetBackbone | TimmBackbone | TinyBackbone:
    """The backbone that a configuration names.

    Args:
        config: The architecture of the model.

    Returns:
        A module: images (N, 3, H, W) -> three maps (N, C_i, H_i, W_i), finest first; its `channels`
        are (C_1, C_2, C_3).

    Raises:
        ValueError: If torchvision or timm cannot build it, or timm is not installed.
    """
    if config.backbone == "tiny":
        return TinyBackbone()
    if config.backbone.startswith("timm/"):
        return TimmBackbone(config.backbone.removeprefix("timm/"), config.frozen_norms)
    return ResNetBackbone(config.backbone, config.dilation)


def normalization(backbone: nn.Module) -> tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]:
    """The mean and the standard deviation that images for a backbone are normalised with.

    Args:
        backbone: Of a model; one of timm has its own in `image_mean` and `image_std`.

    Returns:
        Three numbers each, in RGB; those of ImageNet if the backbone has none of its own.
    """
    return getattr(backbone, "image_mean", MEAN), getattr(backbone, "image_std", STD)
