"""A detector on disk: weights, configuration and categories in one file."""

import os
from dataclasses import asdict
from pathlib import Path

import torch

from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, PictureSize
from ddetr_edu.training.detector import Detector

FORMAT = "ddetr-edu checkpoint 1"


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or not one that fits."""


def save(path: str | Path, detector: Detector, **extra) -> None:
    """Write a checkpoint in one go: the old file stays until the new one is whole on the disk.

    extra: more entries for the file, such as the step; tensors and plain values only
    Raises: OSError if it cannot be written (a full disk, say); the old file is then untouched.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "model": detector.model.state_dict(),
        "config": asdict(detector.model.config),
        "categories": detector.categories,
        "size": asdict(detector.size),
        **extra,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch reports a full disk as RuntimeError
            reason = "the disk is full, it seems" if isinstance(error, RuntimeError) else error
            raise OSError(
                f"the checkpoint {path} could not be written: {reason}; one that was there before "
                "is untouched"
            ) from error
        raise


def read(path: str | Path) -> dict:
    """The content of a checkpoint file; nothing in it is ever executed.

    Raises: CheckpointError if the file is missing, is no checkpoint or is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint at {path}; `ddetr train` writes one to its --out folder"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # on a damaged file torch.load may fail in any way, AssertionError included
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely (damaged, of another program, or "
            "holding code); give a checkpoint.pt written by `ddetr train`"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a torch file but not a checkpoint of this library; give a checkpoint.pt "
            "written by `ddetr train`"
        )
    return content


def load(path: str | Path) -> Detector:
    """The detector of a checkpoint, in evaluation mode, on the CPU.

    Raises: CheckpointError, in one sentence, if the file is missing or is no such checkpoint.
    """
    content = read(path)
    try:
        model = DeformableDETR(DeformableDETRConfig(**content["config"]))
        model.load_state_dict(content["model"])
        detector = Detector(model, content["categories"], PictureSize(**content["size"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path} does not fit this version of the library ({reason}); train it anew, or use "
            "the version that wrote it"
        ) from None
    return detector.eval()
