"""Folders of Hugging Face's transformers: config.json and the parameters."""

import json
from pathlib import Path

import safetensors
import safetensors.torch

from ddetr_edu.checkpoints import deformable_detr_names, detr_names
from ddetr_edu.checkpoints.name_maps import State, check_convertible
from ddetr_edu.checkpoints.safe_load import CheckpointError, read_json, safe_load
from ddetr_edu.detector import Detector
from ddetr_edu.files import atomic_write
from ddetr_edu.models.backbone import MEAN, STD
from ddetr_edu.models.config import DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR

# A field of our configuration -> its names in config.json.
SETTINGS = {
    "backbone": ["backbone"],
    "dilation": ["dilation"],
    "d_model": ["d_model"],
    "n_levels": ["num_feature_levels"],
    "n_encoder_layers": ["encoder_layers"],
    "n_decoder_layers": ["decoder_layers"],
    "n_heads": ["encoder_attention_heads", "decoder_attention_heads"],
    "n_points": ["encoder_n_points", "decoder_n_points"],
    "d_ffn": ["encoder_ffn_dim", "decoder_ffn_dim"],
    "dropout": ["dropout"],
    "n_queries": ["two_stage_num_proposals", "num_queries"],
    "box_refine": ["with_box_refine"],
    "two_stage": ["two_stage"],
}


def save_huggingface(folder: str | Path, detector: Detector) -> None:
    """Write a folder that transformers opens, as a DeformableDetr- or a DetrForObjectDetection.

    Its labels are the numbers of the class outputs; ours are kept beside them as category_ids.

    Args:
        folder: The folder to write.
        detector: The detector to save.

    Raises:
        ValueError: If Hugging Face has no such model.
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    config, state = detector.model.config, detector.model.state_dict()
    check_convertible(config)
    if isinstance(config, DETRConfig):
        family, model_type = "Detr", "detr"
        theirs = detr_names.to_huggingface(state)
    else:
        family, model_type = "DeformableDetr", "deformable_detr"
        theirs = deformable_detr_names.to_huggingface(state, config)
    names = list(detector.categories.values())
    shared = {
        name: getattr(config, ours)
        for ours in SETTINGS
        for name in SETTINGS[ours]
        if hasattr(config, ours)
    }
    settings = shared | {
        "architectures": [f"{family}ForObjectDetection"],
        "model_type": model_type,
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "category_ids": detector.labels,
    }
    preprocessing = {
        "image_processor_type": f"{family}ImageProcessor",
        "size": {
            "shortest_edge": detector.resize.short_side,
            "longest_edge": detector.resize.long_side,
        },
        "image_mean": MEAN,
        "image_std": STD,
    }
    atomic_write(folder / "model.safetensors", safetensors.torch.save(theirs, {"format": "pt"}))
    for name, content in (
        ("preprocessor_config.json", preprocessing),
        ("config.json", settings),  # last: with it the folder is complete
    ):
        atomic_write(folder / name, json.dumps(content, indent=2).encode())


def open_huggingface(folder: Path) -> Detector:
    """The detector of a Hugging Face folder.

    Args:
        folder: With config.json and model.safetensors or pytorch_model.bin.

    Returns:
        The detector.

    Raises:
        CheckpointError: For a folder of another kind.
        Exception: Of any kind, for a damaged folder; `load` turns it into a CheckpointError.
    """
    settings = read_json(folder / "config.json")
    model_type = settings.get("model_type")
    if model_type not in ("deformable_detr", "detr"):
        raise CheckpointError(
            f"{folder / 'config.json'} describes no deformable_detr or detr model; give a "
            "checkpoint file, or a Hugging Face folder of one of the two, for object detection"
        )
    for name, supported in (("position_embedding_type", "sine"), ("activation_function", "relu")):
        if settings.get(name, supported) != supported:
            raise ValueError(
                f"its {name} is {settings[name]}, and this library supports {supported} only"
            )
    known = {
        ours: settings[SETTINGS[ours][0]] for ours in SETTINGS if SETTINGS[ours][0] in settings
    }
    model: DeformableDETR | DETR
    if model_type == "detr":
        state = detr_names.from_huggingface(_read_parameters(folder))
        model = DETR(detr_names.deduce_config(state, **known))
    else:
        state = deformable_detr_names.from_huggingface(_read_parameters(folder))
        model = DeformableDETR(deformable_detr_names.deduce_config(state, **known))
    model.load_state_dict(state)
    outputs = range(model.config.num_classes)
    names = settings.get("id2label", {})
    labels = settings.get("category_ids", outputs)
    categories = {
        label: names.get(str(i), f"class {i}") for i, label in zip(outputs, labels, strict=True)
    }
    path = folder / "preprocessor_config.json"
    return Detector(model, categories, resize_config(read_json(path) if path.is_file() else {}))


def resize_config(settings: dict) -> ResizeConfig:
    """The image size of a preprocessor_config.json.

    Args:
        settings: Its content. Older files have two numbers for the size, newer ones a dict.

    Returns:
        The image size; the official 800 to 1333 if the file does not say.
    """
    size = settings.get("size", {})
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": settings.get("max_size", 1333)}
    return ResizeConfig(size.get("shortest_edge", 800), size.get("longest_edge", 1333))


def _read_parameters(folder: Path) -> State:
    """The tensors of model.safetensors or, in older folders, of pytorch_model.bin."""
    path = folder / "model.safetensors"
    if path.is_file():
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); copy or download it again"
            ) from None
    path = folder / "pytorch_model.bin"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has a config.json but neither model.safetensors nor pytorch_model.bin; "
            "copy the whole folder"
        )
    state = safe_load(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no state dict; copy or download it again")
    return state
