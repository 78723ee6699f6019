"""Data sets in COCO's format: checked when they are opened, then read one image at a time."""

import contextlib
import copy
import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2.functional import to_image

from ddetr_edu import distributed
from ddetr_edu.data.annotations import find_annotations, read_annotations
from ddetr_edu.data.arrays import pack
from ddetr_edu.data.faults import DataError, FaultCounter
from ddetr_edu.data.image_files import check_image_files, read_image
from ddetr_edu.data.images import to_rgb


class CocoDetection(Dataset):
    """The images and boxes of one split of a data set in COCO's layout.

    Reads `root/annotations/instances_{split}.json` and the images in `root/{split}/`. If that
    file does not exist, the only `instances_{split}*.json` is read, so that "train" finds
    train2017.

    What cannot be used is left out: boxes of no size or outside their image, images whose files are
    missing, damaged or of another size. Boxes are clipped to their image. A sentence on stderr says
    what was left out, and `ddetr data validate` names all of it.

    Item i is `(image, target)`, after `transforms(image, target)` if given: the image is a uint8
    RGB `tv_tensors.Image` (3, H, W), and `to_target` describes the target. Labels are the file's
    category ids, which may have gaps. Images without objects are kept. An item raises DataError
    if its image can no longer be read.

    Source: https://cocodataset.org/#format-data describes the format.

    Args:
        root: The folder of the data set.
        split: The split's name or its unambiguous beginning.
        transforms: Called with the image and the target of each item; returns both.
        strict: Raise an error instead of leaving out or correcting anything.

    Attributes:
        image_ids: The ids of the images, ascending.
        categories: {id: name}, ascending.
        folder: The folder of the images.
        faults: A sentence about what was left out or corrected; empty if nothing was.

    Raises:
        DataError: If the folder or the annotations cannot be used.
    """

    def __init__(
        self, root: str | Path, split: str, transforms: Callable | None = None, strict: bool = False
    ):
        annotation_file = find_annotations(Path(root), split)
        self.folder = Path(root) / annotation_file.stem.removeprefix("instances_")
        self.transforms = transforms
        faults = FaultCounter(strict)
        content = read_annotations(annotation_file, self.folder, faults)
        images = list(content.images.values())
        upright = check_image_files(self.folder, images, content.exif_orientation, faults)
        self.categories = content.categories
        self._arrays = pack(images, content.annotations, upright)
        self.image_ids: list[int] = self._arrays.image_ids.tolist()
        self.faults = faults.sentence()
        if self.faults and not self.image_ids:
            raise DataError(
                f"{annotation_file} has no image that can be used ({self.faults}): {faults.example}"
            )
        if self.faults:
            self.faults = f"{annotation_file}: {self.faults}; ddetr data validate {root} says which"
            if distributed.rank() == 0:
                print(self.faults, file=sys.stderr, flush=True)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int):
        entry = self._arrays.image(i)
        size = (entry["height"], entry["width"])
        path = self.folder / entry["file_name"]
        image = to_image(to_rgb(read_image(path, size, upright=bool(self._arrays.upright[i]))))
        target = to_target(self._arrays.annotations(i), entry["id"], size)
        return self.transforms(image, target) if self.transforms else (image, target)

    def sizes(self) -> list[tuple[int, int]]:
        """The annotated (height, width) of every image; no image is opened."""
        return [(height, width) for height, width in self._arrays.sizes.tolist()]

    def object_counts(self) -> np.ndarray:
        """The number of objects in each image, (images,) int64; crowds do not count."""
        return self._arrays.object_counts()

    def ground_truth(self) -> COCO:
        """All annotations of these images, crowds included, for pycocotools."""
        images = [self._arrays.image(i) for i in range(len(self._arrays))]
        annotations = [a for i in range(len(self._arrays)) for a in self._arrays.annotations(i)]
        return coco_ground_truth(images, annotations, self.categories)

    def require_objects(self) -> None:
        """Raise unless there is something to train on.

        Raises:
            DataError: If no image shows an object that is not a crowd.
        """
        if self.object_counts().any():
            return
        n, split = len(self._arrays.crowds), self.folder.name
        if not n:
            raise DataError(f"{self.folder} has no object to train on; add boxes to {split}")
        raise DataError(
            f"{self.folder} has no object to train on, because all of its {n} boxes are marked as "
            "crowds, which training ignores; set iscrowd to 0 where a box is a single object"
        )

    def first(self, k: int) -> "CocoDetection":
        """The first k images that have an object, as a data set; crowds do not count as objects.

        Args:
            k: The number of images.

        Returns:
            A data set that shares its annotations with this one.

        Raises:
            DataError: If there are fewer than k such images.
        """
        with_object = np.flatnonzero(self.object_counts())
        if not 1 <= k <= len(with_object):
            raise DataError(
                f"{self.folder} has {len(with_object)} images with an object, so the first {k} "
                f"cannot be taken; ask for 1 to {len(with_object)}"
            )
        subset = copy.copy(self)
        subset._arrays = self._arrays.select(with_object[:k])
        subset.image_ids = subset._arrays.image_ids.tolist()
        return subset


def to_target(annotations: Iterable[dict], image_id: int, size: tuple[int, int]) -> dict:
    """Convert the COCO annotations of one image to the target of a detector.

    Crowds are left out: a crowd region is not a single object, it only excuses false positives
    when detections are scored.

    Args:
        annotations: The image's annotations, each with `bbox` (x, y, width, height) in pixels.
        image_id: The id of the image.
        size: (H, W) of the image in pixels.

    Returns:
        "boxes": `tv_tensors.BoundingBoxes` float32 (n, 4), (x1, y1, x2, y2) in pixels, clipped to
        the image; "labels": int64 (n,), category ids; "image_id": int; "size": (H, W).
    """
    kept = [a for a in annotations if not a["iscrowd"]]
    xywh = torch.tensor([a["bbox"] for a in kept], dtype=torch.float64).reshape(-1, 4)
    boxes = clip_boxes_to_image(box_convert(xywh, "xywh", "xyxy"), size).float()
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.tensor([a["category_id"] for a in kept], dtype=torch.int64),
        "image_id": image_id,
        "size": size,
    }


def coco_ground_truth(
    images: list[dict], annotations: list[dict], categories: dict[int, str]
) -> COCO:
    """A pycocotools COCO object of image and annotation entries, built without printing.

    Annotations are copied, because scoring writes into them, and numbered from 1, because
    pycocotools takes a match with annotation 0 for no match.

    Args:
        images: COCO's image entries.
        annotations: COCO's annotation entries; their ids are not used.
        categories: {id: name}.

    Returns:
        The ground truth for `COCOeval`.
    """
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": images,
        "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
