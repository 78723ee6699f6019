"""A detector on disk: saved in a file of our own, loaded from that or from others' files."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from ddetr_edu.detector import DETR, DeformableDETR, DeformableDETRConfig, DETRConfig, PictureSize
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.files import CheckpointError, read, write_whole
from ddetr_edu.training.huggingface import open_huggingface
from ddetr_edu.training.official import open_official

FORMAT = "ddetr-edu checkpoint 1"


def save(path: str | Path, detector: Detector, **extra) -> None:
    """Write a checkpoint of our own, or, to a path that ends in .safetensors, a model to give away.

    That one has matrices and filters in 16 bits and holds nothing a training could go on from; it
    takes a sixth of the space.

    extra: more entries for a checkpoint, such as the step; tensors and plain values only
    Raises: OSError if it cannot be written (a full disk, say); the old file is then untouched.
    """
    if Path(path).suffix == ".safetensors":
        write_whole(Path(path), lambda file: file.write(_small(detector)))
        return
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

    path: a file of ours, of either kind; a file of the official code, or only its state dict; or a
        folder of Hugging Face's DeformableDetrForObjectDetection. It is seen from what is in it.
    Raises: CheckpointError, in one sentence, if it is missing, damaged or something else.
    """
    path = Path(path)
    try:
        if (path / "config.json").is_file():
            detector = open_huggingface(path)
        elif path.suffix == ".safetensors":
            detector = _open_small(path)
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


def _small(detector: Detector) -> bytes:
    about = {
        "kind": type(detector.model).__name__,
        "config": asdict(detector.model.config),
        "categories": list(detector.categories.items()),  # JSON would turn the labels into strings
        "size": asdict(detector.size),
    }
    # Norms stay as they are: they are few, and a small variance is no number in 16 bits.
    weights = {
        name: tensor.half() if tensor.dim() > 1 else tensor
        for name, tensor in detector.model.state_dict().items()
    }
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    return safetensors.torch.save(weights, {"format": FORMAT, "about": json.dumps(about)})


def _open_small(path: Path) -> Detector:
    if not path.is_file():
        raise CheckpointError(f"there is no model at {path}; check the path")
    try:
        with safetensors.safe_open(path, "pt") as file:
            known = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it anew") from None
    if known.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no model of this library; of Hugging Face's, give the folder it lies in"
        )
    about = json.loads(known["about"])
    about["size"]["short_sides_in_training"] = tuple(about["size"]["short_sides_in_training"])
    return _open_ours({**about, "categories": dict(about["categories"]), "model": weights})
