"""The backbone that a run starts with: which one, from which parameters, with which norms."""

from typing import Any

from torch import nn

from ddetr_edu.models.backbone import ResNetBackbone
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig
from ddetr_edu.models.timm_backbone import TimmBackbone
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.logging import log0


def choose_backbone(
    config: TrainConfig, architecture: DeformableDETRConfig | DETRConfig
) -> dict[str, Any]:
    """The fields about the backbone of a new model's architecture.

    Args:
        config: The settings of the run.
        architecture: Of the preset or of config.start_from.

    Returns:
        The fields to change. Unless the settings say so, the norms of a backbone of timm are frozen
        if it is pretrained, or as they are in config.start_from.

    Raises:
        ValueError: For --frozen-norms of another backbone.
    """
    name, frozen = config.backbone or architecture.backbone, config.frozen_norms
    if not name.startswith("timm/"):
        if frozen is not None:
            raise ValueError(
                f"--frozen-norms is for backbones of timm (--backbone timm/NAME), and this one is "
                f"{name}: a ResNet's norms are always frozen and those of tiny always trained; "
                "leave it out"
            )
        return {"backbone": name}
    if frozen is None:
        kept = config.start_from is not None and architecture.frozen_norms
        frozen = kept or is_pretrained(config)
    return {"backbone": name, "frozen_norms": frozen}


def is_pretrained(config: TrainConfig) -> bool:
    """Whether the backbone of a new model starts from pretrained parameters."""
    return config.imagenet or config.backbone_weights is not None


def initialise_backbone(config: TrainConfig, backbone: nn.Module) -> None:
    """Load the pretrained parameters that the settings ask for, and say what the backbone is.

    Args:
        config: The settings of the run.
        backbone: Of a new model.

    Raises:
        ValueError: If there are none for it, or the file does not fit.
        OSError: If they cannot be downloaded.
    """
    if not isinstance(backbone, ResNetBackbone | TimmBackbone):
        if is_pretrained(config):
            flag = "--imagenet" if config.imagenet else "--backbone-weights"
            raise ValueError(
                f"{flag} needs a backbone with pretrained parameters, and tiny has none; leave it "
                "out, or choose another --backbone or a preset such as lite or r18_two_stage"
            )
        return
    origin = "random parameters (--imagenet or --backbone-weights FILE would give it others)"
    if config.imagenet:
        backbone.load_imagenet()
        origin = "ImageNet parameters"
    elif config.backbone_weights is not None:
        backbone.load_file(config.backbone_weights)
        origin = f"the parameters of {config.backbone_weights}"
    frozen = getattr(backbone, "frozen_norms", True)
    log0(
        f"backbone {backbone.name}, from {origin}; its norms "
        + ("and first layers are frozen" if frozen else "are trained")
    )
