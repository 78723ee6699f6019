"""Writing a data set in COCO's layout, checked on the way, and completely or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile, rmtree

from ddetr_edu.data.faults import DataError, Fault, FaultCounter, printable
from ddetr_edu.data.image_files import check_image_files, read_header
from ddetr_edu.data.labelled import LabelledImage, LabelledSet
from ddetr_edu.data.objects import read_objects
from ddetr_edu.data.split_names import ordered
from ddetr_edu.progress import progress

REPORT = "conversion.txt"  # in the folder of the data set: all that was left out or changed


class FaultLog(FaultCounter):
    """Counts faults, and keeps their messages.

    Attributes:
        messages: What was done and why, one line for each fault.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def __call__(self, fault: Fault) -> None:
        """Count one fault.

        Args:
            fault: The fault.

        Raises:
            DataError: If it is refused.
        """
        super().__call__(fault)
        self.messages.append(f"{fault.action}: {fault.message}")


def write_coco(data: LabelledSet, out: Path, log: FaultLog, link: bool = False) -> list[str]:
    """Write a data set to a new folder in COCO's layout.

    Images and annotations are numbered from 1 in the order of the images' names. All splits have
    the same categories. What `CocoDetection` would leave out is left out here, so that it has
    nothing to complain about. Until all is written, `out` does not exist.

    Args:
        data: The data set.
        out: The folder to write; it must not exist, or be empty.
        log: Counts what is left out or corrected; written to REPORT.
        link: Make hard links instead of copies of the images, where the file system can.

    Returns:
        For each split that has images, in order, its name and what it has, such as
        "train: 205 images, 2804 objects".

    Raises:
        FileExistsError: If the folder has files already.
        DataError: If no image can be used.
        OSError: If the disk is full.
    """
    summary = []
    with _new_folder(out) as folder:
        for split in ordered(data.splits):
            content, files = _check(data, data.splits[split], log)
            if not files:
                data.notes.append(f"{split} has no image that can be used; it is not written")
                continue
            (folder / split).mkdir()
            names = progress(
                files, desc=split, unit="image", total=len(files), leave=False, delay=3
            )
            for name in names:
                _put(files[name], folder / split / name, link)
            (folder / "annotations").mkdir(exist_ok=True)
            text = json.dumps(content, separators=(",", ":"))
            (folder / "annotations" / f"instances_{split}.json").write_text(text + "\n")
            objects = sum(not a["iscrowd"] for a in content["annotations"])
            summary.append(f"{split}: {len(files)} images, {objects} objects")
        if not summary:
            why = f": {log.example}" if log.example else ""
            raise DataError(f"{data.root} has no image that can be used{why}")
        lines = [f"from {data.root}", *summary, *data.notes, *log.messages]
        text = printable("\n".join(lines) + "\n")
        (folder / REPORT).write_text(text, encoding="utf-8")
    return summary


def check_new(out: Path, source: Path) -> None:
    """Raise unless a data set can be written to a folder.

    Args:
        out: The folder; it may exist if it is empty.
        source: What the data set is made of.

    Raises:
        FileExistsError: If the folder has files.
        ValueError: If it is inside the source: the next conversion would read its images as well.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; choose another --out, or delete it")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--out {out} is inside {source}; choose a folder beside it")


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, which becomes `out` at the end, or is deleted."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rmdir()  # only an empty one
        folder.rename(out)
    finally:
        rmtree(folder, ignore_errors=True)


def _check(
    data: LabelledSet, images: list[LabelledImage], log: FaultLog
) -> tuple[dict, dict[str, Path]]:
    """The content of a split's annotation file, and {name in the split: file} of its images."""
    names = _choose_names(data, images)
    ids = {name: i for i, name in data.categories.items()}
    entries: dict[int, dict] = {}  # with the paths as names and ids, for messages
    for n, image in enumerate(images):
        shown = data.relative(image.path)
        try:
            height, width = image.size or read_header(image.path).upright_size
        except DataError as error:
            log(Fault("left out", "images with a damaged file", str(error), shown))
            continue
        entries[n] = {"id": n, "file_name": shown, "width": width, "height": height}
    choice = data.exif_orientation
    usable = check_image_files(data.root, list(entries.values()), choice, log)
    objects = [
        {**o, "image_id": n, "category_id": ids[o["category"]]}
        for n in usable
        for o in images[n].objects
    ]
    shown_entries = {n: {**entries[n], "id": entries[n]["file_name"]} for n in usable}
    numbers = {n: i for i, n in enumerate(sorted(usable, key=lambda n: names[n]), start=1)}
    annotations = sorted(
        (
            {**a, "image_id": numbers[a["image_id"]]}
            for a in read_objects(objects, shown_entries, data.root, log)
        ),
        key=lambda annotation: annotation["image_id"],
    )
    content = {
        "info": {"exif_orientation": choice} if choice else {},
        "categories": [{"id": i, "name": name} for i, name in sorted(data.categories.items())],
        "images": [{**entries[n], "id": i, "file_name": names[n]} for n, i in numbers.items()],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
    }
    return content, {names[n]: images[n].path for n in numbers}


def _choose_names(data: LabelledSet, images: list[LabelledImage]) -> list[str]:
    """A file name for each image of a split; those of images in several folders may be equal."""
    taken: dict[str, None] = {}
    result = []
    for image in images:
        path = Path(data.relative(image.path))
        relative = "-".join(path.relative_to(path.anchor).parts)
        numbered = (f"{n}-{path.name}" for n in range(2, len(images) + 2))
        name = next(
            name for name in (path.name, relative, *numbered) if name.casefold() not in taken
        )
        taken[name.casefold()] = None  # some file systems do not distinguish capitals
        result.append(name)
    return result


def _put(source: Path, target: Path, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):  # another disk, or a file system without links
            os.link(source.resolve(), target)
            return
    copyfile(source, target)
