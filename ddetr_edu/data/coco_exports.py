"""Reading COCO's format as labelling tools export it: any file name, any folder of the images."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from ddetr_edu.data.annotations import check_lists, find_image, read_lists
from ddetr_edu.data.entries import parse_number, parse_size, parse_whole
from ddetr_edu.data.faults import DataError, OnFault
from ddetr_edu.data.image_files import read_header
from ddetr_edu.data.image_index import ImageIndex, files_below, relative_to
from ddetr_edu.data.labelled import LabelledImage, LabelledSet
from ddetr_edu.data.split_names import split_in, split_of


def read_coco(source: Path, images: Path | None, on_fault: OnFault) -> LabelledSet:
    """Read a data set whose annotations are in COCO's format.

    Files named instances_*.json are read if there are any, then _annotations.coco.json of
    Roboflow, then all others that have COCO's three lists. A file's split is in its name or in that
    of its folder. Of an image's name, the longest ending that fits a file counts. Boxes that are
    missing are taken from the polygon or the mask.

    If all files have the same categories, these keep their ids, unless one is below 1. Otherwise
    they are numbered from 1 in the order of the files, by name.

    Args:
        source: The folder of the data set, or one annotation file.
        images: The folder of the images; None: they are below `source`.
        on_fault: Called for each fault.

    Returns:
        The data set.

    Raises:
        DataError: If there is no such file, two are of one split, or what `on_fault` raises.
    """
    root = source if source.is_dir() else source.parent
    files = _find_files(source)
    index = ImageIndex([images or (root.parent if root.name == "annotations" else root)])
    contents = {split: _read_file(file, index) for split, file in files.items()}
    placeholders = _drop_placeholders(list(contents.values()))
    categories: list[dict[int, str]] = []
    data = LabelledSet(root, {}, {})
    choices = set()
    for split, file in files.items():
        content = check_lists(contents[split], file, file.parent, on_fault)
        categories.append(content.categories)
        choices.add(content.exif_orientation)
        found = {
            i: LabelledImage(
                file.parent / entry["file_name"], (entry["height"], entry["width"]), []
            )
            for i, entry in content.images.items()
        }
        for n, annotation in enumerate(content.annotations, start=1):
            objects = found[annotation.pop("image_id")].objects
            name = content.categories[annotation.pop("category_id")]
            where = f"of {relative_to(file, root)}, object {n},"
            objects.append({"id": where, "category": name, **annotation})
        data.splits[split] = list(found.values())
    data.categories = _merge(categories)
    for name in placeholders:
        data.notes.append(f"the category {name!r}, which only groups the others, is left out")
    data.exif_orientation = choices.pop() if len(choices) == 1 else None
    return data


def _find_files(source: Path) -> dict[str, Path]:
    """{split: annotation file} of a data set."""
    if source.is_file():
        return {split_in(source.stem): source}
    every = list(files_below(source, {".json"}))
    groups = (
        [path for path in every if path.name.startswith("instances_")],
        [path for path in every if path.name.endswith("_annotations.coco.json")],
        [path for path in every if _has_lists(path)],
    )
    found = next((group for group in groups if group), [])
    if not found:
        raise DataError(
            f"{source} has no JSON file with the lists images, annotations and categories; give "
            "the folder or the file of an export in COCO's format"
        )
    files: dict[str, Path] = {}
    for path in found:
        split = split_in(path.stem) or split_of(path, source)
        if split in files:
            raise DataError(
                f"{files[split]} and {path} are of one split ({split or 'without a name'}); give "
                "one of the files, or name them instances_train.json and instances_val.json"
            )
        files[split] = path
    return files


def _has_lists(path: Path) -> bool:
    try:
        read_lists(path)
    except DataError:
        return False
    return True


def _read_file(file: Path, index: ImageIndex) -> dict:
    """The lists of an annotation file, with the paths of the images and all boxes filled in."""
    data = read_lists(file, _with_box)
    for entry in data["images"]:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        path = _find_path(name, file, index) if isinstance(name, str) else None
        if path is not None:
            entry["file_name"] = str(path)
            if parse_size(entry) is None:
                _fill_size(entry, path)
    return data


def _find_path(name: str, file: Path, index: ImageIndex) -> Path | None:
    """The image that an annotation file names: in COCO's layout, beside the file, or elsewhere."""
    for folder in (file.parent.parent / file.stem.removeprefix("instances_"), file.parent):
        if (exact := find_image(folder, name)) is not None:
            return folder / exact
    near = file.parent.joinpath(*re.split(r"[\W_]+", file.stem))  # val for instances_val.json
    found = index.find(name, near)
    if len(found) > 1:
        raise DataError(
            f"{file}: {name!r} can be {found[0]} or {found[1]}; write the folder into file_name, "
            "or give the folder of the images with --images"
        )
    return found[0] if found else None


def _fill_size(entry: dict, path: Path) -> None:
    with contextlib.suppress(DataError):  # it is reported as an image without a size
        entry["height"], entry["width"] = read_header(path).upright_size


def _with_box(entry: dict) -> dict:
    """For json.loads: an annotation's box, from its polygons or mask if need be."""
    outline = entry.pop("segmentation", None)
    if outline and not entry.get("bbox") and "image_id" in entry:
        entry["bbox"] = box_of(outline)
    return entry


def box_of(outline: object) -> list[float] | None:
    """The box of a segmentation in COCO's format.

    Args:
        outline: A list of polygons [x1, y1, x2, y2, ...] in px, or a run-length encoded mask.

    Returns:
        [x, y, width, height] in px; None if it has no extent that can be read.
    """
    if isinstance(outline, dict):
        return _box_of_mask(outline)
    if not isinstance(outline, list):
        return None
    polygons = outline if outline and isinstance(outline[0], list) else [outline]
    points = [parse_number(v) for polygon in polygons if isinstance(polygon, list) for v in polygon]
    numbers = [value for value in points if value is not None]
    if len(numbers) < len(points) or len(numbers) < 4:
        return None
    xs, ys = numbers[::2], numbers[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _box_of_mask(mask: dict) -> list[float] | None:
    from pycocotools import mask as masks

    try:
        if isinstance(mask["counts"], list):
            mask = masks.frPyObjects(mask, *mask["size"])
        return masks.toBbox(mask).tolist()
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _drop_placeholders(contents: Sequence[dict]) -> list[str]:
    """Remove the categories that Roboflow adds for the project: no object has one.

    Such a category has the supercategory "none" and is the supercategory of the others.
    """
    used = {parse_whole(a.get("category_id")) for c in contents for a in _entries(c, "annotations")}
    dropped = []
    for content in contents:
        above = {entry.get("supercategory") for entry in _entries(content, "categories")}
        for entry in _entries(content, "categories"):
            unused = parse_whole(entry.get("id")) not in used
            if unused and entry.get("supercategory") == "none" and entry.get("name") in above:
                content["categories"].remove(entry)
                dropped.append(str(entry["name"]))
    return list(dict.fromkeys(dropped))


def _entries(content: dict, key: str) -> list[dict]:
    return [entry for entry in content[key] if isinstance(entry, dict)]


def _merge(categories: Sequence[dict[int, str]]) -> dict[int, str]:
    """The categories of all files, each name once."""
    first = categories[0]
    names = list(dict.fromkeys(name for named in categories for name in named.values()))
    same = all(named == first for named in categories) and len(names) == len(first)
    return first if same and min(first, default=1) >= 1 else dict(enumerate(names, start=1))
