"""What several commands share."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ddetr_edu.detector import Detector
    from ddetr_edu.models.config import Precision

CHECKPOINT = Path("runs/train/checkpoint.pt")  # where `ddetr train` leaves it


def open_upright(path: Path) -> "Image":
    """An image in RGB, rotated according to its EXIF orientation.

    Args:
        path: The image.

    Returns:
        A PIL image.

    Raises:
        ValueError: Naming the file, if it cannot be read.
    """
    from torchvision.transforms.v2.functional import to_pil_image

    from ddetr_edu.models.preprocessing import load_image

    return to_pil_image(load_image(path))


def with_precision(detector: "Detector", precision: "Precision") -> "Detector":
    """The detector for a command that only detects; where it is slow, a sentence says so.

    Args:
        detector: As loaded.
        precision: Of the forward pass.

    Returns:
        The detector itself for fp32, otherwise its copy for inference.

    Raises:
        ValueError: If the detector's device lacks the precision.
    """
    if precision == "fp32":
        return detector
    from ddetr_edu.models.autocast import describe_slow_precision

    faster = detector.for_inference(precision)
    slow = describe_slow_precision(faster.precision, next(faster.parameters()).device)
    if slow is not None:
        print(slow, file=sys.stderr)
    return faster


def preset_queries(n_queries: int | None = None) -> dict[str, int]:
    """The numbers of queries to compare a data set with.

    Args:
        n_queries: Of the user's own detector, if given.

    Returns:
        {"your detector": n_queries}, or {name: its number of queries} of all presets.
    """
    from ddetr_edu.models.config import DETR_PRESETS, PRESETS, DeformableDETRConfig, DETRConfig

    if n_queries is not None:
        return {"your detector": n_queries}
    deformable = {name: DeformableDETRConfig.preset(name).n_queries for name in PRESETS}
    return deformable | {name: DETRConfig.preset(name).n_queries for name in DETR_PRESETS}


def output_path(
    out: Path | None, folder: Path, image: Path, ending: str = ".png", several: bool = False
) -> Path:
    """Where to write what is made of an image.

    A name that the user gave is taken as it is, and an existing file of that name is replaced. A
    name that is made from the image's never replaces a file: it gets a number.

    Args:
        out: What the user gave: a file, or a folder, which exists or has a name without an ending.
        folder: The folder if the user gave none.
        image: The image.
        ending: Of the file's name.
        several: Whether there are several images, so that `out` must be a folder.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the file is the image itself, or the only one for several images.
    """
    if out is None or out.is_dir() or not out.suffix:
        folder = folder if out is None else out
        path, number = folder / f"{image.stem}{ending}", 1
        while path.exists():
            number += 1
            path = folder / f"{image.stem}-{number}{ending}"
        return path
    if several:
        raise ValueError(f"--out {out} is the name of one file; for several images, give a folder")
    if out.exists() and image.exists() and out.samefile(image):
        raise ValueError(f"--out {out} is the image itself; choose another name")
    return out


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, and print where.

    Args:
        figure: The figure.
        path: The file; its folder is made if need be.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the name ends in no image format that Matplotlib can write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def shell_command(*words: str | Path) -> str:
    """A command for the user to type, as it works in the user's terminal.

    Args:
        words: The command and its arguments.

    Returns:
        One line, with quotation marks where needed, and after "uv run" if that started this one.
    """
    line = [*(["uv", "run"] if os.environ.get("UV") else []), *map(str, words)]
    return subprocess.list2cmdline(line) if sys.platform == "win32" else shlex.join(line)
