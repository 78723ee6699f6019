"""Deformable attention in five steps: each query samples a few points around its reference point.

offsets -> attention_weights -> locations -> interpolation -> aggregation, one module each. `naive`
and `grid_sample` put the last two together in Python, and `kernels` does so in C++ and CUDA; `op`
chooses between them. `discrete` reads nearest pixels instead. `module` adds the learned layers, and
`capture` records what they did.
"""

from ddetr_edu.attention.aggregation import aggregate
from ddetr_edu.attention.attention_weights import attention_weights, reset_attention_weights
from ddetr_edu.attention.capture import AttentionRecord, capture
from ddetr_edu.attention.interpolation import bilinear_sample, bilinear_sample_backward, corners
from ddetr_edu.attention.locations import encoder_reference_points, sampling_locations, valid_ratios
from ddetr_edu.attention.module import MSDeformAttn
from ddetr_edu.attention.offsets import initial_offsets, reset_sampling_offsets
from ddetr_edu.attention.op import backends, ms_deform_attn

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
    "encoder_reference_points",
    "initial_offsets",
    "ms_deform_attn",
    "reset_attention_weights",
    "reset_sampling_offsets",
    "sampling_locations",
    "valid_ratios",
]
