"""The lessons' exercises: `checks.initial_offsets(my_initial_offsets)` checks an answer.

Each exercise has the name of the function, or of the dictionary, that the learner writes.
"""

from ddetr_edu.course.exercises.lesson_00 import count_tokens, locate_token
from ddetr_edu.course.exercises.lesson_00_faults import broken_steps
from ddetr_edu.course.exercises.lesson_01 import attention_cost, dense_attention
from ddetr_edu.course.exercises.lesson_01_crossing import cost_causes, crossing
from ddetr_edu.course.exercises.lesson_02 import covering_token, from_pixels, to_pixels
from ddetr_edu.course.exercises.lesson_02_boxes import convert_boxes
from ddetr_edu.course.exercises.lesson_02_faults import broken_convention, mend_boxes
from ddetr_edu.course.exercises.lesson_03 import bilinear_sample, corner_weights
from ddetr_edu.course.exercises.lesson_03_backward import bilinear_backward, bilinear_slope
from ddetr_edu.course.exercises.lesson_04 import initial_offsets, reach, sampling_locations
from ddetr_edu.course.exercises.lesson_04_faults import location_faults
from ddetr_edu.course.exercises.lesson_05 import attention_weights, effective_points
from ddetr_edu.course.exercises.lesson_05_faults import head_faults
from ddetr_edu.course.exercises.lesson_06 import (
    aggregate,
    axes,
    grid_sample_attention,
    naive_attention,
)
from ddetr_edu.course.exercises.lesson_07 import encoder_reference_points, reference_on_levels
from ddetr_edu.course.exercises.lesson_07_position import sine_position
from ddetr_edu.course.exercises.lesson_08 import padding_mask, scale_to_levels, valid_ratio
from ddetr_edu.course.exercises.lesson_08_faults import padding_faults
from ddetr_edu.course.exercises.lesson_09 import focal_loss, giou
from ddetr_edu.course.exercises.lesson_09_matching import assign, matching_cost
from ddetr_edu.course.exercises.lesson_09_trap import greedy_trap
from ddetr_edu.course.exercises.lesson_10 import anchor, refine
from ddetr_edu.course.exercises.lesson_10_forward import forward
from ddetr_edu.course.exercises.lesson_10_proposals import select_proposals
from ddetr_edu.course.exercises.lesson_11 import clip, learning_rate
from ddetr_edu.course.exercises.lesson_11_faults import run_faults
from ddetr_edu.course.exercises.lesson_11_precision import average_precision, true_positives
from ddetr_edu.course.exercises.lesson_12 import adopt_classes, class_indices, read_yolo
from ddetr_edu.course.exercises.lesson_12_clinic import clinic
from ddetr_edu.course.exercises.lesson_13 import denoising_mask, instability
from ddetr_edu.course.exercises.lesson_13_runs import runs
from ddetr_edu.course.exercises.lesson_14 import cache_lines, work
from ddetr_edu.course.exercises.lesson_14_conflicts import conflicts
from ddetr_edu.course.exercises.lesson_14_kernel import kernel
from ddetr_edu.course.exercises.lesson_15 import copy_row, transpose
from ddetr_edu.course.exercises.lesson_15_attention import warp_attention
from ddetr_edu.course.exercises.lesson_15_scatter import scatter_add
from ddetr_edu.course.exercises.lesson_15_sums import sum_row, sum_terms
from ddetr_edu.course.exercises.lesson_16 import attention_flops, conv_flops, speed_up
from ddetr_edu.course.exercises.lesson_16_bits import round_bits
from ddetr_edu.course.exercises.lesson_16_bottlenecks import bottlenecks
from ddetr_edu.course.exercises.lesson_17 import agrees, trial
from ddetr_edu.course.exercises.lesson_17_mystery import mystery
from ddetr_edu.course.exercises.lesson_18 import variant
from ddetr_edu.course.exercises.lesson_18_discrete import discrete_attention
from ddetr_edu.course.exercises.lesson_18_faults import square_maps
from ddetr_edu.course.exercises.lesson_18_names import convert_keys

__all__ = [
    "adopt_classes",
    "aggregate",
    "agrees",
    "anchor",
    "assign",
    "attention_cost",
    "attention_flops",
    "attention_weights",
    "average_precision",
    "axes",
    "bilinear_backward",
    "bilinear_sample",
    "bilinear_slope",
    "bottlenecks",
    "broken_steps",
    "broken_convention",
    "cache_lines",
    "class_indices",
    "clinic",
    "clip",
    "conv_flops",
    "conflicts",
    "convert_boxes",
    "convert_keys",
    "copy_row",
    "corner_weights",
    "cost_causes",
    "count_tokens",
    "covering_token",
    "crossing",
    "denoising_mask",
    "dense_attention",
    "discrete_attention",
    "effective_points",
    "encoder_reference_points",
    "focal_loss",
    "forward",
    "from_pixels",
    "giou",
    "greedy_trap",
    "grid_sample_attention",
    "head_faults",
    "initial_offsets",
    "instability",
    "kernel",
    "learning_rate",
    "locate_token",
    "location_faults",
    "matching_cost",
    "mend_boxes",
    "mystery",
    "naive_attention",
    "padding_faults",
    "padding_mask",
    "reach",
    "read_yolo",
    "reference_on_levels",
    "refine",
    "round_bits",
    "run_faults",
    "runs",
    "sampling_locations",
    "scale_to_levels",
    "scatter_add",
    "select_proposals",
    "sine_position",
    "speed_up",
    "square_maps",
    "sum_row",
    "sum_terms",
    "to_pixels",
    "transpose",
    "trial",
    "true_positives",
    "valid_ratio",
    "variant",
    "warp_attention",
    "work",
]
