"""`ddetr data convert`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ddetr_edu.cli.common import shell_command

MAX_NAMES = 12  # categories that are printed


def run(
    source: Positional[Path],
    from_: Annotated[Literal["voc", "yolo", "coco"], arg(name="from")],
    out: Path,
    images: Path | None = None,
    val: float = 0.2,
    seed: int = 0,
    link: bool = False,
    voc_boxes: Literal["auto", "corners", "pixels"] = "auto",
    difficult: Literal["crowd", "keep"] = "crowd",
) -> None:
    """Convert annotations of other formats to COCO's layout, ready for `ddetr train --data`.

    Try it:  ddetr data convert --from yolo my-photos --out data/my-photos

    voc: one XML file for each image, with ImageSets/Main if there is one (LabelImg, CVAT, Label
    Studio, Roboflow). yolo: one text file for each image, with data.yaml or classes.txt; polygons
    become boxes. coco: JSON files as CVAT, Label Studio and Roboflow export them.

    All is written, or nothing: annotations and images are checked on the way, what cannot be used
    is left out and counted, and conversion.txt in the new folder names all of it. Splits are those
    of the source; without one for validation, images are chosen at random, with about the same
    proportion of each category.

    Args:
        source: The folder of the data set; also its data.yaml, or its JSON file.
        from_: The format of the annotations.
        out: The folder to write; it must not exist.
        images: The folder of the images, if they are not inside the source.
        val: The share of images that becomes val if the source has no split for validation; 0
            leaves all of them in train.
        seed: Of that choice.
        link: Make hard links to the images instead of copies, which saves space; whoever changes
            an image then changes both.
        voc_boxes: What the numbers of VOC's boxes are: the corners of the box, as labelling tools
            write them, or the first and the last pixel inside, numbered from 1, as in VOC itself.
            auto: pixels in files that name VOC as their source, corners in all others.
        difficult: What becomes of VOC's difficult objects: crowds, which training ignores and
            evaluation does not count, or ordinary objects.
    """
    from ddetr_edu.data.coco_exports import read_coco
    from ddetr_edu.data.coco_writing import FaultLog, check_new, write_coco
    from ddetr_edu.data.labelled import without_repetitions
    from ddetr_edu.data.splitting import complete_splits
    from ddetr_edu.data.voc import VocOptions, read_voc
    from ddetr_edu.data.yolo import read_yolo

    if not 0 <= val < 1:
        raise ValueError(f"--val is {val:g}; it is a share of the images, from 0 to below 1")
    for path in (source, images):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the folder of the data set")
    source, images = source.absolute(), images and images.absolute()
    check_new(out, source)
    log = FaultLog()
    if from_ == "voc":
        data = read_voc(source, images, VocOptions(voc_boxes, difficult), log)
    elif from_ == "yolo":
        data = read_yolo(source, images, log)
    else:
        data = read_coco(source, images, log)
    without_repetitions(data, log)
    complete_splits(data, val, seed)
    tell(out, write_coco(data, out, log, link), data.notes, log.sentence(), data.categories)


def tell(
    out: Path, summary: list[str], notes: list[str], faults: str, categories: dict[int, str]
) -> None:
    """Print what was written and what was not.

    Args:
        out: The folder of the data set.
        summary: One line for each split.
        notes: What was decided.
        faults: What was left out.
        categories: {id: name}.
    """
    from ddetr_edu.data.coco_writing import REPORT

    names = list(categories.values())
    rest = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    print(f"wrote {out}, {len(names)} categories: {', '.join([*names[:MAX_NAMES], *rest])}")
    for line in summary:
        print(f"  {line}")
    for note in notes:
        print(f"note: {note}")
    if faults:
        print(f"{faults}; {out / REPORT} says why")
    print(f"try: {shell_command('ddetr', 'data', 'validate', out)}")
