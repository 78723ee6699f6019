"""Figures of plain arrays: each function returns the figure and the numbers it drew."""

from ddetr_edu.viz.attention_comparison import plot_attention_comparison
from ddetr_edu.viz.attention_heatmap import plot_attention_heatmap, splat
from ddetr_edu.viz.attention_statistics import (
    attention_statistics,
    attention_warnings,
    plot_statistics,
)
from ddetr_edu.viz.bilinear import plot_between_pixels
from ddetr_edu.viz.box_trajectories import plot_box_trajectories
from ddetr_edu.viz.boxes import plot_boxes
from ddetr_edu.viz.confusion import plot_confusion
from ddetr_edu.viz.crops import plot_crops
from ddetr_edu.viz.curves import plot_curves
from ddetr_edu.viz.dataset import plot_dataset
from ddetr_edu.viz.layers import plot_layers
from ddetr_edu.viz.level_usage import plot_level_usage_by_size
from ddetr_edu.viz.matching_lines import plot_matching, plot_matching_by_layer
from ddetr_edu.viz.offset_rose import plot_offset_rose
from ddetr_edu.viz.offset_star import plot_offsets
from ddetr_edu.viz.out_of_bounds import plot_out_of_bounds
from ddetr_edu.viz.points import plot_sampling_points
from ddetr_edu.viz.precision import plot_precision_by_size, plot_precision_recall
from ddetr_edu.viz.proposals import plot_proposals
from ddetr_edu.viz.style import NotebookFigure, dark
from ddetr_edu.viz.weight_bars import plot_weights

__all__ = [
    "NotebookFigure",
    "attention_statistics",
    "attention_warnings",
    "dark",
    "plot_attention_comparison",
    "plot_attention_heatmap",
    "plot_between_pixels",
    "plot_box_trajectories",
    "plot_boxes",
    "plot_confusion",
    "plot_crops",
    "plot_curves",
    "plot_dataset",
    "plot_layers",
    "plot_level_usage_by_size",
    "plot_matching",
    "plot_matching_by_layer",
    "plot_offset_rose",
    "plot_offsets",
    "plot_out_of_bounds",
    "plot_precision_by_size",
    "plot_precision_recall",
    "plot_proposals",
    "plot_sampling_points",
    "plot_statistics",
    "plot_weights",
    "splat",
]
