"""A detector on disk: saved in a file of our own, loaded from that or from others' files."""

from dataclasses import asdict
from pathlib import Path

import torch

from ddetr_edu.detector import DETR, DeformableDETR, DeformableDETRConfig, DETRConfig, PictureSize
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.files import CheckpointError, read, write_whole
from ddetr_edu.training.huggingface import open_huggingface
from ddetr_edu.training.official import open_official

FORMAT = "ddetr-edu checkpoint 1"


def save(path: str | Path, detector: Detector, **extra) -> None:
    """Write a checkpoint of our own.

    extra: more entries for the file, such as the step; tensors and plain values only
    Raises: OSError if it cannot be written (a full disk, say); the old file is then untouched.
    """
    content = {
        "format": FORMAT,
        "model": detector.model.state_dict(),
        "kind": type(detector.model).__name__,
        "config": asdict(detector.model.config),
        "categories": detector.categories,
        "size": asdict(detector.size),
        **extra,
    }
    write_whole(Path(path), lambda file: torch.save(content, file))


def load(path: str | Path) -> Detector:
    """The detector of a checkpoint, in evaluation mode, on the CPU. Nothing in it is executed.

    path: a file of ours, a file of the official code (or only its state dict), or a folder of
        Hugging Face's DeformableDetrForObjectDetection; which of them is seen from what is in it
    Raises: CheckpointError, in one sentence, if it is missing, damaged or something else.
    """
    path = Path(path)
    try:
        if (path / "config.json").is_file():
            detector = open_huggingface(path)
        else:
            content = read(path)
            ours = isinstance(content, dict) and content.get("format") == FORMAT
            detector = _open_ours(content) if ours else open_official(content, path)
    except CheckpointError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path} does not fit this version of the library ({reason}); use the version "
            "that wrote it, or another checkpoint"
        ) from None
    return detector.eval()


def _open_ours(content: dict) -> Detector:
    if content.get("kind") == "DETR":
        model = DETR(DETRConfig(**content["config"]))
    else:
        model = DeformableDETR(DeformableDETRConfig(**content["config"]))
    model.load_state_dict(content["model"])
    return Detector(model, content["categories"], PictureSize(**content["size"]))
