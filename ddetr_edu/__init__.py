"""ddetr-edu: Deformable DETR, to be read and run.

attention   one query looks at a few points
detector    from an image to boxes
training    from boxes to better boxes
data, viz   pictures and their boxes; looking at any of it
course      the exercises' checks and solutions
"""

import importlib
from typing import TYPE_CHECKING

from ddetr_edu.attention import AttentionRecord, MSDeformAttn, backends, ms_deform_attn

if TYPE_CHECKING:
    from ddetr_edu.animation import animate_training
    from ddetr_edu.detector import (
        DETR,
        DeformableDETR,
        DeformableDETRConfig,
        DETRConfig,
        Predictions,
        capture,
    )
    from ddetr_edu.inspector import explore, write_inspector
    from ddetr_edu.seen import Seen, look
    from ddetr_edu.training import Detector, load

__version__ = "0.1.0"
__all__ = [
    "DETR",
    "AttentionRecord",
    "DETRConfig",
    "DeformableDETR",
    "DeformableDETRConfig",
    "Detector",
    "MSDeformAttn",
    "Predictions",
    "Seen",
    "animate_training",
    "backends",
    "capture",
    "explore",
    "load",
    "look",
    "ms_deform_attn",
    "write_inspector",
]

# torchvision and matplotlib take seconds to import; whoever wants only the attention need not wait.
_LATE = {
    "DETR": "ddetr_edu.detector",
    "DETRConfig": "ddetr_edu.detector",
    "DeformableDETR": "ddetr_edu.detector",
    "DeformableDETRConfig": "ddetr_edu.detector",
    "Predictions": "ddetr_edu.detector",
    "Seen": "ddetr_edu.seen",
    "capture": "ddetr_edu.detector",
    "Detector": "ddetr_edu.training",
    "animate_training": "ddetr_edu.animation",
    "explore": "ddetr_edu.inspector",
    "load": "ddetr_edu.training",
    "look": "ddetr_edu.seen",
    "write_inspector": "ddetr_edu.inspector",
}


def __getattr__(name: str):
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
