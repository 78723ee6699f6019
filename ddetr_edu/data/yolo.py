"""Reading data sets in YOLO's format: one text file for each image, and data.yaml."""

from collections.abc import Iterator
from pathlib import Path

from ddetr_edu.data.entries import parse_whole
from ddetr_edu.data.faults import DataError, Fault, OnFault, counted
from ddetr_edu.data.image_index import IMAGE_SUFFIXES, ImageIndex, files_below, only, read_text
from ddetr_edu.data.labelled import LabelledSet
from ddetr_edu.data.split_names import UNNAMED, split_in, split_of
from ddetr_edu.data.yolo_labels import LabelFiles

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")


def read_yolo(source: Path, images: Path | None, on_fault: OnFault) -> LabelledSet:
    """Read a data set in YOLO's format.

    The names and the splits are those of a YAML file. Without one, the names are those of
    classes.txt or obj.names, and the splits are folders named like train and valid. Category n of
    the file has the id n + 1. A polygon becomes its box. An image without a label file, or with an
    empty one, is an image without objects.

    Args:
        source: The folder of the data set, or its YAML file.
        images: The folder of the images; None: as the YAML file says, or below `source`.
        on_fault: Called for each fault.

    Returns:
        The data set; its sizes are those of the images as EXIF rotates them.

    Raises:
        DataError: If the files do not fit together, or what `on_fault` raises.
    """
    root = source if source.is_dir() else source.parent
    file = _find_yaml(source)
    if file is not None:
        config = _load_yaml(file)
        names = _names(config, file)
        # A row of a pose has the box first and then the keypoints.
        boxes_only = bool(config.get("kpt_shape"))
        paths = dict(_listed_images(config, file, images, on_fault))
    else:
        names, boxes_only = _read_names(root), False
        paths = {}
        for path in ImageIndex([images or root]).paths:
            paths.setdefault(split_of(path, images or root), []).append(path)
    if not any(paths.values()):
        raise DataError(
            f"{file or root} leads to no image; write the folders of the images as they are here, "
            "or give the folder that holds them with --images"
        )
    labels = LabelFiles(root, names, boxes_only, on_fault)
    splits = {split: [labels.read(path) for path in found] for split, found in paths.items()}
    labels.check()
    categories = {n + 1: name for n, name in names.items()}
    notes = []
    if labels.missing:
        images_without = counted(labels.missing, "images without a label file")
        notes.append(f"{images_without}, taken for images without an object")
    if labels.polygons:
        notes.append(counted(labels.polygons, "polygons replaced by their boxes"))
    return LabelledSet(root, categories, splits, "apply", notes)


def _find_yaml(source: Path) -> Path | None:
    """The YAML file that describes a data set, if there is one."""
    if source.is_file():
        return source
    found = [path for path in files_below(source, {".yaml", ".yml"}) if _describes(path)]
    depth = min((len(path.parts) for path in found), default=0)
    found = [path for path in found if len(path.parts) == depth]
    named = [path for path in found if path.stem in ("data", "dataset")]
    if len(found) > 1 and len(named) != 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{source} has several YAML files with names ({names}); give one of them")
    return next(iter(named or found), None)


def _describes(path: Path) -> bool:
    try:
        return "names" in _load_yaml(path)
    except DataError:
        return False


def _load_yaml(file: Path) -> dict:
    """The content of a YAML file; all values are texts, also `no` and `1`."""
    import yaml

    try:
        content = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} cannot be read as YAML ({reason}); correct it") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is no data.yaml: it has no line `names: ...`")
    return content


def _names(config: dict, file: Path) -> dict[int, str]:
    """{number in label files: name}, from a list or a dictionary."""
    given = config.get("names")
    if isinstance(given, dict):
        return _check_names({parse_whole(key): name for key, name in given.items()}, file)
    return _check_names(dict(enumerate(given if isinstance(given, list) else ())), file)


def _read_names(root: Path) -> dict[int, str]:
    """The names of a data set without a YAML file, one in each line."""
    suffixes = {Path(name).suffix for name in NAME_FILES}
    found = [path for path in files_below(root, suffixes) if path.name in NAME_FILES]
    if not found:
        raise DataError(
            f"{root} has neither a data.yaml nor a {' or '.join(NAME_FILES[:2])}; add data.yaml "
            "with the names of the categories: names: [cat, dog]"
        )
    contents = {tuple(read_text(path).split("\n")) for path in found}
    if len(contents) > 1:
        raise DataError(f"{found[0]} and {found[1]} have different names; make them the same")
    (lines,) = contents
    return _check_names(dict(enumerate(line.strip() for line in lines if line.strip())), found[0])


def _check_names(names: dict, file: Path) -> dict[int, str]:
    texts = [name for name in names.values() if isinstance(name, str) and name.strip()]
    if not names or None in names or min(names) < 0 or len(texts) < len(names):
        raise DataError(
            f"{file} does not name the categories; write names: [cat, dog], or names: and lines "
            "like 0: cat"
        )
    stripped = {n: names[n].strip() for n in sorted(names)}
    if len(set(stripped.values())) < len(stripped):
        repeated = next(t for t in stripped.values() if list(stripped.values()).count(t) > 1)
        raise DataError(f"{file} names two categories {repeated!r}; give each its own name")
    return stripped


def _listed_images(
    config: dict, file: Path, images: Path | None, on_fault: OnFault
) -> Iterator[tuple[str, list[Path]]]:
    """Each split of a YAML file and its images."""
    for key, value in config.items():
        split = split_in(key) if key.isalpha() else UNNAMED
        if split == UNNAMED or not value:
            continue
        found: list[Path] = []
        for entry in value if isinstance(value, list) else [value]:
            target = _locate(str(entry), config, file, images or file.parent)
            if target is None:
                kind = "paths to nothing"
                message = f"{file}: {key} is {entry}, which does not exist here; correct it"
                on_fault(Fault("left out", kind, message, f"{key}: {entry}"))
            elif target.is_dir():
                found += files_below(target, IMAGE_SUFFIXES)
            else:
                found += _read_list(target, images or file.parent, on_fault)
        yield split, found


def _locate(entry: str, config: dict, file: Path, images: Path) -> Path | None:
    """The folder or list that an entry of a YAML file means.

    `path` may be missing, relative to the YAML file or to a folder of all data sets, or a path of
    another machine. Roboflow's entries begin with ../ although the folders are beside the file.
    """
    entry = entry.replace("\\", "/")
    base = str(config.get("path") or "").replace("\\", "/")
    folders = [file.parent / base, file.parent, file.parent.parent, images, images.parent]
    inside = entry
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    candidates = [
        folder / spelling for spelling in dict.fromkeys((entry, inside)) for folder in folders
    ]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _read_list(file: Path, root: Path, on_fault: OnFault) -> list[Path]:
    """The images that a text file lists, one in each line."""
    index, found = None, []
    for line in read_text(file).splitlines():
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        path = next((p for p in (file.parent / name, root / name) if p.is_file()), None)
        if path is None:
            index = index or ImageIndex([root])
            path = only(index.find(name, file.parent), file.name, name, on_fault)
        if path is not None:
            found.append(path)
    return found
