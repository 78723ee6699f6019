"""Figures of plain arrays: each function returns the figure and the numbers it drew."""

from ddetr_edu.viz.along_row import plot_along_row
from ddetr_edu.viz.annotated_images import plot_annotated_images
from ddetr_edu.viz.assignments import plot_assignments, plot_line_assignments
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
from ddetr_edu.viz.corner_areas import plot_corner_areas
from ddetr_edu.viz.cost_curves import plot_costs
from ddetr_edu.viz.covering_tokens import plot_covering_tokens
from ddetr_edu.viz.crops import plot_crops
from ddetr_edu.viz.curves import plot_curves
from ddetr_edu.viz.dataset import plot_dataset
from ddetr_edu.viz.effective_points import plot_effective_points
from ddetr_edu.viz.enclosing_boxes import plot_enclosing_boxes
from ddetr_edu.viz.five_steps import plot_five_steps
from ddetr_edu.viz.focal_curves import plot_focal_curves
from ddetr_edu.viz.grouped_bars import plot_grouped_bars
from ddetr_edu.viz.head_maps import plot_head_maps, plot_maps
from ddetr_edu.viz.head_points import plot_head_points
from ddetr_edu.viz.kernel_steps import plot_kernel_steps
from ddetr_edu.viz.ladder_bars import plot_ladder
from ddetr_edu.viz.layers import plot_layers
from ddetr_edu.viz.level_shares import plot_level_shares
from ddetr_edu.viz.level_usage import plot_level_usage_by_size
from ddetr_edu.viz.match_history import plot_match_history
from ddetr_edu.viz.matching_lines import plot_matching, plot_matching_by_layer
from ddetr_edu.viz.numbered_boxes import plot_numbered_boxes
from ddetr_edu.viz.offset_rose import plot_offset_rose
from ddetr_edu.viz.offset_star import plot_offsets
from ddetr_edu.viz.out_of_bounds import plot_out_of_bounds
from ddetr_edu.viz.outside_by_level import plot_outside_by_level
from ddetr_edu.viz.padded_images import plot_padded_images
from ddetr_edu.viz.pixel_conventions import plot_convention_shift, plot_pixel_conventions
from ddetr_edu.viz.pixel_counts import plot_pixel_counts
from ddetr_edu.viz.point_panels import plot_point_panels
from ddetr_edu.viz.points import plot_sampling_points
from ddetr_edu.viz.points_on_levels import plot_points_on_levels
from ddetr_edu.viz.position_similarity import plot_position_similarity
from ddetr_edu.viz.precision import plot_precision_by_size, plot_precision_recall
from ddetr_edu.viz.proposals import plot_proposals
from ddetr_edu.viz.query_mask import plot_query_mask
from ddetr_edu.viz.read_maps import plot_read_maps
from ddetr_edu.viz.read_order_panels import plot_read_order
from ddetr_edu.viz.roofline import plot_roofline
from ddetr_edu.viz.run_comparison import plot_runs
from ddetr_edu.viz.run_grid import plot_run_grid
from ddetr_edu.viz.score_by_layer import plot_score_by_layer
from ddetr_edu.viz.score_drift import plot_score_drift
from ddetr_edu.viz.share_bars import plot_shares
from ddetr_edu.viz.stacked_parts import plot_stacked_parts
from ddetr_edu.viz.style import NotebookFigure, dark
from ddetr_edu.viz.token_grids import plot_token_grids
from ddetr_edu.viz.value_and_slope import plot_value_and_slope
from ddetr_edu.viz.verdicts import plot_verdicts
from ddetr_edu.viz.walks import plot_walks
from ddetr_edu.viz.warp_access import plot_warp_access
from ddetr_edu.viz.weight_bars import plot_weights

__all__ = [
    "NotebookFigure",
    "attention_statistics",
    "attention_warnings",
    "dark",
    "plot_along_row",
    "plot_annotated_images",
    "plot_assignments",
    "plot_attention_comparison",
    "plot_attention_heatmap",
    "plot_between_pixels",
    "plot_box_trajectories",
    "plot_boxes",
    "plot_confusion",
    "plot_corner_areas",
    "plot_convention_shift",
    "plot_costs",
    "plot_covering_tokens",
    "plot_crops",
    "plot_curves",
    "plot_dataset",
    "plot_effective_points",
    "plot_enclosing_boxes",
    "plot_five_steps",
    "plot_focal_curves",
    "plot_grouped_bars",
    "plot_head_maps",
    "plot_head_points",
    "plot_kernel_steps",
    "plot_ladder",
    "plot_layers",
    "plot_level_shares",
    "plot_level_usage_by_size",
    "plot_line_assignments",
    "plot_maps",
    "plot_match_history",
    "plot_matching",
    "plot_matching_by_layer",
    "plot_numbered_boxes",
    "plot_offset_rose",
    "plot_offsets",
    "plot_out_of_bounds",
    "plot_outside_by_level",
    "plot_padded_images",
    "plot_pixel_conventions",
    "plot_pixel_counts",
    "plot_points_on_levels",
    "plot_position_similarity",
    "plot_point_panels",
    "plot_precision_by_size",
    "plot_precision_recall",
    "plot_proposals",
    "plot_query_mask",
    "plot_read_maps",
    "plot_read_order",
    "plot_roofline",
    "plot_runs",
    "plot_run_grid",
    "plot_sampling_points",
    "plot_score_by_layer",
    "plot_score_drift",
    "plot_stacked_parts",
    "plot_shares",
    "plot_statistics",
    "plot_token_grids",
    "plot_value_and_slope",
    "plot_verdicts",
    "plot_walks",
    "plot_warp_access",
    "plot_weights",
    "splat",
]
