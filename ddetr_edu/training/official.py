"""Files of the official codes: fundamentalvision/Deformable-DETR and facebookresearch/detr."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from ddetr_edu.detector import DETR, DeformableDETR, DETRConfig, PictureSize
from ddetr_edu.training import keys_detr
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.files import CheckpointError, write_whole
from ddetr_edu.training.keys import check_convertible, deduce_config, from_official, to_official

# Settings that weights do not show: our name -> the official code's.
OFFICIAL_ARGS = {
    "n_heads": "nheads",
    "dropout": "dropout",
    "n_queries": "num_queries",
    "dilation": "dilation",
    "box_refine": "with_box_refine",
}


def save_official(path: str | Path, detector: Detector) -> None:
    """Write a file that the official code can resume from or evaluate.

    Its class outputs are COCO's category ids. Ours are not always, so categories and picture size
    go into the file as well: the official code passes over them, `load` does not.

    Raises: ValueError if the official code has no such model, OSError if it cannot be written.
    """
    config = detector.model.config
    check_convertible(config)
    args = {
        theirs: getattr(config, ours)
        for ours, theirs in OFFICIAL_ARGS.items()
        if hasattr(config, ours)
    }
    weights = detector.model.state_dict()
    is_detr = isinstance(config, DETRConfig)
    content = {
        "model": keys_detr.to_official(weights) if is_detr else to_official(weights, config),
        "args": argparse.Namespace(**args),
        "categories": detector.categories,
        "size": asdict(detector.size),
    }
    write_whole(Path(path), lambda file: torch.save(content, file))


def open_official(content: object, path: Path) -> Detector:
    """The detector of what an official file holds, or of a state dict alone.

    Settings that the weights do not show come from "args", or else are the official defaults.

    Raises: CheckpointError for a file of another kind, and whatever a spoilt one may lead to.
    """
    content = content if isinstance(content, dict) else {}
    state = content.get("model", content)
    args = vars(content.get("args", argparse.Namespace()))
    known = {ours: args[theirs] for ours, theirs in OFFICIAL_ARGS.items() if theirs in args}
    if isinstance(state, dict) and "transformer.level_embed" in state:
        state = from_official(state)
        model = DeformableDETR(deduce_config(state, **known))
    elif isinstance(state, dict) and "transformer.decoder.norm.weight" in state:
        state = keys_detr.from_official(state)
        model = DETR(keys_detr.deduce_config(state, **known))
    else:
        raise CheckpointError(
            f"{path} is a torch file but not a checkpoint of this library, nor of the official "
            "Deformable DETR or DETR; give a checkpoint.pt written by `ddetr train`"
        )
    model.load_state_dict(state)
    categories = content.get("categories", coco_categories(model.config.num_classes))
    return Detector(model, categories, PictureSize(**content.get("size", {})))


def coco_categories(num_classes: int) -> dict[int, str]:
    """Names for class outputs that are COCO's category ids; "N/A" for ids that COCO left out.

    Of another number of class outputs the names are not known, and each is called by its number.
    """
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    names = ["N/A" if name == "__background__" else name for name in names]
    if num_classes != len(names):
        names = [f"class {i}" for i in range(num_classes)]
    return dict(enumerate(names))
