"""Images and their boxes from any annotation format, on their way to COCO's layout."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ddetr_edu.data.annotations import ExifOrientation
from ddetr_edu.data.faults import Fault, OnFault
from ddetr_edu.data.image_index import relative_to
from ddetr_edu.data.split_names import ordered


@dataclass
class LabelledImage:
    """An image file and its objects, which are not checked yet."""

    path: Path
    size: tuple[int, int] | None  # (height, width) in px as annotated; None: that of the file
    # As COCO's annotations, with the keys id (a text that says where the object was read),
    # category (a name) and bbox ([x, y, width, height] in px); area and iscrowd are optional.
    objects: list[dict]


@dataclass
class LabelledSet:
    """A data set as it was read."""

    root: Path  # the folder that messages name files in
    categories: dict[int, str]  # {id: name}; no name occurs twice
    splits: dict[str, list[LabelledImage]]
    exif_orientation: ExifOrientation | None = None
    notes: list[str] = field(default_factory=list)  # sentences for the user

    def relative(self, path: Path) -> str:
        """A path as messages show it: inside the root, or as it is."""
        return relative_to(path, self.root)


def without_repetitions(data: LabelledSet, on_fault: OnFault) -> None:
    """Leave out what is listed twice, so that each image is in one split, and once.

    An image that two splits have stays in the first of train, val, test and all others. A split
    that has no image is removed.

    Args:
        data: The data set, which is changed.
        on_fault: Called for each image that is left out.
    """
    seen: dict[str, str] = {}
    for split in ordered(data.splits):
        kept = []
        for image in data.splits[split]:
            real, name = os.path.realpath(image.path), data.relative(image.path)
            if real not in seen:
                kept.append(image)
            else:
                kind = "images listed twice" if seen[real] == split else "images of another split"
                message = f"{name} of {split or 'the set'} is in {seen[real] or 'it'} already"
                on_fault(Fault("left out", kind, message, name))
            seen.setdefault(real, split)
        data.splits[split] = kept
        if not kept:
            del data.splits[split]
