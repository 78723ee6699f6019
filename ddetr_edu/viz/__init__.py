"""Look at any of it: each function returns the figure and the numbers it drew."""

from ddetr_edu.viz.attentions import plot_attentions
from ddetr_edu.viz.boxes import plot_boxes
from ddetr_edu.viz.confusion import plot_confusion
from ddetr_edu.viz.crops import plot_crops
from ddetr_edu.viz.curves import plot_curves
from ddetr_edu.viz.dataset import plot_dataset
from ddetr_edu.viz.interpolation import plot_between_pixels
from ddetr_edu.viz.layers import plot_layers
from ddetr_edu.viz.levels import plot_levels_by_size
from ddetr_edu.viz.matching import plot_matching, plot_matching_by_layer
from ddetr_edu.viz.offsets import plot_offsets
from ddetr_edu.viz.outside import plot_outside
from ddetr_edu.viz.paths import plot_paths
from ddetr_edu.viz.points import plot_sampling_points
from ddetr_edu.viz.precision import plot_precision_by_size, plot_precision_recall
from ddetr_edu.viz.proposals import plot_proposals
from ddetr_edu.viz.reading import plot_reading, splat
from ddetr_edu.viz.rose import plot_rose
from ddetr_edu.viz.statistics import attention_statistics, plot_statistics, warnings_of
from ddetr_edu.viz.style import NotebookFigure, dark
from ddetr_edu.viz.weights import plot_weights

__all__ = [
    "NotebookFigure",
    "attention_statistics",
    "dark",
    "plot_attentions",
    "plot_between_pixels",
    "plot_boxes",
    "plot_confusion",
    "plot_crops",
    "plot_curves",
    "plot_dataset",
    "plot_layers",
    "plot_levels_by_size",
    "plot_matching",
    "plot_matching_by_layer",
    "plot_offsets",
    "plot_outside",
    "plot_paths",
    "plot_precision_by_size",
    "plot_precision_recall",
    "plot_proposals",
    "plot_reading",
    "plot_rose",
    "plot_sampling_points",
    "plot_statistics",
    "plot_weights",
    "splat",
    "warnings_of",
]
