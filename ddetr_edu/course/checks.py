"""The lessons' exercises: `checks.initial_offsets(your_function)` checks an answer.

Each exercise has the name of the solution it is compared with.
"""

from ddetr_edu.course.attention_exercises import (
    aggregate,
    attention_weights,
    initial_offsets,
    sampling_locations,
)
from ddetr_edu.course.bilinear_exercises import bilinear_sample, bilinear_slope
from ddetr_edu.course.loss_exercises import assign, focal_loss
from ddetr_edu.course.model_exercises import count_tokens

__all__ = [
    "aggregate",
    "assign",
    "attention_weights",
    "bilinear_sample",
    "bilinear_slope",
    "count_tokens",
    "focal_loss",
    "initial_offsets",
    "sampling_locations",
]
