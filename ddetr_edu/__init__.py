"""ddetr-edu: a readable implementation of Deformable DETR, and of the course about it.

attention    deformable attention: offsets, weights, locations, interpolation, aggregation, kernels
models       from an image to boxes: backbone, encoder, queries, decoder, heads
losses       matching, classification and box losses, denoising queries
detector     the public Detector: images in, losses or detections out
evaluation   COCO's average precision, and the errors behind it
checkpoints  our own, the official code's and Hugging Face's
training     the training loop and everything around it
analysis     traces of a model at work on an image
data, viz    data sets; drawings of plain arrays
course       the exercises' checks and solutions
cli          the `ddetr` command
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddetr_edu.analysis.animation import animate_training
    from ddetr_edu.analysis.inspector import explore, write_inspector
    from ddetr_edu.analysis.trace import DetectionTrace, trace
    from ddetr_edu.attention import AttentionRecord, MSDeformAttn, backends, ms_deform_attn
    from ddetr_edu.attention.accelerate import accelerate, accelerated_transformers
    from ddetr_edu.checkpoints.io import load, save
    from ddetr_edu.detector import Detector
    from ddetr_edu.models.capture import capture
    from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig
    from ddetr_edu.models.deformable_detr import DeformableDETR, Predictions
    from ddetr_edu.models.detr import DETR

__version__ = "0.1.0"
__all__ = [
    "DETR",
    "AttentionRecord",
    "DETRConfig",
    "DeformableDETR",
    "DeformableDETRConfig",
    "DetectionTrace",
    "Detector",
    "MSDeformAttn",
    "Predictions",
    "accelerate",
    "accelerated_transformers",
    "animate_training",
    "backends",
    "capture",
    "explore",
    "load",
    "ms_deform_attn",
    "save",
    "trace",
    "write_inspector",
]

# torch and torchvision take seconds to import: each name is imported when it is first used.
_LAZY = {
    "DETR": "ddetr_edu.models.detr",
    "AttentionRecord": "ddetr_edu.attention",
    "DETRConfig": "ddetr_edu.models.config",
    "DeformableDETR": "ddetr_edu.models.deformable_detr",
    "DeformableDETRConfig": "ddetr_edu.models.config",
    "DetectionTrace": "ddetr_edu.analysis.trace",
    "Detector": "ddetr_edu.detector",
    "MSDeformAttn": "ddetr_edu.attention",
    "Predictions": "ddetr_edu.models.deformable_detr",
    "accelerate": "ddetr_edu.attention.accelerate",
    "accelerated_transformers": "ddetr_edu.attention.accelerate",
    "animate_training": "ddetr_edu.analysis.animation",
    "backends": "ddetr_edu.attention",
    "capture": "ddetr_edu.models.capture",
    "explore": "ddetr_edu.analysis.inspector",
    "load": "ddetr_edu.checkpoints.io",
    "ms_deform_attn": "ddetr_edu.attention",
    "save": "ddetr_edu.checkpoints.io",
    "trace": "ddetr_edu.analysis.trace",
    "write_inspector": "ddetr_edu.analysis.inspector",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
