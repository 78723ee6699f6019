"""Reading data sets in Pascal VOC's format: an XML file for each image, and lists of the splits."""

import codecs
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from ddetr_edu.data.entries import parse_number, parse_size
from ddetr_edu.data.faults import DataError, Fault, OnFault, counted
from ddetr_edu.data.image_index import ImageIndex, files_below, only, relative_to
from ddetr_edu.data.labelled import LabelledImage, LabelledSet
from ddetr_edu.data.split_names import UNNAMED, split_in, split_of

VocBoxes = Literal["auto", "corners", "pixels"]
Difficult = Literal["crowd", "keep"]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocOptions(NamedTuple):
    """How to read what VOC's format leaves open.

    VOC's own files number pixels from 1, and xmax is the last pixel inside: a box of one pixel has
    xmin = xmax. Labelling tools write the corners of the box instead. With `boxes` "auto", the
    files that name VOC as their source are read as pixels and all others as corners.
    """

    boxes: VocBoxes = "auto"
    # VOC's evaluation ignores objects that are marked as difficult, as COCO's ignores crowds.
    difficult: Difficult = "crowd"


def read_voc(
    root: Path, images: Path | None, options: VocOptions, on_fault: OnFault
) -> LabelledSet:
    """Read a data set in Pascal VOC's format.

    The splits are those of ImageSets/Main, else those of folders named like train and valid. The
    image of an XML file is the one of the same name, wherever it is; if there is none, the one that
    is named in it. Categories are numbered from 1 in alphabetical order.

    Args:
        root: The folder that holds the XML files.
        images: The folder of the images; None: they are below `root`.
        options: How to read what the format leaves open.
        on_fault: Called for each fault.

    Returns:
        The data set.

    Raises:
        DataError: If there is no such file, or what `on_fault` raises.
    """
    lists_folder = _find_lists(root)
    base = lists_folder.parent.parent if lists_folder else root
    folder = base / "Annotations" if (base / "Annotations").is_dir() else root
    xml_files = list(files_below(folder, {".xml"}))
    if not xml_files:
        raise DataError(f"{root} has no XML file; --from voc reads one XML file for each image")
    index = ImageIndex([images] if images else [root], skip=("Segmentation",))
    names = {file: file.relative_to(folder).with_suffix("").as_posix() for file in xml_files}
    lists = _read_lists(lists_folder, set(names.values()), on_fault) if lists_folder else None
    data = LabelledSet(root, {}, {})
    counts: Counter[str] = Counter()
    used: set[Path] = set()
    for file in xml_files:
        where = relative_to(file, root)
        if lists is None:
            splits = [split_of(file, root)]
        elif not (splits := lists.get(names[file], [])):
            kind = "files in no list of ImageSets/Main"
            on_fault(Fault("left out", kind, f"{where} is in no list of {lists_folder}", file.name))
            continue
        annotation = _parse(file, where, on_fault)
        if annotation is None:
            continue
        path = _find_image(annotation, file, where, index, on_fault)
        if path is None:
            continue
        used.add(path)
        size = parse_size({k: _text(annotation, f"size/{k}") for k in ("width", "height")})
        objects = _read_objects(annotation, where, options, counts, on_fault)
        for split in splits:
            data.splits.setdefault(split, []).append(LabelledImage(path, size, objects))
    for path in index.paths:
        if path not in used and lists is None:
            name = relative_to(path, root)
            kind = "images without an XML file"
            on_fault(Fault("left out", kind, f"{name} has no XML file", name))
    found = {o["category"] for split in data.splits.values() for i in split for o in i.objects}
    data.categories = dict(enumerate(sorted(found), start=1))
    data.notes = _describe(counts, options)
    return data


def _find_lists(root: Path) -> Path | None:
    """The folder ImageSets/Main of the data set, if it has one."""
    found = sorted(p for p in root.rglob("ImageSets/Main") if any(p.glob("*.txt")))
    if len(found) > 1:
        one, other = (str(path.parent.parent) for path in found[:2])
        raise DataError(f"{root} holds several data sets ({one}, {other}); convert one of them")
    return found[0] if found else None


def _read_lists(folder: Path, known: set[str], on_fault: OnFault) -> dict[str, list[str]]:
    """{path of an XML file in its folder, without its ending: its splits}, from ImageSets/Main.

    Lists of single categories, such as dog_train.txt, are not read. trainval is train and val
    together: it is read where one of these is missing, and gives the images that the other has not.
    """
    # A list may name a file in a subfolder with the subfolder or without it.
    paths = {name.rpartition("/")[2]: name for name in known} | {name: name for name in known}
    lists: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.txt")):
        name = file.stem.lower()
        if name in ("trainval", "default") or split_in(name) and name.isalnum():
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            names = [_listed(line.strip(), paths) for line in lines if line.strip()]
            lists[{"default": UNNAMED}.get(name, split_in(name) or name)] = names
    if (both := lists.pop("trainval", None)) is not None and not {"train", "val"} <= set(lists):
        other = "val" if "train" in lists else "train"
        taken = set(lists.get("train", []) + lists.get("val", []) + lists.get("test", []))
        lists[other] = [name for name in both if name not in taken]
    if not lists:
        raise DataError(
            f"{folder} has no list train.txt, val.txt, trainval.txt or test.txt; add one, or "
            "remove the folder ImageSets for a random split"
        )
    splits: dict[str, list[str]] = {}
    for split, names in lists.items():
        for name in names:
            if name not in known:
                message = f"{folder} lists {name} in {split}, which has no XML file; add it"
                on_fault(Fault("left out", "images without an XML file", message, name))
            splits.setdefault(name, []).append(split)
    return splits


def _listed(line: str, paths: dict[str, str]) -> str:
    """The file in a line of a list, which may be quoted, have an ending or further columns."""
    line = line.strip("\"'").replace("\\", "/")
    for text in (line, line.split()[0]):
        for name in (text, text.rpartition(".")[0]):
            for spelling in (name, name.rpartition("/")[2]):
                if spelling in paths:
                    return paths[spelling]
    return line


def _parse(file: Path, where: str, on_fault: OnFault) -> ET.Element | None:
    """The root of an annotation file; None if it is none."""
    content = file.read_bytes().lstrip()
    try:
        root = ET.fromstring(_decoded(content))
    except (ET.ParseError, UnicodeError, LookupError, ValueError) as error:
        message = f"{where} cannot be read as XML ({error}); save it as UTF-8 or copy it again"
        on_fault(Fault("left out", "files of damaged XML", message, file.name))
        return None
    if root.tag != "annotation":
        message = f"{where} is no annotation file of VOC: it is an XML file of <{root.tag}>"
        on_fault(Fault("left out", "files of another XML format", message, file.name))
        return None
    return root


def _decoded(content: bytes) -> bytes | str:
    """The content of an XML file in an encoding that Python's parser can read.

    It knows no encoding of Chinese, Japanese or Korean but UTF-8 and UTF-16.
    """
    declaration = re.match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)[\"'][^>]*\?>", content)
    if declaration is None or codecs.lookup(declaration[1].decode()).name in ("utf-8", "utf-16"):
        return content
    return content[declaration.end() :].decode(declaration[1].decode())


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _find_image(
    annotation: ET.Element, file: Path, where: str, index: ImageIndex, on_fault: OnFault
) -> Path | None:
    """The image that an annotation file belongs to."""
    named = _text(annotation, "filename").replace("\\", "/").rsplit("/", 1)[-1]
    stem = named.rpartition(".")[0] or named
    candidates = index.find_stem(file.stem, named, file.parent)
    if candidates and file.stem.casefold() not in (named.casefold(), stem.casefold(), ""):
        message = f"{where} names the image {named!r}; {candidates[0].name} is taken for it"
        on_fault(Fault("kept", "files with the name of another image inside", message, file.name))
    if not candidates and named:
        candidates = index.find_stem(stem, named, file.parent)
    return only(candidates, where, named or file.stem, on_fault)


def _read_objects(
    annotation: ET.Element, where: str, options: VocOptions, counts: Counter[str], on_fault: OnFault
) -> list[dict]:
    """The objects of an annotation file. Their parts, such as heads and hands, are counted only."""
    own = _text(annotation, "source/database").startswith("The VOC")
    pixels = options.boxes == "pixels" or (options.boxes == "auto" and own)
    objects: list[dict] = []
    for n, element in enumerate(annotation.findall("object"), start=1):
        this, name = f"{where}, object {n},", " ".join(_text(element, "name").split())
        numbers = [parse_number(_text(element, f"bndbox/{corner}")) for corner in CORNERS]
        box = [value for value in numbers if value is not None]
        if not name:
            message = f"{this} has no name; give it one"
            on_fault(Fault("left out", "objects without a name", message))
        elif len(box) < len(CORNERS):
            message = f"{this} has no bndbox of four numbers; draw its box"
            on_fault(Fault("left out", "objects without a box", message))
        else:
            x1, y1 = box[0] - pixels, box[1] - pixels
            difficult = _text(element, "difficult") in ("1", "true", "True")
            crowd = int(difficult and options.difficult == "crowd")
            bbox = [x1, y1, box[2] - x1, box[3] - y1]
            objects.append({"id": f"of {this}", "category": name, "bbox": bbox, "iscrowd": crowd})
            counts["difficult"] += difficult
            counts["pixels" if pixels else "corners"] += 1
        counts["parts"] += len(element.findall("part"))
    return objects


def _describe(counts: Counter[str], options: VocOptions) -> list[str]:
    """What was decided for the user, in sentences."""
    notes = []
    if counts["corners"]:
        boxes = counted(counts["corners"], "boxes whose numbers are corners")
        notes.append(
            f"{boxes}, as labelling tools write them; with --voc-boxes pixels they are pixels "
            "numbered from 1"
        )
    if counts["pixels"]:
        boxes = counted(counts["pixels"], "boxes whose numbers are pixels numbered from 1")
        notes.append(f"{boxes}, as in VOC itself; with --voc-boxes corners they are corners")
    if counts["difficult"] and options.difficult == "crowd":
        objects = counted(counts["difficult"], "objects marked as difficult")
        notes.append(
            f"{objects}: iscrowd is 1, so that training ignores them and evaluation does not "
            "count them; with --difficult keep they are ordinary objects"
        )
    if counts["parts"]:
        notes.append(counted(counts["parts"], "parts of objects, such as heads, not read"))
    return notes
