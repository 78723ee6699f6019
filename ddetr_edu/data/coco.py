"""COCO's annotation format: checked when it is opened, then read one picture at a time."""

import contextlib
import copy
import io
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2.functional import to_image

# COCO's own boxes overshoot their picture by rounding; more than this many pixels is a mistake.
OVERSHOOT = 1.0

# instances_train2017.json has two boxes of height 0, one in each of these pictures
# (https://github.com/cocodataset/cocoapi/issues/355). They are left out, so that COCO itself opens.
COCO_FLAWED_IMAGES = (200365, 550395)


class DataError(ValueError):
    """A data set that cannot be used as it is: says what is wrong, where, and what to do."""


class CocoDetection(Dataset):
    """The pictures and boxes of one split of a data set in COCO's layout.

    Reads `root/annotations/instances_{split}.json` and the pictures in `root/{split}/`. If that
    file is absent, the only `instances_{split}*.json` is taken, so that "train" finds train2017.

    Item i is `(image, target)`, after `transforms(image, target)` if given:
    image is a uint8 RGB `tv_tensors.Image` (3, H, W); for target see `to_target`. Labels are the
    file's category ids, gaps and all. Pictures without an object are kept.

    Attributes: `image_ids` (ascending) and `categories` (id -> name, ascending).
    Raises DataError when opened if the folder or the annotations cannot be used, and on access if
    a picture cannot be read or has another size than its annotation says.
    Source: the format is described at https://cocodataset.org/#format-data
    """

    def __init__(self, root: str | Path, split: str, transforms: Callable | None = None):
        annotation_file = _find_annotations(Path(root), split)
        self.folder = Path(root) / annotation_file.stem.removeprefix("instances_")
        self.transforms = transforms
        self._images, self.categories, annotations = read_annotations(annotation_file, self.folder)
        self.image_ids = sorted(self._images)
        self._annotations = {i: [] for i in self.image_ids}
        for annotation in annotations:
            self._annotations[annotation["image_id"]].append(annotation)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int):
        entry = self._images[self.image_ids[i]]
        size = (entry["height"], entry["width"])
        image = to_image(to_rgb(read_picture(self.folder / entry["file_name"], size)))
        target = to_target(self._annotations[entry["id"]], entry["id"], size)
        return self.transforms(image, target) if self.transforms else (image, target)

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture as annotated; none is opened."""
        return [(self._images[i]["height"], self._images[i]["width"]) for i in self.image_ids]

    def ground_truth(self) -> COCO:
        """All annotations of these pictures, crowds included, as pycocotools wants them."""
        images = [self._images[i] for i in self.image_ids]
        annotations = [a for i in self.image_ids for a in self._annotations[i]]
        return coco_ground_truth(images, annotations, self.categories)

    def first(self, k: int) -> "CocoDetection":
        """The first k pictures that hold an object (crowds do not count), as a data set.

        Raises DataError if there are fewer than k.
        """
        with_object = [
            i for i in self.image_ids if any(not a["iscrowd"] for a in self._annotations[i])
        ]
        if not 1 <= k <= len(with_object):
            raise DataError(
                f"{self.folder} has {len(with_object)} pictures with an object, so the first {k} "
                f"cannot be taken; ask for 1 to {len(with_object)}"
            )
        subset = copy.copy(self)
        subset.image_ids = with_object[:k]
        return subset


def to_target(annotations: Iterable[dict], image_id: int, size: tuple[int, int]) -> dict:
    """COCO annotations of one picture of size (H, W) -> what a detector is to find in it.

    Returns "boxes": tv_tensors.BoundingBoxes float32 (n, 4), (x1, y1, x2, y2) in pixels, clipped to
    the picture; "labels": int64 (n,), category ids; "image_id": int; "size": (H, W).
    Crowds are left out: a crowd region is no single object, it only excuses false alarms when
    detections are scored.
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
    """COCO's image and annotation entries -> a pycocotools COCO object, quietly.

    Annotations are copied, because scoring writes into them, and numbered from 1, because
    pycocotools takes a match with annotation 0 for no match.
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


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture in RGB; 16-bit grey is scaled to 8 bits, which Pillow alone would clip."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) // 257).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


def split_names(root: Path) -> list[str]:
    """The splits of a data set: train2017, val2017, ... Raises: DataError if it is none."""
    folder = root / "annotations"
    if not folder.is_dir():
        raise DataError(
            f"{root} is not a COCO data set: there is no folder {folder}; give the folder that "
            "holds annotations/instances_SPLIT.json and the pictures in SPLIT/"
        )
    return sorted(f.stem.removeprefix("instances_") for f in folder.glob("instances_*.json"))


def _find_annotations(root: Path, split: str) -> Path:
    folder, splits = root / "annotations", split_names(root)
    matches = [split] if split in splits else [s for s in splits if s.startswith(split)]
    if len(matches) != 1:
        problem = "more than one split that begins with" if matches else "no split"
        remedy = f"choose one of {', '.join(splits)}" if splits else "add instances_SPLIT.json"
        raise DataError(f"{folder} has {problem} {split!r}; {remedy}")
    return folder / f"instances_{matches[0]}.json"


def refuse(kind: str, sentence: str) -> None:
    """What becomes of a fault when nobody else wants it."""
    raise DataError(sentence)


def read_annotations(
    file: Path, folder: Path, fault: Callable[[str, str], None] = refuse
) -> tuple[dict[int, dict], dict[int, str], list[dict]]:
    """Read and check one annotation file of COCO's format.

    folder: where its pictures are; they have to exist and are not opened
    fault:  called as fault(kind, sentence) for whatever is wrong; `refuse` raises at the first,
        `ddetr data check` collects them all
    Returns: images (id -> entry), categories (id -> name, ascending), and the annotations without
        fault, each with iscrowd and area, none with polygons.
    Raises: DataError for a file without COCO's three lists.
    """
    data = read_lists(file)
    images = _by_id(data["images"], "image", file, fault)
    categories = _by_id(data["categories"], "category", file, fault)
    annotations = _by_id(data["annotations"], "annotation", file, fault)
    _check_images(images, folder, file, fault)
    for i, category in categories.items():
        if not isinstance(category.get("name"), str):
            fault("categories without a name", f"{file}: category {i} has no name; give it one")
    sound = []
    for annotation in annotations.values():
        if _is_known_flaw(annotation):
            continue
        wrong = _fault_of(annotation, images, categories)
        if wrong:
            fault(wrong[0], f"{file}: annotation {annotation['id']} {wrong[1]}")
            continue
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        sound.append(annotation)
    return images, {i: categories[i].get("name") for i in sorted(categories)}, sound


def read_lists(path: Path) -> dict:
    """The content of an annotation file, without its polygons.

    Raises: DataError for a file that is no JSON, or lacks one of COCO's three lists.
    """
    try:
        data = json.loads(path.read_bytes(), object_hook=_without_polygons)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); copy it anew") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(
                f"{path} has no list {key!r}; COCO's instance annotations have the lists "
                "images, annotations and categories"
            )
    return data


def _without_polygons(entry: dict) -> dict:
    """For json.loads: polygons are nine tenths of COCO's file, and nobody here looks at them."""
    entry.pop("segmentation", None)
    return entry


def _by_id(entries: list, kind: str, where: Path, fault: Callable) -> dict[int, dict]:
    found = {}
    for n, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            fault(
                "entries without an id",
                f"{where}: {kind} number {n} has no whole number as id; give it one",
            )
        elif entry["id"] in found:
            fault(
                "ids that occur twice",
                f"{where}: {kind} id {entry['id']} occurs twice; make ids unique",
            )
        else:
            found[entry["id"]] = entry
    return found


def has_size(image: dict) -> bool:
    return all(type(image.get(k)) is int and image[k] >= 1 for k in ("width", "height"))


def _check_images(images: dict[int, dict], folder: Path, where: Path, fault: Callable) -> None:
    if not folder.is_dir():
        fault(
            "folders missing",
            f"{where} wants its pictures in {folder}, which does not exist; add it",
        )
        return
    for i, image in images.items():
        if not isinstance(image.get("file_name"), str):
            fault("pictures without a name", f"{where}: image {i} has no file_name; add it")
        elif not has_size(image):
            fault(
                "pictures without a size",
                f"{where}: image {i} has no positive whole width and height; give its size in px",
            )
        elif not (folder / image["file_name"]).is_file():
            fault(
                "pictures missing",
                f"{where}: image {i} names {folder / image['file_name']}, which does not exist; "
                "add the picture or remove its entry",
            )


def _is_known_flaw(annotation: dict) -> bool:
    box = annotation.get("bbox")
    flawed = annotation.get("image_id") in COCO_FLAWED_IMAGES
    return flawed and isinstance(box, list) and len(box) == 4 and box[3] == 0


def _fault_of(annotation: dict, images: dict, categories: dict) -> tuple[str, str] | None:
    """What is wrong with an annotation: the kind of fault, and what to say after its id."""
    image_id, category_id, box = (annotation.get(k) for k in ("image_id", "category_id", "bbox"))
    if type(image_id) is not int or image_id not in images:
        return "annotations of unlisted pictures", (
            f"names image {image_id}, which is not listed; add the image or remove it"
        )
    if type(category_id) is not int or category_id not in categories:
        return "annotations of unlisted categories", (
            f"(image {image_id}) names category {category_id}, which is not listed; "
            f"use one of the ids {', '.join(map(str, sorted(categories)))}"
        )
    this = f"(image {image_id}) has the box {box}"
    is_list = isinstance(box, list) and len(box) == 4
    if not is_list or any(type(v) not in (int, float) or not math.isfinite(v) for v in box):
        return "boxes that are not four finite numbers", (
            f"{this}; a box is four finite numbers [x, y, width, height] in pixels"
        )
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return "boxes of no width or height", (
            f"{this} of no width or height; correct it or remove the annotation"
        )
    area, crowd = annotation.get("area", 1.0), annotation.get("iscrowd", 0)
    if type(area) not in (int, float) or not math.isfinite(area) or crowd not in (0, 1):
        return "annotations with an odd area or iscrowd", (
            f"{this} with area {area!r} and iscrowd {crowd!r}; area is a number, iscrowd 0 or 1: "
            "correct them or leave them out"
        )
    if not has_size(images[image_id]):
        return None  # the picture's own fault
    width, height = images[image_id]["width"], images[image_id]["height"]
    overshoot = max(-x, -y, x + w - width, y + h - height)
    outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
    if outside or overshoot >= OVERSHOOT:
        return "boxes outside their picture", (
            f"{this}, which leaves its picture of {width} x {height} pixels; boxes are "
            "[x, y, width, height] in pixels: correct it or remove the annotation"
        )
    return None


def read_picture(file: Path | BinaryIO, size: tuple[int, int], name: str = "") -> Image.Image:
    """A picture, decoded whole. `name` is for the message when the file has none.

    Raises: DataError if it cannot be read, or is not of this size (H, W).
    """
    # EXIF orientation is not applied: COCO's boxes refer to the pixels as they are stored.
    try:
        with Image.open(file) as picture:
            found = (picture.height, picture.width)
            if found == size:
                picture.load()
                return picture
    # Pillow has no common ancestor for what a damaged file can raise.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{name or file} cannot be read as a picture ({reason}); copy it anew"
        ) from error
    raise DataError(
        f"{name or file} is {found[1]} x {found[0]} pixels, but its annotations say "
        f"{size[1]} x {size[0]}; use the picture that was annotated, or correct width and height"
    )
