"""Our model and Hugging Face's with the same parameters, and one batch for both.

Hugging Face cannot build the tiny backbone, so for the tiny presets their model gets a copy of ours
and of the three convolutions that project its feature maps; everything after those, up to the loss,
is theirs. For the ResNet presets everything is theirs, and their ResNet-50 is timm's.
"""

import copy
import os
import tempfile
from dataclasses import replace

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import ddetr_edu as dd
from ddetr_edu.checkpoints.huggingface import save_huggingface
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.preprocessing import make_batch, to_floats

# (images (N, 3, H, W), padding mask, targets as the losses take them)
Batch = tuple[Tensor, Tensor, list[dict[str, Tensor]]]


class SharedBackbone(nn.Module):
    """Our backbone, with the interface of Hugging Face's.

    Args:
        backbone: From images (N, 3, H, W) to a list of feature maps.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(feature map, mask) of each level, the mask True where there is an image."""
        mask = pixel_mask[None].float()
        return [
            (level, F.interpolate(mask, size=level.shape[-2:]).bool()[0])
            for level in self.backbone(images)
        ]


def build_models(preset: str, categories: dict[int, str]) -> tuple[nn.Module, nn.Module]:
    """Our model and Hugging Face's with the same parameters.

    Args:
        preset: A preset of Deformable DETR.
        categories: The name of each label.

    Returns:
        Ours, and theirs.
    """
    config = dd.DeformableDETRConfig.preset(
        preset,
        num_classes=len(categories),
        tokens_as_content=False,  # theirs has no such option
        look_forward="once",  # as theirs
    )
    ours = dd.DeformableDETR(config)
    saved = ours
    if config.backbone == "tiny":  # their file needs a ResNet, which is replaced below
        saved = dd.DeformableDETR(replace(config, backbone="resnet18"))
        own = ("backbone.", "input_projection.")
        state = {k: v for k, v in ours.state_dict().items() if not k.startswith(own)}
        saved.load_state_dict(state, strict=False)
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(folder, Detector(saved, categories))
        theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(
            folder,
            auxiliary_loss=True,
            attention_dropout=config.dropout,  # ours has dropout wherever the official code has it
            activation_dropout=config.dropout,
        )
    if config.backbone == "tiny":
        theirs.model.backbone = SharedBackbone(copy.deepcopy(ours.backbone))
        theirs.model.input_proj = copy.deepcopy(ours.input_projection.levels)
    return ours.to(memory_format=torch.channels_last), theirs


def build_batch(detector: Detector, scenes: Shapes, size: ResizeConfig) -> Batch:
    """All scenes in one batch, resized, padded and normalised."""
    images, targets = zip(*scenes, strict=True)
    prepared = [
        detector.prepare_target(t, i.shape[-2:]) for i, t in zip(images, targets, strict=True)
    ]
    return *make_batch([to_floats(image) for image in images], size), prepared


def stretched(batch: Batch, height: int, width: int) -> Batch:
    """The batch with its images resized to this shape; boxes are fractions and do not change."""
    images, _, targets = batch
    images = F.interpolate(images, (height, width), mode="bilinear")
    return images, torch.zeros(len(images), height, width, dtype=torch.bool), targets


def equal_models(
    preset: str, n_images: int, size: ResizeConfig
) -> tuple[nn.Module, nn.Module, Batch]:
    """Two equal models and a batch for both, the same at every call and in every process.

    Args:
        preset: A preset of Deformable DETR.
        n_images: How many images the batch has.
        size: Of the images. For a ResNet preset exactly this size: scenes are small, so they are
            stretched to the size of a photograph.

    Returns:
        Our model, Hugging Face's, and the batch.
    """
    torch.manual_seed(0)
    scenes = Shapes(n_images, seed=0)
    ours, theirs = build_models(preset, scenes.categories)
    batch = build_batch(Detector(ours, scenes.categories), scenes, size)
    if preset.startswith("r50"):
        batch = stretched(batch, size.short_side, size.long_side)
    return ours, theirs, batch


@torch.no_grad()
def largest_difference(ours: nn.Module, theirs: nn.Module, batch: Batch) -> float:
    """The largest difference of a class score or a coordinate, in evaluation mode."""
    images, mask, _ = batch
    our_predictions = ours.eval()(images, mask)
    their_predictions = theirs.eval()(pixel_values=images, pixel_mask=(~mask).long())
    return max(
        (our_predictions.scores() - their_predictions.logits.sigmoid()).abs().max().item(),
        (our_predictions.boxes - their_predictions.pred_boxes).abs().max().item(),
    )
