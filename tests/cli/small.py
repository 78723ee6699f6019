"""A detector that is built in a moment, for the tests of the commands."""

import torch

from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR

NAMES = ["circle", "square", "triangle", "star", "ring", "cross"]


def small_detector() -> Detector:
    """An untrained detector of the generated shapes, the same at every call."""
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset(
        "tiny",
        num_classes=6,
        d_model=32,
        n_heads=2,
        n_levels=2,
        n_encoder_layers=1,
        n_decoder_layers=2,
        d_ffn=16,
        n_queries=7,
    )
    categories = dict(enumerate(NAMES, start=1))
    return Detector(DeformableDETR(config), categories, ResizeConfig(64, 96))
