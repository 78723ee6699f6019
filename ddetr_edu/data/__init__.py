"""Pictures and their boxes: COCO's format, drawn shapes, and what goes into a batch."""

from ddetr_edu.data.check import find_faults
from ddetr_edu.data.coco import CocoDetection, DataError, to_rgb
from ddetr_edu.data.download import SubsetConfig, fetch_subset
from ddetr_edu.data.scenes import CATEGORIES, Scene, draw_scene
from ddetr_edu.data.shapes import Shapes, held_out_scenes, write_shapes, write_shapes_set
from ddetr_edu.data.stats import Statistics, measure
from ddetr_edu.data.transforms import collate, light_augmentation, official_augmentation

__all__ = [
    "CATEGORIES",
    "CocoDetection",
    "DataError",
    "Scene",
    "Shapes",
    "Statistics",
    "SubsetConfig",
    "collate",
    "draw_scene",
    "fetch_subset",
    "find_faults",
    "held_out_scenes",
    "light_augmentation",
    "measure",
    "official_augmentation",
    "to_rgb",
    "write_shapes",
    "write_shapes_set",
]
