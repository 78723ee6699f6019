"""Reading and checking annotation files in COCO's format, without torch."""

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddetr_edu.data.entries import by_id, image_id_parser, parse_name, parse_size, parse_whole
from ddetr_edu.data.faults import Action, DataError, Fault, OnFault
from ddetr_edu.data.objects import read_objects

ExifOrientation = Literal["apply", "ignore"]


@dataclass
class AnnotationFile:
    """What can be used of an annotation file."""

    images: dict[int, dict]  # by id: id, file_name, height and width
    categories: dict[int, str]  # {id: name}, ascending
    annotations: list[dict]  # image_id, category_id, bbox, area and iscrowd, all numbers
    exif_orientation: ExifOrientation | None  # what "info" says, if it does


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
            "holds annotations/instances_SPLIT.json and the images in SPLIT/, or make one of other "
            "formats with `ddetr data convert`"
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
    if len(matches) == 1:
        return folder / f"instances_{matches[0]}.json"
    others = ", ".join(splits)
    if matches:
        problem, remedy = "more than one split that begins with", f"choose one of {others}"
    else:
        problem = "no split"
        remedy = f"add instances_{split}.json and its images in {root / split}"
        if splits:
            remedy = f"there is {others}; {remedy}" if split == "val" else f"choose one of {others}"
        if splits and split == "val":
            remedy += (
                ": training is evaluated on images that it does not use, for example a fifth of "
                "those you have, which `ddetr data split` sets aside. If one of these splits is "
                "meant for that, rename its file and its folder; `ddetr train --overfit 8` needs "
                "no such split"
            )
    raise DataError(f"{folder} has {problem} {split!r}; {remedy}")


def read_annotations(file: Path, folder: Path, on_fault: OnFault) -> AnnotationFile:
    """Read and check one annotation file in COCO's format.

    Ids and numbers may also be given as text. Boxes are clipped if they leave their image by a
    pixel or more, and areas that cannot be those of the objects become those of the boxes.

    Args:
        file: The annotation file.
        folder: The folder of its images, which must exist and are not opened.
        on_fault: Called for each fault. `FaultCounter` raises those that are refused;
            `ddetr data validate` collects them all.

    Returns:
        What can be used.

    Raises:
        DataError: If the file cannot be read or lacks one of COCO's three lists, or what `on_fault`
            raises.
    """
    return check_lists(read_lists(file), file, folder, on_fault)


def check_lists(data: dict, file: Path, folder: Path, on_fault: OnFault) -> AnnotationFile:
    """Check the lists of one annotation file.

    Args:
        data: From `read_lists`.
        file: The annotation file, for messages.
        folder: The folder of its images; a `file_name` may also be an absolute path.
        on_fault: As in `read_annotations`.

    Returns:
        What can be used.

    Raises:
        DataError: What `on_fault` raises.
    """
    categories = _read_categories(data["categories"], file, on_fault)
    images = _read_images(data["images"], file, folder, on_fault)
    annotations = _resolve_ids(data, images, categories, file, on_fault)
    objects = read_objects(annotations, images, file, on_fault)
    return AnnotationFile(images, categories, objects, _exif_orientation(data, file))


def _without_polygons(entry: dict) -> dict:
    """For json.loads: polygons are nine tenths of COCO's file and are not used here."""
    entry.pop("segmentation", None)
    return entry


def read_lists(path: Path, of_entry: Callable[[dict], dict] = _without_polygons) -> dict:
    """The content of an annotation file, without its polygons.

    Args:
        path: The annotation file.
        of_entry: Called for each JSON object as soon as it is read; returns what to keep of it.

    Returns:
        The file's object, which has the lists "images", "annotations" and "categories". Their
        entries are not checked.

    Raises:
        DataError: If the file is not JSON or lacks one of the three lists.
    """
    try:
        data = json.loads(path.read_bytes(), object_hook=of_entry)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save it as UTF-8") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); copy it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(
                f"{path} has no list {key!r}; COCO's instance annotations have the lists "
                "images, annotations and categories"
            )
    return data


def _exif_orientation(data: dict, file: Path) -> ExifOrientation | None:
    info = data.get("info")
    choice = info.get("exif_orientation") if isinstance(info, dict) else None
    if choice in ("apply", "ignore", None):
        return choice
    raise DataError(
        f'{file}: "exif_orientation" in "info" is {choice!r}; it says "apply" if boxes refer to '
        'the images as their EXIF orientation rotates them, and "ignore" if not'
    )


def find_image(folder: Path, name: str) -> str | None:
    """The name of an image file as it is on the disk.

    Args:
        folder: The folder of the images.
        name: The annotated name. The file's may be composed of other code points, as macOS does it
            with accents, and the annotated one may have the separators of Windows.

    Returns:
        A name with which the file exists; None if there is none.
    """
    spellings = (
        name,
        unicodedata.normalize("NFC", name),
        unicodedata.normalize("NFD", name),
        name.replace("\\", "/"),
    )
    for spelling in dict.fromkeys(spellings):
        try:
            if (folder / spelling).is_file():
                return spelling
        except (OSError, ValueError):  # too long, or not a name at all
            continue
    return None


def _read_categories(entries: list, file: Path, on_fault: OnFault) -> dict[int, str]:
    """{id: name}, ascending. Without any of them, nobody knows what the objects are."""

    def refuse(kind: str, message: str) -> None:
        on_fault(Fault("refused", kind, f"{file}: {message}"))

    by_number, without, twice = by_id(entries, parse_whole)
    for n in without:
        message = f"category number {n} has no whole number as id; give it one"
        refuse("categories without an id", message)
    for i in twice:
        refuse("ids that occur twice", f"category id {i} occurs twice; make ids unique")
    for i, entry in by_number.items():
        if parse_name(entry) is None:
            refuse("categories without a name", f"category {i} has no name; give it one")
    return {i: str(parse_name(by_number[i])) for i in sorted(by_number)}


def _read_images(entries: list, file: Path, folder: Path, on_fault: OnFault) -> dict[int, dict]:
    """The images that have an id, a name, a size and a file."""

    def leave_out(kind: str, message: str, name: str = "") -> None:
        on_fault(Fault("left out", kind, f"{file}: {message}", name))

    has_folder = folder.is_dir()
    if not has_folder:
        message = f"{file} needs its images in {folder}, which does not exist; add it"
        on_fault(Fault("refused", "folders missing", message))
    by_number, without, twice = by_id(entries, image_id_parser(entries))
    for n in without:
        message = f"image number {n} has no whole number as id; give it one"
        leave_out("images without an id", message)
    for i in twice:
        message = f"{file}: image id {i} occurs twice; make ids unique"
        on_fault(Fault("refused", "ids that occur twice", message))
    images = {}
    for i, entry in by_number.items():
        name, size, this = entry.get("file_name"), parse_size(entry), f"image {entry['id']}"
        found = find_image(folder, name) if isinstance(name, str) else None
        if not isinstance(name, str):
            leave_out("images without a name", f"{this} has no file_name; add it")
        elif size is None:
            message = f"{this} has no positive whole width and height; give its size in px"
            leave_out("images without a size", message, name)
        elif found is None and has_folder:
            message = (
                f"{this} names {folder / name}, which does not exist; add the image or remove its "
                "entry"
            )
            leave_out("images without a file", message, name)
        else:
            height, width = size
            images[i] = {"id": i, "file_name": found or name, "width": width, "height": height}
    return images


def _resolve_ids(
    data: dict, images: dict[int, dict], categories: dict[int, str], file: Path, on_fault: OnFault
) -> list[dict]:
    """The annotations of usable images, each once, with numbers as image_id and category_id."""
    parse_id = image_id_parser(data["images"])
    listed = {parse_id(image.get("id")) for image in data["images"] if isinstance(image, dict)}
    resolved = []
    for entry in _check_ids(data["annotations"], file, on_fault):
        image_id, category_id = (
            parse_id(entry.get("image_id")),
            parse_whole(entry.get("category_id")),
        )
        this = f"{file}: annotation {entry.get('id')}"
        if image_id is None or image_id not in listed:
            message = f"{this} names image {entry.get('image_id')}, which is not listed; "
            remedy = "add the image or remove it"
            on_fault(Fault("left out", "annotations of unlisted images", message + remedy))
        elif category_id is None or category_id not in categories:
            # Leaving it out could hide that all ids are shifted.
            message = (
                f"{this} (image {entry['image_id']}) names category {entry.get('category_id')}, "
                f"which is not listed; use one of the ids {', '.join(map(str, categories))}"
            )
            on_fault(Fault("refused", "annotations of unlisted categories", message))
        elif image_id in images:  # an image that has been left out takes its objects with it
            resolved.append({**entry, "image_id": image_id, "category_id": category_id})
    return resolved


def _check_ids(entries: list, file: Path, on_fault: OnFault) -> Iterator[dict]:
    """The annotations without copies. Whether their ids are sound is of no importance here."""
    found: dict[int, list[dict]] = {}
    for n, entry in enumerate(entries):
        number = parse_whole(entry.get("id")) if isinstance(entry, dict) else None
        action: Action = "kept"
        if number is None:
            action = "kept" if isinstance(entry, dict) else "left out"
            message = f"{file}: annotation number {n} has no whole number as id; give it one"
            on_fault(Fault(action, "annotations without an id", message))
        elif number in found:
            action = "left out" if entry in found[number] else "kept"
            message = f"{file}: annotation id {number} occurs twice; make ids unique"
            on_fault(Fault(action, "annotations with the id of another", message))
        if number is not None:
            found.setdefault(number, []).append(entry)
        if action == "kept":
            yield entry
