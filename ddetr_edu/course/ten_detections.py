"""Detections whose average precision can be worked out on paper.

Objects are 100 x 50 pixels. A detection that is meant for one lies inside it and is narrower, so
that its IoU is its width in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pycocotools.coco import COCO
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ddetr_edu.data.coco import coco_ground_truth

CIRCLE = 1  # the only category


class Found(NamedTuple):
    """A detection."""

    score: float
    image_id: int
    near: int | None  # the number of the object that it lies in; None for an empty place
    iou: float = 0.0  # with that object


@dataclass(frozen=True)
class DetectionsOnPaper:
    """A few images, their objects and what was detected in them, as a data set to evaluate on."""

    objects: Mapping[int, int]  # {number of an object, from 1: the id of its image}
    found: Sequence[Found]  # best score first
    categories = {CIRCLE: "circle"}

    @property
    def image_ids(self) -> list[int]:
        """The ids of the images."""
        return sorted({*self.objects.values(), *(found.image_id for found in self.found)})

    def ground_truth(self) -> COCO:
        """The objects, for pycocotools."""
        images = [{"id": i, "width": 600, "height": 300} for i in self.image_ids]
        annotations = [
            {
                "image_id": image_id,
                "category_id": CIRCLE,
                "bbox": box_of(number),
                "area": 5000,
                "iscrowd": 0,
            }
            for number, image_id in self.objects.items()
        ]
        return coco_ground_truth(images, annotations, self.categories)

    def results(self) -> list[dict]:
        """The detections, in COCO's format."""
        return [
            {
                "image_id": found.image_id,
                "category_id": CIRCLE,
                "bbox": box_of(found.near, 100 * found.iou),
                "score": found.score,
            }
            for found in self.found
        ]

    def ious(self, image_id: int) -> Tensor:
        """The IoU of each detection of an image with each of its objects.

        Args:
            image_id: The image.

        Returns:
            (detections, objects), best score first.
        """
        boxes = [box_of(f.near, 100 * f.iou) for f in self.found if f.image_id == image_id]
        objects = [box_of(number) for number, i in self.objects.items() if i == image_id]
        corners = (
            box_convert(torch.tensor(b, dtype=torch.float64).reshape(-1, 4), "xywh", "xyxy")
            for b in (boxes, objects)
        )
        return box_iou(*corners)


def box_of(number: int | None, width: float = 100) -> list[float]:
    """The box of an object, or a part of it.

    Args:
        number: Of the object; None for a place where no object is.
        width: In pixels.

    Returns:
        (x, y, w, h) in pixels.
    """
    if number is None:
        return [0.0, 200.0, 80.0, 40.0]
    return [20.0 + 110 * (number - 1), 20.0, float(width), 50.0]


TEN_DETECTIONS = DetectionsOnPaper(
    {1: 1, 2: 1, 3: 2, 4: 2, 5: 3},
    (
        Found(0.95, 1, 1, 0.92),
        Found(0.90, 2, 3, 0.62),
        Found(0.85, 1, 1, 0.83),
        Found(0.80, 3, None),
        Found(0.70, 2, 4, 0.82),
        Found(0.60, 1, 2, 0.42),
        Found(0.50, 2, 3, 0.93),
        Found(0.40, 1, 2, 0.78),
        Found(0.30, 3, None),
        Found(0.20, 3, None),
    ),
)
