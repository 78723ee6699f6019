"""ddetr-edu: Deformable DETR, to be read and run.

attention   one query looks at a few points
detector    from an image to boxes
training    from boxes to better boxes
data, viz   pictures and their boxes; looking at any of it
course      the exercises' checks and solutions
"""

from ddetr_edu.attention import AttentionRecord, MSDeformAttn, backends, capture, ms_deform_attn
from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, Predictions
from ddetr_edu.training import Detector, load

__version__ = "0.1.0"
__all__ = [
    "AttentionRecord",
    "DeformableDETR",
    "DeformableDETRConfig",
    "Detector",
    "MSDeformAttn",
    "Predictions",
    "backends",
    "capture",
    "load",
    "ms_deform_attn",
]
