"""Look at any of it: each function returns the figure and the numbers it drew."""

from ddetr_edu.viz.boxes import plot_boxes
from ddetr_edu.viz.curves import plot_curves
from ddetr_edu.viz.points import plot_sampling_points

__all__ = ["plot_boxes", "plot_curves", "plot_sampling_points"]
