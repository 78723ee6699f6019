"""Data sets in COCO's format: checked when they are opened, then read one image at a time."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2.functional import to_image

from ddetr_edu.data.annotations import DataError, find_annotations, read_annotations, read_image
from ddetr_edu.data.images import to_rgb


class CocoDetection(Dataset):
    """The images and boxes of one split of a data set in COCO's layout.

    Reads `root/annotations/instances_{split}.json` and the images in `root/{split}/`. If that
    file does not exist, the only `instances_{split}*.json` is read, so that "train" finds
    train2017.

    Item i is `(image, target)`, after `transforms(image, target)` if given: the image is a uint8
    RGB `tv_tensors.Image` (3, H, W), and `to_target` describes the target. Labels are the file's
    category ids, which may have gaps. Images without objects are kept. An item raises DataError
    if its image cannot be read or its size differs from the annotated one.

    Source: https://cocodataset.org/#format-data describes the format.

    Args:
        root: The folder of the data set.
        split: The split's name or its unambiguous beginning.
        transforms: Called with the image and the target of each item; returns both.

    Attributes:
        image_ids: The ids of the images, ascending.
        categories: {id: name}, ascending.
        folder: The folder of the images.

    Raises:
        DataError: If the folder or the annotations cannot be used.
    """

    def __init__(self, root: str | Path, split: str, transforms: Callable | None = None):
        annotation_file = find_annotations(Path(root), split)
        self.folder = Path(root) / annotation_file.stem.removeprefix("instances_")
        self.transforms = transforms
        self._images, self.categories, annotations = read_annotations(annotation_file, self.folder)
        self.image_ids = sorted(self._images)
        self._annotations: dict[int, list[dict]] = {i: [] for i in self.image_ids}
        for annotation in annotations:
            self._annotations[annotation["image_id"]].append(annotation)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int):
        entry = self._images[self.image_ids[i]]
        size = (entry["height"], entry["width"])
        image = to_image(to_rgb(read_image(self.folder / entry["file_name"], size)))
        target = to_target(self._annotations[entry["id"]], entry["id"], size)
        return self.transforms(image, target) if self.transforms else (image, target)

    def sizes(self) -> list[tuple[int, int]]:
        """The annotated (height, width) of every image; no image is opened."""
        return [(self._images[i]["height"], self._images[i]["width"]) for i in self.image_ids]

    def ground_truth(self) -> COCO:
        """All annotations of these images, crowds included, for pycocotools."""
        images = [self._images[i] for i in self.image_ids]
        annotations = [a for i in self.image_ids for a in self._annotations[i]]
        return coco_ground_truth(images, annotations, self.categories)

    def first(self, k: int) -> "CocoDetection":
        """The first k images that have an object, as a data set; crowds do not count as objects.

        Args:
            k: The number of images.

        Returns:
            A data set that shares its annotations with this one.

        Raises:
            DataError: If there are fewer than k such images.
        """
        with_object = [
            i for i in self.image_ids if any(not a["iscrowd"] for a in self._annotations[i])
        ]
        if not 1 <= k <= len(with_object):
            raise DataError(
                f"{self.folder} has {len(with_object)} images with an object, so the first {k} "
                f"cannot be taken; ask for 1 to {len(with_object)}"
            )
        subset = copy.copy(self)
        subset.image_ids = with_object[:k]
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
