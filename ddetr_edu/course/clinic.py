"""Faults of a training and their cures: the clinic of lesson 12.

All trainings share 24 small images. A fault changes their annotations, the learning rate or the
pixel values, and its cure changes them back. `clinic_training` trains with them.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddetr_edu.course.unchecked_images import Annotations, UncheckedImages
from ddetr_edu.data.annotations import read_annotations
from ddetr_edu.data.faults import Fault

SEED, N_IMAGES = 12, 24  # of the training images


@dataclass(frozen=True)
class Change:
    """What a fault, or its cure, changes in a training."""

    annotate: Callable[[Annotations], Annotations] = list
    lr: float = 1.0  # the learning rate is multiplied by it
    pixels: float = 1.0  # the pixel values are multiplied by it, before they are normalised

    def then(self, other: "Change") -> "Change":
        """This change and, after it, another one.

        Args:
            other: The other one, such as a cure.

        Returns:
            Both as one.
        """
        return Change(
            lambda annotations: other.annotate(self.annotate(annotations)),
            self.lr * other.lr,
            self.pixels * other.pixels,
        )


def of_boxes(change: Callable[[float, float, float, float], list[float]]) -> Change:
    """A change of every box.

    Args:
        change: A function of the four numbers of a box, which returns four others.

    Returns:
        The change.
    """
    return Change(lambda annotations: [{**a, "bbox": change(*a["bbox"])} for a in annotations])


def of_ids(by: int) -> Change:
    """A change of every category id.

    Args:
        by: What is added to it.

    Returns:
        The change.
    """
    return Change(
        lambda annotations: [{**a, "category_id": a["category_id"] + by} for a in annotations]
    )


def of_images(by: int) -> Change:
    """Give the annotations of each image to another one; after the last image comes the first.

    Args:
        by: How many images further.

    Returns:
        The change.
    """
    return Change(
        lambda annotations: [
            {**a, "image_id": (a["image_id"] - 1 + by) % N_IMAGES + 1} for a in annotations
        ]
    )


FAULTS = {
    "nothing": Change(),
    "corners": of_boxes(lambda x, y, w, h: [x, y, x + w, y + h]),
    "x and y swapped": of_boxes(lambda x, y, w, h: [y, x, h, w]),
    "ids off by one": of_ids(-1),
    "next image": of_images(1),
    "learning rate too high": Change(lr=20),
    "normalisation": Change(pixels=1 / 255),
}
CURES = {  # of these faults, and of others that nobody has planted
    "nothing": Change(),
    "corners": of_boxes(lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1]),
    "centres": of_boxes(lambda cx, cy, w, h: [cx - w / 2, cy - h / 2, w, h]),
    "image size": of_boxes(lambda x, y, w, h: [x / 2, y / 2, w / 2, h / 2]),
    "x and y swapped": of_boxes(lambda y, x, h, w: [x, y, w, h]),
    "ids off by one": of_ids(1),
    "next image": of_images(-1),
    "learning rate too high": Change(lr=1 / 20),
    "learning rate too low": Change(lr=10),
    "normalisation": Change(pixels=255),
}


def training_images(change: Change = FAULTS["nothing"]) -> UncheckedImages:
    """The images that all trainings of the clinic share.

    Args:
        change: A fault, whose annotations they get.

    Returns:
        The data set.
    """
    return UncheckedImages(SEED, N_IMAGES, change.annotate)


def errors_named(change: Change) -> list[str]:
    """What can be seen of a fault in the annotations alone, as `ddetr data validate` reports it.

    Args:
        change: The fault.

    Returns:
        The kinds of errors, each once; none if nothing can be seen.
    """
    faults: list[Fault] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        training_images(change).write(root, "train")
        file = root / "annotations" / "instances_train.json"
        read_annotations(file, root / "train", faults.append)
    return list(dict.fromkeys(fault.kind for fault in faults))
