"""One query looks at a few points: deformable attention in five steps.

offsets -> weights -> locations -> interpolation -> aggregation, one module each; `naive`,
`grid_sample`, `native` and `cuda` bring the last two together, `op` chooses between those, `module`
adds the learned layers, `capture` looks at what they did.
"""

from ddetr_edu.attention.aggregation import aggregate
from ddetr_edu.attention.capture import AttentionRecord, capture
from ddetr_edu.attention.interpolation import (
    bilinear_sample,
    bilinear_sample_backward,
    corners,
)
from ddetr_edu.attention.locations import pixel_centres, sampling_locations, valid_ratios
from ddetr_edu.attention.module import MSDeformAttn
from ddetr_edu.attention.offsets import initial_offsets, reset_sampling_offsets
from ddetr_edu.attention.op import backends, ms_deform_attn
from ddetr_edu.attention.weights import attention_weights, reset_attention_weights

__all__ = [
    "AttentionRecord",
    "MSDeformAttn",
    "aggregate",
    "attention_weights",
    "backends",
    "bilinear_sample",
    "bilinear_sample_backward",
    "capture",
    "corners",
    "initial_offsets",
    "ms_deform_attn",
    "pixel_centres",
    "reset_attention_weights",
    "reset_sampling_offsets",
    "sampling_locations",
    "valid_ratios",
]
