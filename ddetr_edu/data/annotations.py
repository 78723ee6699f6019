"""Reading and checking annotation files in COCO's format, without torch."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeGuard

from PIL import Image, UnidentifiedImageError

# COCO's own boxes extend beyond their image by rounding errors; this many pixels are a mistake.
MAX_OVERSHOOT = 1.0

# instances_train2017.json has two boxes of height 0, one in each of these images
# (https://github.com/cocodataset/cocoapi/issues/355). They are left out, so that COCO itself opens.
COCO_FLAWED_IMAGES = (200365, 550395)

OnError = Callable[[str, str], None]  # called as on_error(kind, message)


class DataError(ValueError):
    """A data set that cannot be used as it is: says what is wrong, where, and what to do."""


def split_names(root: Path) -> list[str]:
    """The splits of a data set in COCO's layout, such as train2017 and val2017.

    Args:
        root: The folder that holds `annotations/instances_{split}.json`.

    Returns:
        The names in alphabetical order; empty if there is no such file.

    Raises:
        DataError: If there is no folder `annotations`.
    """
    folder = root / "annotations"
    if not folder.is_dir():
        raise DataError(
            f"{root} is not a COCO data set: there is no folder {folder}; give the folder that "
            "holds annotations/instances_SPLIT.json and the images in SPLIT/"
        )
    return sorted(f.stem.removeprefix("instances_") for f in folder.glob("instances_*.json"))


def find_annotations(root: Path, split: str) -> Path:
    """The annotation file of a split.

    Args:
        root: The folder of the data set.
        split: The split's name or, if only one split begins with it, its beginning.

    Returns:
        The path of the file, which exists.

    Raises:
        DataError: If there is no such split, or more than one begins so.
    """
    folder, splits = root / "annotations", split_names(root)
    matches = [split] if split in splits else [s for s in splits if s.startswith(split)]
    if len(matches) != 1:
        problem = "more than one split that begins with" if matches else "no split"
        remedy = f"choose one of {', '.join(splits)}" if splits else "add instances_SPLIT.json"
        raise DataError(f"{folder} has {problem} {split!r}; {remedy}")
    return folder / f"instances_{matches[0]}.json"


def raise_error(kind: str, message: str) -> None:
    """Raise a DataError: what `read_annotations` does with an error by default.

    Args:
        kind: The kind of error; not used.
        message: The text of the exception.

    Raises:
        DataError: Always.
    """
    raise DataError(message)


def read_annotations(
    file: Path, folder: Path, on_error: OnError = raise_error
) -> tuple[dict[int, dict], dict[int, str], list[dict]]:
    """Read and check one annotation file in COCO's format.

    Args:
        file: The annotation file.
        folder: The folder of its images, which must exist and are not opened.
        on_error: Called as `on_error(kind, message)` for each error. By default the first one is
            raised; `ddetr data validate` collects them all.

    Returns:
        The images (id -> entry), the categories (id -> name, ascending) and the annotations
        without error, each with `iscrowd` and `area` and none with polygons.

    Raises:
        DataError: If the file cannot be read or lacks one of COCO's three lists.
    """
    data = read_lists(file)
    images = _by_id(data["images"], "image", file, on_error)
    categories = _by_id(data["categories"], "category", file, on_error)
    annotations = _by_id(data["annotations"], "annotation", file, on_error)
    _check_images(images, folder, file, on_error)
    for i, category in categories.items():
        if not isinstance(category.get("name"), str):
            on_error("categories without a name", f"{file}: category {i} has no name; give it one")
    names = {i: str(categories[i].get("name")) for i in sorted(categories)}
    valid = []
    for annotation in annotations.values():
        if _is_known_flaw(annotation):
            continue
        error = _find_error(annotation, images, categories)
        if error:
            kind, message = error
            on_error(kind, f"{file}: annotation {annotation['id']} {message}")
            continue
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        valid.append(annotation)
    return images, names, valid


def read_lists(path: Path) -> dict:
    """The content of an annotation file, without its polygons.

    Args:
        path: The annotation file.

    Returns:
        The file's object, which has the lists "images", "annotations" and "categories". Their
        entries are not checked.

    Raises:
        DataError: If the file is not JSON or lacks one of the three lists.
    """
    try:
        data = json.loads(path.read_bytes(), object_hook=_without_polygons)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); copy it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(
                f"{path} has no list {key!r}; COCO's instance annotations have the lists "
                "images, annotations and categories"
            )
    return data


def _without_polygons(entry: dict) -> dict:
    """For json.loads: polygons are nine tenths of COCO's file and are not used here."""
    entry.pop("segmentation", None)
    return entry


def _by_id(entries: list, kind: str, where: Path, on_error: OnError) -> dict[int, dict]:
    by_id: dict[int, dict] = {}
    for n, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            on_error(
                "entries without an id",
                f"{where}: {kind} number {n} has no whole number as id; give it one",
            )
        elif entry["id"] in by_id:
            on_error(
                "ids that occur twice",
                f"{where}: {kind} id {entry['id']} occurs twice; make ids unique",
            )
        else:
            by_id[entry["id"]] = entry
    return by_id


def has_size(image: dict) -> bool:
    """Whether an image entry has a usable width and height.

    Args:
        image: An entry of the list "images".

    Returns:
        True if both are integers of at least 1.
    """
    return all(type(image.get(k)) is int and image[k] >= 1 for k in ("width", "height"))


def _check_images(images: dict[int, dict], folder: Path, where: Path, on_error: OnError) -> None:
    if not folder.is_dir():
        on_error(
            "folders missing", f"{where} needs its images in {folder}, which does not exist; add it"
        )
        return
    for i, image in images.items():
        if not isinstance(image.get("file_name"), str):
            on_error("images without a name", f"{where}: image {i} has no file_name; add it")
        elif not has_size(image):
            on_error(
                "images without a size",
                f"{where}: image {i} has no positive whole width and height; give its size in px",
            )
        elif not (folder / image["file_name"]).is_file():
            on_error(
                "images missing",
                f"{where}: image {i} names {folder / image['file_name']}, which does not exist; "
                "add the image or remove its entry",
            )


def _is_known_flaw(annotation: dict) -> bool:
    box = annotation.get("bbox")
    flawed = annotation.get("image_id") in COCO_FLAWED_IMAGES
    return flawed and isinstance(box, list) and len(box) == 4 and box[3] == 0


def _is_box(box: object) -> TypeGuard[list[float]]:
    """Whether it is a list of four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(v) in (int, float) and math.isfinite(v) for v in box)
    )


def _find_error(annotation: dict, images: dict, categories: dict) -> tuple[str, str] | None:
    """What is wrong with an annotation: the kind of error, and what to say after its id."""
    image_id, category_id, box = (annotation.get(k) for k in ("image_id", "category_id", "bbox"))
    if type(image_id) is not int or image_id not in images:
        return "annotations of unlisted images", (
            f"names image {image_id}, which is not listed; add the image or remove it"
        )
    if type(category_id) is not int or category_id not in categories:
        return "annotations of unlisted categories", (
            f"(image {image_id}) names category {category_id}, which is not listed; "
            f"use one of the ids {', '.join(map(str, sorted(categories)))}"
        )
    this = f"(image {image_id}) has the box {box}"
    if not _is_box(box):
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
        return None  # reported as an error of the image
    width, height = images[image_id]["width"], images[image_id]["height"]
    overshoot = max(-x, -y, x + w - width, y + h - height)
    outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
    if outside or overshoot >= MAX_OVERSHOOT:
        return "boxes outside their image", (
            f"{this}, which leaves its image of {width} x {height} pixels; boxes are "
            "[x, y, width, height] in pixels: correct it or remove the annotation"
        )
    return None


def read_image(file: Path | BinaryIO, size: tuple[int, int], name: str = "") -> Image.Image:
    """Read an image file and decode it completely.

    Args:
        file: Its path, or an open binary file.
        size: (height, width) that the image must have, in pixels.
        name: What to call it in an error message; the path by default.

    Returns:
        The image in the mode of the file.

    Raises:
        DataError: If the file cannot be read or the image has another size.
    """
    # EXIF orientation is not applied: COCO's boxes refer to the pixels as they are stored.
    try:
        with Image.open(file) as image:
            actual = (image.height, image.width)
            if actual == size:
                image.load()
                return image
    # Pillow has no common ancestor for what a damaged file can raise.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{name or file} cannot be read as an image ({reason}); copy it again"
        ) from error
    raise DataError(
        f"{name or file} is {actual[1]} x {actual[0]} pixels, but its annotations say "
        f"{size[1]} x {size[0]}; use the image that was annotated, or correct width and height"
    )
