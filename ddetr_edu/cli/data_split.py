"""`ddetr data split`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.data_convert import tell


def run(
    data: Positional[Path],
    out: Path,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    link: bool = False,
) -> None:
    """Divide the images of a data set anew into train, val and test, at random.

    Try it:  ddetr data split data/my-photos --out data/my-photos-split --val 0.2 --test 0.1

    Each split has about the same proportion of the objects of each category. Copies of an image
    stay in one split, and so do the variants that Roboflow makes of one image. The images of all
    splits that the data set has are divided; the data set itself is left as it is.

    Args:
        data: A folder in COCO's layout.
        out: The folder to write; it must not exist.
        val: The share of the images to evaluate on during training.
        test: The share of the images to set aside for a final evaluation.
        seed: The same seed makes the same splits.
        link: Make hard links to the images instead of copies, which saves space; whoever changes
            an image then changes both.
    """
    from ddetr_edu.data.annotations import split_names
    from ddetr_edu.data.coco_exports import read_coco
    from ddetr_edu.data.coco_writing import FaultLog, check_new, write_coco
    from ddetr_edu.data.labelled import without_repetitions
    from ddetr_edu.data.splitting import split_images

    if min(val, test) < 0 or not 0 < val + test < 1:
        raise ValueError(
            f"--val {val:g} and --test {test:g} are shares of the images; they are at least 0, and "
            "their sum is above 0 and below 1"
        )
    split_names(data)  # raises unless it is COCO's layout
    check_new(out, data)
    log = FaultLog()
    content = read_coco(data.absolute(), None, log)
    without_repetitions(content, log)
    images = [image for split in content.splits.values() for image in split]
    shares = {"train": 1 - val - test, "val": val, "test": test}
    content.splits = split_images(images, {s: share for s, share in shares.items() if share}, seed)
    content.notes.append(f"the images of all splits were divided with seed {seed}")
    tell(
        out, write_coco(content, out, log, link), content.notes, log.sentence(), content.categories
    )
