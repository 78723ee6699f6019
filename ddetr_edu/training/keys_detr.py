"""A DETR's weights under three names: ours, the official repository's and Hugging Face's.

Pure functions from state dict to state dict. Nothing is computed; only Hugging Face's layout needs
more than other names: it keeps queries', keys' and values' projections apart.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ddetr_edu.detector import DETRConfig
from ddetr_edu.training.keys import count, resnet_name

State = dict[str, Tensor]

# Beginnings of keys: ours, official, Hugging Face's. "#" is the number of a layer.
NAMES = [
    ("backbone.body.", "backbone.0.body.", "model.backbone.conv_encoder.model."),
    ("input_projection.", "input_proj.", "model.input_projection."),
    ("queries.", "query_embed.", "model.query_position_embeddings."),
    *[
        (f"encoder.#.{ours}.", f"transformer.encoder.layers.#.{official}.",
         f"model.encoder.layers.#.{huggingface}.")
        for ours, official, huggingface in [
            ("self_attn", "self_attn", "self_attn"),
            ("self_attn_norm", "norm1", "self_attn_layer_norm"),
            ("ffn.linear1", "linear1", "fc1"),
            ("ffn.linear2", "linear2", "fc2"),
            ("ffn_norm", "norm2", "final_layer_norm"),
        ]
    ],
    *[
        (f"decoder.#.{ours}.", f"transformer.decoder.layers.#.{official}.",
         f"model.decoder.layers.#.{huggingface}.")
        for ours, official, huggingface in [
            ("self_attn", "self_attn", "self_attn"),
            ("self_attn_norm", "norm1", "self_attn_layer_norm"),
            ("cross_attn", "multihead_attn", "encoder_attn"),
            ("cross_attn_norm", "norm2", "encoder_attn_layer_norm"),
            ("ffn.linear1", "linear1", "fc1"),
            ("ffn.linear2", "linear2", "fc2"),
            ("ffn_norm", "norm3", "final_layer_norm"),
        ]
    ],
    ("decoder_norm.", "transformer.decoder.norm.", "model.decoder.layernorm."),
    ("classify.", "class_embed.", "class_labels_classifier."),
    ("locate.0.", "bbox_embed.layers.0.", "bbox_predictor.layers.0."),
    ("locate.2.", "bbox_embed.layers.1.", "bbox_predictor.layers.1."),
    ("locate.4.", "bbox_embed.layers.2.", "bbox_predictor.layers.2."),
]  # fmt: skip

# What transformers 5 calls these modules in memory; its files keep the older names.
NEWER_NAMES = [
    ("model.backbone.model.", "model.backbone.conv_encoder.model."),
    (".o_proj.", ".out_proj."),
    (".mlp.fc", ".fc"),
]


def from_official(state: State) -> State:
    """The "model" entry of an official checkpoint, under our names."""
    return rename(state, ((official, ours) for ours, official, _ in NAMES))


def to_official(state: State) -> State:
    """Our weights under the names of facebookresearch/detr."""
    return rename(state, ((ours, official) for ours, official, _ in NAMES))


def from_huggingface(state: State) -> State:
    """The weights of a `DetrForObjectDetection` with a timm backbone, under our names.

    state: what a model.safetensors holds, or what `state_dict()` gives
    Raises: KeyError if one of three projections is missing.
    """
    joined = {}
    for key, value in state.items():
        for newer, older in NEWER_NAMES:
            key = key.replace(newer, older)
        joined[key] = value
    for key in [key for key in joined if ".q_proj." in key]:
        parts = [joined.pop(key.replace(".q_proj.", f".{x}_proj.")) for x in "qkv"]
        joined[key.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)  # (3C, C) or (3C,)
    return rename(joined, ((huggingface, ours) for ours, _, huggingface in NAMES))


def to_huggingface(state: State) -> State:
    """Our weights as the model.safetensors of a `DetrForObjectDetection` with a timm backbone."""
    split = {}
    for key, value in rename(state, ((ours, theirs) for ours, _, theirs in NAMES)).items():
        if ".in_proj_" in key:
            for x, part in zip("qkv", value.chunk(3), strict=True):
                split[key.replace(".in_proj_", f".{x}_proj.")] = part.clone()  # (C, C) or (C,)
        else:
            split[key] = value
    return split


def rename(state: State, names: Iterable[tuple[str, str]]) -> State:
    """The same weights under new beginnings; a key that has none is kept, for others to report."""
    patterns = [
        (re.compile(old.replace(".", r"\.").replace("#", r"(\d+)")), new.replace("#", r"\1"))
        for old, new in names
    ]
    renamed = {}
    for key, value in state.items():
        for pattern, new in patterns:
            if pattern.match(key):
                key = pattern.sub(new, key, count=1)
                break
        renamed[key] = value
    return renamed


def deduce_config(state: State, **known) -> DETRConfig:
    """The configuration of a state dict under our names, from the shapes of its weights.

    known: settings known from elsewhere, of which n_heads, dropout and dilation are taken: shapes
        do not tell them
    Raises: KeyError if a weight is missing, ValueError if the shapes make no model.
    """
    hidden = {name: known[name] for name in ("n_heads", "dropout", "dilation") if name in known}
    return DETRConfig(
        num_classes=len(state["classify.bias"]) - 1,
        backbone=resnet_name(state),
        d_model=state["queries.weight"].shape[1],
        n_encoder_layers=count(state, "encoder."),
        n_decoder_layers=count(state, "decoder."),
        d_ffn=len(state["decoder.0.ffn.linear1.bias"]),
        n_queries=len(state["queries.weight"]),
        **hidden,
    )
