"""From an image to boxes: backbone, encoder, queries, decoder, heads, and the model they make."""

from ddetr_edu.detector.config import PRESETS, DeformableDETRConfig
from ddetr_edu.detector.model import DeformableDETR, Predictions
from ddetr_edu.detector.pictures import PictureSize, best_detections, make_batch, to_floats

__all__ = [
    "PRESETS",
    "DeformableDETR",
    "DeformableDETRConfig",
    "PictureSize",
    "Predictions",
    "best_detections",
    "make_batch",
    "to_floats",
]
