"""A detector on disk: saved in a file of our own, loaded from our own or from others' files."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from ddetr_edu.checkpoints.huggingface import open_huggingface
from ddetr_edu.checkpoints.official import open_official
from ddetr_edu.checkpoints.safe_load import CheckpointError, safe_load
from ddetr_edu.detector import Detector
from ddetr_edu.files import atomic_write
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.timm_backbone import MissingTimm

FORMAT = "ddetr-edu checkpoint 1"


def save(path: str | Path, detector: Detector, **extra) -> None:
    """Write a checkpoint of our own, or, to a path ending in .safetensors, a model to give away.

    The latter has matrices and convolutions in fp16 and nothing that training could resume from; it
    takes a sixth of the space.

    Args:
        path: The file to write.
        detector: The detector to save.
        **extra: More entries for a checkpoint, such as the step; tensors and plain values only.

    Raises:
        ValueError: For a copy by `Detector.for_inference`, and to .safetensors for parameters
            beyond the range of fp16.
        OSError: If it cannot be written (a full disk, for example); an old file is then untouched.
    """
    if Path(path).suffix == ".safetensors":
        atomic_write(Path(path), _to_safetensors(detector))
        return
    content = {
        "format": FORMAT,
        "model": detector.model.state_dict(),
        "kind": type(detector.model).__name__,
        "config": asdict(detector.model.config),
        "categories": detector.categories,
        "resize": asdict(detector.resize),
        **extra,
    }
    atomic_write(Path(path), lambda file: torch.save(content, file))


def load(path: str | Path) -> Detector:
    """The detector of a checkpoint, in evaluation mode, on the CPU. Nothing in it is executed.

    Args:
        path: A file of ours, of either kind; a file of the official code, or its state dict alone;
            or a folder of Hugging Face's DeformableDetr- or DetrForObjectDetection. Its kind is
            recognised by its content.

    Returns:
        The detector.

    Raises:
        CheckpointError: If it is missing, damaged or something else.
        MissingTimm: If its backbone is one of timm, which is not installed.
    """
    path = Path(path)
    try:
        if (path / "config.json").is_file():
            detector = open_huggingface(path)
        elif path.suffix == ".safetensors":
            detector = _open_safetensors(path)
        else:
            content = safe_load(path)
            if isinstance(content, dict) and content.get("format") == FORMAT:
                detector = _open_ours(content)
            else:
                detector = open_official(content, path)
    except (CheckpointError, MissingTimm):
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
    """The detector of the entries that `save` writes."""
    model: DeformableDETR | DETR
    if content.get("kind") == "DETR":
        model = DETR(DETRConfig(**content["config"]))
    else:
        model = DeformableDETR(DeformableDETRConfig(**content["config"]))
    model.load_state_dict(content["model"])
    return Detector(model, content["categories"], ResizeConfig(**content["resize"]))


def _to_safetensors(detector: Detector) -> bytes:
    """A model to give away."""
    about = {
        "kind": type(detector.model).__name__,
        "config": asdict(detector.model.config),
        "categories": list(detector.categories.items()),  # JSON would turn the labels into strings
        "resize": asdict(detector.resize),
    }
    # Norms stay in fp32: they are few, and a small variance would become 0 in fp16.
    state = {
        name: (tensor.half() if tensor.dim() > 1 else tensor).contiguous()
        for name, tensor in detector.model.state_dict().items()
    }
    too_large = [name for name, tensor in state.items() if tensor.isinf().any()]
    if too_large:
        raise ValueError(
            f"{too_large[0]} holds a number beyond 65504, the largest of fp16; save the detector "
            "to a path ending in .pt, which keeps fp32"
        )
    return safetensors.torch.save(state, {"format": FORMAT, "about": json.dumps(about)})


def _open_safetensors(path: Path) -> Detector:
    """The detector of a model that was given away."""
    if not path.is_file():
        raise CheckpointError(f"there is no model at {path}; check the path")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); copy or download it again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no model of this library; for a Hugging Face model, give its whole folder"
        )
    about = json.loads(metadata["about"])
    about["resize"]["short_sides_in_training"] = tuple(about["resize"]["short_sides_in_training"])
    return _open_ours({**about, "categories": dict(about["categories"]), "model": state})
