"""From an image to boxes: backbone, encoder, queries, decoder, heads, and the model they make."""

from ddetr_edu.detector.capture import Captured, DecoderRecord, ProposalRecord, capture
from ddetr_edu.detector.config import DETR_PRESETS, PRESETS, DeformableDETRConfig, DETRConfig
from ddetr_edu.detector.detr import DETR, attention_maps
from ddetr_edu.detector.model import DeformableDETR, Predictions
from ddetr_edu.detector.pictures import PictureSize, best_detections, make_batch, to_floats

__all__ = [
    "DETR",
    "DETR_PRESETS",
    "PRESETS",
    "Captured",
    "DETRConfig",
    "DecoderRecord",
    "DeformableDETR",
    "DeformableDETRConfig",
    "PictureSize",
    "Predictions",
    "ProposalRecord",
    "attention_maps",
    "best_detections",
    "capture",
    "make_batch",
    "to_floats",
]
