"""Files of the official codes: fundamentalvision/Deformable-DETR and facebookresearch/detr."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from ddetr_edu.checkpoints import deformable_detr_names, detr_names
from ddetr_edu.checkpoints.name_maps import check_convertible
from ddetr_edu.checkpoints.safe_load import CheckpointError
from ddetr_edu.detector import Detector
from ddetr_edu.files import atomic_write
from ddetr_edu.models.config import DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR

# Settings that the parameters do not show: our name -> the official code's.
OFFICIAL_ARGS = {
    "n_heads": "nheads",
    "dropout": "dropout",
    "n_queries": "num_queries",
    "dilation": "dilation",
    "box_refine": "with_box_refine",
}


def save_official(path: str | Path, detector: Detector) -> None:
    """Write a file that the official code can resume from or evaluate.

    There, class outputs are COCO's category ids. Ours are not always, so categories and image size
    go into the file as well: the official code ignores them, `load` does not.

    Args:
        path: The file to write.
        detector: The detector to save.

    Raises:
        ValueError: If the official code has no such model.
        OSError: If the file cannot be written.
    """
    config, state = detector.model.config, detector.model.state_dict()
    check_convertible(config)
    args = {
        theirs: getattr(config, ours)
        for ours, theirs in OFFICIAL_ARGS.items()
        if hasattr(config, ours)
    }
    if isinstance(config, DETRConfig):
        official = detr_names.to_official(state)
    else:
        official = deformable_detr_names.to_official(state, config)
    content = {
        "model": official,
        "args": argparse.Namespace(**args),
        "categories": detector.categories,
        "resize": asdict(detector.resize),
    }
    atomic_write(Path(path), lambda file: torch.save(content, file))


def open_official(content: object, path: Path) -> Detector:
    """The detector of an official checkpoint, or of its state dict alone.

    Settings that the parameters do not show come from "args", or else are the official defaults.

    Args:
        content: What the file holds.
        path: The file, for messages.

    Returns:
        The detector.

    Raises:
        CheckpointError: For a file of another kind.
        Exception: Of any kind, for a damaged file; `load` turns it into a CheckpointError.
    """
    content = content if isinstance(content, dict) else {}
    state = content.get("model", content)
    args = vars(content.get("args", argparse.Namespace()))
    known = {ours: args[theirs] for ours, theirs in OFFICIAL_ARGS.items() if theirs in args}
    model: DeformableDETR | DETR
    if isinstance(state, dict) and "transformer.level_embed" in state:
        state = deformable_detr_names.from_official(state)
        model = DeformableDETR(deformable_detr_names.deduce_config(state, **known))
    elif isinstance(state, dict) and "transformer.decoder.norm.weight" in state:
        state = detr_names.from_official(state)
        model = DETR(detr_names.deduce_config(state, **known))
    else:
        raise CheckpointError(
            f"{path} is a torch file but not a checkpoint of this library, nor of the official "
            "Deformable DETR or DETR; give a checkpoint.pt written by `ddetr train`"
        )
    model.load_state_dict(state)
    categories = content.get("categories", coco_categories(model.config.num_classes))
    return Detector(model, categories, ResizeConfig(**content.get("resize", {})))


def coco_categories(num_classes: int) -> dict[int, str]:
    """Names for class outputs that are COCO's category ids.

    Args:
        num_classes: The number of class outputs; the names are known for 91 of them.

    Returns:
        {id: name}, "N/A" for ids that COCO left out. For another number of class outputs each name
        is its number.
    """
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    names = ["N/A" if name == "__background__" else name for name in names]
    if num_classes != len(names):
        names = [f"class {i}" for i in range(num_classes)]
    return dict(enumerate(names))
