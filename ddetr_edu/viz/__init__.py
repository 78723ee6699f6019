"""Look at any of it: each function returns the figure and the numbers it drew."""

from ddetr_edu.viz.attentions import plot_attentions
from ddetr_edu.viz.boxes import plot_boxes
from ddetr_edu.viz.confusion import plot_confusion
from ddetr_edu.viz.crops import plot_crops
from ddetr_edu.viz.curves import plot_curves
from ddetr_edu.viz.dataset import plot_dataset
from ddetr_edu.viz.interpolation import plot_between_pixels
from ddetr_edu.viz.matching import plot_matching, plot_matching_by_layer
from ddetr_edu.viz.offsets import plot_offsets
from ddetr_edu.viz.points import plot_sampling_points
from ddetr_edu.viz.precision import plot_precision_by_size, plot_precision_recall
from ddetr_edu.viz.weights import plot_weights

__all__ = [
    "plot_attentions",
    "plot_between_pixels",
    "plot_boxes",
    "plot_confusion",
    "plot_crops",
    "plot_curves",
    "plot_dataset",
    "plot_matching",
    "plot_matching_by_layer",
    "plot_offsets",
    "plot_precision_by_size",
    "plot_precision_recall",
    "plot_sampling_points",
    "plot_weights",
]
