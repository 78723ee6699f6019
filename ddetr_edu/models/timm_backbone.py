"""The backbones of timm: any of its networks that gives feature maps of strides 8, 16 and 32."""

import difflib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_edu.models.norms import clear_padding
from ddetr_edu.models.pretrained import joined, load_backbone

STRIDES = (8, 16, 32)


class MissingTimm(ValueError):
    """timm, which not everybody needs, is not installed."""


class TimmBackbone(nn.Module):
    """A network of timm, read where its maps have strides 8, 16 and 32.

    `channels` are those of the three maps. Images are normalised with `image_mean` and `image_std`,
    which timm's networks do not all share; as buffers they are saved with the parameters.

    With frozen_norms it is treated as a ResNet: batch norms keep their statistics and parameters,
    and layers up to stride 4 are not trained. Without, everything is trained, which is for
    networks without pretrained parameters and needs more than a few images in a batch.

    Args:
        name: The name of the network in timm, such as "tf_efficientnet_lite0".
        frozen_norms: Freeze batch norms and the first layers.

    Raises:
        MissingTimm: If timm is not installed.
        ValueError: If timm has no such network, or it has no such maps.
    """

    body: Any  # timm's, with a `feature_info`
    channels: tuple[int, int, int]
    image_mean: Tensor  # (3,), in RGB
    image_std: Tensor  # (3,)

    def __init__(self, name: str, frozen_norms: bool = True):
        super().__init__()
        self.name, self.frozen_norms = name, frozen_norms
        self.body = create_features(name)
        info = self.body.feature_info
        index = {stride: i for i, stride in enumerate(info.reduction())}
        if not set(STRIDES) <= set(index):
            raise ValueError(
                f"timm/{name} has feature maps of strides {', '.join(map(str, info.reduction()))}, "
                "and the detector needs 8, 16 and 32; choose another backbone"
            )
        self.indices = [index[stride] for stride in STRIDES]
        c3, c4, c5 = (info.channels()[i] for i in self.indices)
        self.channels = (c3, c4, c5)
        settings = self.body.pretrained_cfg
        self.register_buffer("image_mean", torch.tensor(settings["mean"]))
        self.register_buffer("image_std", torch.tensor(settings["std"]))
        self.multiple_of = 1  # sides that images are padded to, for networks that would round down
        self._check_maps()
        convolutions = [m for m in self.body.modules() if isinstance(m, nn.Conv2d)]
        self.is_depthwise = any(1 < conv.groups == conv.in_channels for conv in convolutions)
        if frozen_norms:
            self._freeze()

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> list[Tensor]:
        """Images (N, 3, H, W) -> three maps (N, C_i, H_i, W_i), finest first.

        With a padding_mask (N, H, W) bool the maps are zero at the padding; what convolutions and
        other layers before have read of it stays, as in a ResNet.
        """
        height, width = images.shape[2:]
        if self.multiple_of > 1:
            images = F.pad(images, (0, -width % self.multiple_of, 0, -height % self.multiple_of))
        with self._faster_precision(images.device.type):
            # With the channels of a pixel side by side, depthwise convolutions are faster.
            maps = self.body(images.contiguous(memory_format=torch.channels_last))
        maps = [maps[i] for i in self.indices]
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":  # else it is always NCHW
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        if self.multiple_of > 1:
            maps = [
                m[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
                for m, stride in zip(maps, STRIDES, strict=True)
            ]
        return maps if padding_mask is None else clear_padding(maps, padding_mask)

    def _faster_precision(self, device: str) -> AbstractContextManager:
        """In training on a CPU, fp32 for a network with depthwise convolutions.

        torch computes the gradient of a depthwise convolution of 5 x 5 pixels on a CPU six times
        slower in bf16 than in fp32, which costs more than bf16 gains everywhere else.
        """
        is_trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if device == "cpu" and is_trained and self.is_depthwise:
            return torch.autocast(device, enabled=False)
        return nullcontext()

    def train(self, mode: bool = True) -> "TimmBackbone":
        """As of any module, but frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norms:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def load_imagenet(self) -> None:
        """Load the pretrained parameters that timm publishes for this network.

        They are downloaded once, into the cache of huggingface_hub.

        Raises:
            OSError: If they are not in the cache and cannot be downloaded.
            ValueError: If timm publishes none, or of another network.
        """
        import huggingface_hub  # timm needs it

        repository = self.body.pretrained_cfg.get("hf_hub_id")
        if not repository:
            raise ValueError(
                f"timm publishes no pretrained parameters of {self.name}; give a file of yours "
                "(--backbone-weights), or train without"
            )
        try:
            path = huggingface_hub.hf_hub_download(repository, "model.safetensors")
        except Exception as error:  # of classes of its own, some of them not OSError
            reason = " ".join(str(error).split())[:160]
            raise OSError(
                f"the pretrained parameters of timm/{self.name} could not be downloaded from "
                f"https://huggingface.co/{repository} ({reason}); connect to the network, or give "
                "the file model.safetensors from there (--backbone-weights), or train without"
            ) from None
        self.load_file(path)

    def load_file(self, path: str | Path) -> None:
        """Load the parameters of the whole network, as timm names them, from a .safetensors file.

        Args:
            path: The file.

        Raises:
            ValueError: If it cannot be read, or does not fit.
        """
        load_backbone(self.body, path, import_timm().create_model(self.name), f"timm/{self.name}")

    def _batch_norms(self) -> list[nn.Module]:
        return [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def _freeze(self) -> None:
        """Leave the batch norms and the layers up to stride 4 out of training."""
        for norm in self._batch_norms():
            norm.requires_grad_(False)
        modules = [i["module"] for i in self.body.feature_info.info if i["reduction"] <= 4]
        prefixes = tuple(f"{joined(module)}_" for module in modules)
        parameters = list(self.body.named_parameters())  # in the order of computation
        count = max(
            (i for i, (n, _) in enumerate(parameters, 1) if joined(n).startswith(prefixes)),
            default=0,
        )
        for _, parameter in parameters[:count]:
            parameter.requires_grad_(False)

    @torch.no_grad()
    def _check_maps(self) -> None:
        """Raise unless the network takes images of any size and its maps are as it says."""
        height, width = 101, 171  # no multiples of any stride
        expected = [
            (1, c, math.ceil(height / stride), math.ceil(width / stride))
            for c, stride in zip(self.channels, STRIDES, strict=True)
        ]
        image = self.image_mean.new_zeros(1, 3, height, width)
        try:
            shapes = [tuple(m.shape) for m in self.eval()(image)]
            if shapes != expected:
                self.multiple_of = STRIDES[-1]
                shapes = [tuple(m.shape) for m in self(image)]
            problem = f"gives maps of {shapes} instead of {expected}"
        except Exception as error:  # whatever a network of timm may raise
            shapes, problem = [], f"fails ({' '.join(str(error).split())[:160]})"
        self.train()
        if shapes != expected:
            raise ValueError(
                f"timm/{self.name} cannot be a backbone: of an image (1, 3, {height}, {width}) it "
                f"{problem}; choose a network for images of any size"
            )


def import_timm():
    """The module timm.

    Raises:
        MissingTimm: If it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise MissingTimm(
            "backbones named timm/... need the package timm, which is not installed; pip install "
            "timm"
        ) from None
    return timm


def create_features(name: str) -> nn.Module:
    """A network of timm that returns its feature maps, with random parameters.

    Args:
        name: In timm, with or without the tag of its pretrained parameters.

    Returns:
        A module: images (N, 3, H, W) -> a list of maps; it has a `feature_info`.

    Raises:
        MissingTimm: If timm is not installed.
        ValueError: If timm has no such network, or cannot take it apart.
    """
    timm = import_timm()
    known, plain = timm.list_models(), name.partition(".")[0]
    if plain not in known:
        similar = difflib.get_close_matches(plain, known, 3)
        hint = (
            f"similar ones are {', '.join(similar)}" if similar else "timm.list_models() lists all"
        )
        raise ValueError(f'timm {timm.__version__} has no model "{plain}"; {hint}')
    try:
        return timm.create_model(name, features_only=True)
    except Exception as error:  # RuntimeError for a tag, AttributeError without features, ...
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"timm {timm.__version__} cannot build {name} as a backbone ({reason}); choose another"
        ) from None


@contextmanager
def exportable_padding() -> Iterator[None]:
    """Lets torch export, for any image size, those of timm's networks that pad as TensorFlow does.

    They pad each convolution by as much as its input's size needs, and compute that by
    dividing floating-point numbers, which torch.export cannot simplify: it does not end. With
    integers it is the same padding.
    """
    from timm.layers import padding

    def same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:  # x: a side
        reach = (kernel_size - 1) * dilation + 1
        if reach < stride:
            return max(-x % stride + reach - stride, 0)
        return (x + stride - 1) // stride * stride + reach - stride - x

    original = padding.get_same_padding
    padding.get_same_padding = same_padding
    try:
        yield
    finally:
        padding.get_same_padding = original
