"""Folders of Hugging Face's transformers: config.json and the weights."""

import json
from pathlib import Path

import safetensors
import safetensors.torch

from ddetr_edu.detector import DETR, DeformableDETR, DETRConfig, PictureSize
from ddetr_edu.detector.pictures import MEAN, STD
from ddetr_edu.training import keys_detr
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.files import CheckpointError, read, read_json, write_whole
from ddetr_edu.training.keys import (
    State,
    check_convertible,
    deduce_config,
    from_huggingface,
    to_huggingface,
)

# A field of our configuration -> where config.json has it.
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

    Raises: ValueError if Hugging Face has no such model, OSError if it cannot be written.
    """
    folder, config = Path(folder), detector.model.config
    check_convertible(config)
    names = list(detector.categories.values())
    is_detr = isinstance(config, DETRConfig)
    shared = {
        name: getattr(config, ours)
        for ours in SETTINGS
        for name in SETTINGS[ours]
        if hasattr(config, ours)
    }
    settings = shared | {
        "architectures": [f"{'Detr' if is_detr else 'DeformableDetr'}ForObjectDetection"],
        "model_type": "detr" if is_detr else "deformable_detr",
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "category_ids": detector.labels,
    }
    pictures = {
        "image_processor_type": f"{'Detr' if is_detr else 'DeformableDetr'}ImageProcessor",
        "size": {
            "shortest_edge": detector.size.short_side,
            "longest_edge": detector.size.long_side,
        },
        "image_mean": MEAN,
        "image_std": STD,
    }
    weights = detector.model.state_dict()
    state = keys_detr.to_huggingface(weights) if is_detr else to_huggingface(weights, config)
    write_whole(
        folder / "model.safetensors",
        lambda file: file.write(safetensors.torch.save(state, {"format": "pt"})),
    )
    for name, content in (("preprocessor_config.json", pictures), ("config.json", settings)):
        text = json.dumps(content, indent=2)
        write_whole(folder / name, lambda file, text=text: file.write(text.encode()))


def open_huggingface(folder: Path) -> Detector:
    """The detector of a Hugging Face folder.

    Raises: CheckpointError for a folder of another kind, and whatever a spoilt one may lead to.
    """
    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    if kind not in ("deformable_detr", "detr"):
        raise CheckpointError(
            f"{folder / 'config.json'} describes no deformable_detr or detr model; give a "
            "checkpoint file, or a Hugging Face folder of one of the two, for object detection"
        )
    for name, only in (("position_embedding_type", "sine"), ("activation_function", "relu")):
        if settings.get(name, only) != only:
            raise ValueError(f"its {name} is {settings[name]}, and here it is always {only}")
    known = {
        ours: settings[SETTINGS[ours][0]] for ours in SETTINGS if SETTINGS[ours][0] in settings
    }
    if kind == "detr":
        state = keys_detr.from_huggingface(_read_weights(folder))
        model = DETR(keys_detr.deduce_config(state, **known))
    else:
        state = from_huggingface(_read_weights(folder))
        model = DeformableDETR(deduce_config(state, **known))
    model.load_state_dict(state)
    outputs = range(model.config.num_classes)
    names = settings.get("id2label", {})
    labels = settings.get("category_ids", outputs)
    categories = {
        label: names.get(str(i), f"class {i}") for i, label in zip(outputs, labels, strict=True)
    }
    file = folder / "preprocessor_config.json"
    size = picture_size(read_json(file) if file.is_file() else {})
    return Detector(model, categories, size)


def _read_weights(folder: Path) -> State:
    """The tensors of model.safetensors or, in older folders, pytorch_model.bin."""
    file = folder / "model.safetensors"
    if not file.is_file():
        if not (folder / "pytorch_model.bin").is_file():
            raise CheckpointError(
                f"{folder} has a config.json but neither model.safetensors nor pytorch_model.bin; "
                "copy the whole folder"
            )
        return read(folder / "pytorch_model.bin")
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy it anew") from None


def picture_size(settings: dict) -> PictureSize:
    """The picture size of a preprocessor_config.json; older ones have two numbers, newer a dict."""
    size = settings.get("size", {})
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": settings.get("max_size", 1333)}
    return PictureSize(size.get("shortest_edge", 800), size.get("longest_edge", 1333))
