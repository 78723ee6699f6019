"""The names of Deformable DETR's parameters: ours, the official code's and Hugging Face's.

The official code saves shared parameters once for each layer. Both others number the heads by
layer, shared or not, and the first of two stages has the last number. With box refinement the
decoder uses the box heads itself, and they are saved under its name as well; in two stages the
class heads, too.
"""

import re

import torch
from torch import Tensor

from ddetr_edu.checkpoints.name_maps import (
    Column,
    State,
    count_modules,
    join_projections,
    read_table,
    rename,
    resnet_name,
    split_projections,
)
from ddetr_edu.models.config import DeformableDETRConfig

TABLE = {
    ("", "", ""): """
    backbone.body.                  backbone.0.body.              model.backbone.conv_encoder.model.
    input_projection.levels.{i}.    input_proj.{i}.               model.input_proj.{i}.
    level_embedding                 transformer.level_embed       model.level_embed
    decoder.heads.{i}.class_head.   class_embed.{i}.              class_embed.{i}.
    decoder.heads.{i}.bbox_head.0.  bbox_embed.{i}.layers.0.      bbox_embed.{i}.layers.0.
    decoder.heads.{i}.bbox_head.2.  bbox_embed.{i}.layers.1.      bbox_embed.{i}.layers.1.
    decoder.heads.{i}.bbox_head.4.  bbox_embed.{i}.layers.2.      bbox_embed.{i}.layers.2.
    queries.embedding.              query_embed.                  model.query_position_embeddings.
    queries.reference_points.       transformer.reference_points. model.reference_points.
    queries.memory_projection.      transformer.enc_output.       model.enc_output.
    queries.memory_norm.            transformer.enc_output_norm.  model.enc_output_norm.
    queries.to_queries.             transformer.pos_trans.        model.pos_trans.
    queries.to_queries_norm.        transformer.pos_trans_norm.   model.pos_trans_norm.
    """,
    ("encoder.layers.{i}.", "transformer.encoder.layers.{i}.", "model.encoder.layers.{i}."): """
    self_attn.        self_attn.  self_attn.
    self_attn_norm.   norm1.      self_attn_layer_norm.
    ffn.linear1.      linear1.    fc1.
    ffn.linear2.      linear2.    fc2.
    ffn_norm.         norm2.      final_layer_norm.
    """,
    ("decoder.layers.{i}.", "transformer.decoder.layers.{i}.", "model.decoder.layers.{i}."): """
    self_attn.        self_attn.  self_attn.
    self_attn_norm.   norm2.      self_attn_layer_norm.
    cross_attn.       cross_attn. encoder_attn.
    cross_attn_norm.  norm1.      encoder_attn_layer_norm.
    ffn.linear1.      linear1.    fc1.
    ffn.linear2.      linear2.    fc2.
    ffn_norm.         norm3.      final_layer_norm.
    """,
}
OURS, OFFICIAL, HUGGINGFACE = read_table(TABLE)


def from_official(state: State) -> dict[str, Tensor]:
    """A state dict of the official code under our names.

    Source: deformable_detr.py of the official code.

    Args:
        state: The "model" entry of an official checkpoint.

    Returns:
        Our state dict, every shared parameter once.

    Raises:
        ValueError: For a name that is not in the table, or shared parameters that differ.
    """
    return _heads_to_ours(state, "transformer.", OFFICIAL)


def to_official(state: State, config: DeformableDETRConfig) -> dict[str, Tensor]:
    """Our state dict under the names of the official code, which saves shared parameters again.

    Args:
        state: Our state dict.
        config: The configuration of its model.

    Returns:
        What the official model's `load_state_dict` takes.

    Raises:
        ValueError: For parameters that the official code has no name for (the tiny backbone's).
    """
    official = rename(_one_head_per_layer(state, config), OURS, OFFICIAL)
    return official | {
        f"transformer.decoder.{name}": tensor
        for name, tensor in official.items()
        if name.startswith(_heads_inside_the_decoder(config))
    }


def from_huggingface(state: State) -> dict[str, Tensor]:
    """A state dict of a Hugging Face file under our names.

    Args:
        state: What a model.safetensors of a `DeformableDetrForObjectDetection` holds.

    Returns:
        Our state dict, every shared parameter once.

    Raises:
        ValueError: For a name that is not in the table, or shared parameters that differ.
        KeyError: If one of three projections is missing.
    """
    return _heads_to_ours(join_projections(state), "model.", HUGGINGFACE)


def to_huggingface(state: State, config: DeformableDETRConfig) -> dict[str, Tensor]:
    """Our state dict under the names in a Hugging Face file, where each parameter is saved once.

    Args:
        state: Our state dict.
        config: The configuration of its model.

    Returns:
        What a model.safetensors of a `DeformableDetrForObjectDetection` holds.

    Raises:
        ValueError: For parameters that Hugging Face has no name for (the tiny backbone's).
    """
    theirs = split_projections(rename(_one_head_per_layer(state, config), OURS, HUGGINGFACE))
    inside = _heads_inside_the_decoder(config)
    shared = re.compile(r"(class|bbox)_embed\.[1-9]")
    saved = {}
    for name, tensor in theirs.items():
        if name.startswith(inside):
            saved[f"model.decoder.{name}"] = tensor
        elif config.box_refine or not shared.match(name):
            saved[name] = tensor
    return saved


def deduce_config(state: State, **known) -> DeformableDETRConfig:
    """The configuration of a state dict under our names, from the shapes of its tensors.

    Shapes do not tell n_heads (they show only heads times points), dilation (the same parameters,
    applied differently), dropout, n_queries in two stages, and box_refine if there is only one
    layer.

    Args:
        state: A state dict under our names.
        **known: Settings known from elsewhere. Shapes take precedence where they tell; what is
            neither shown nor known has its default value.

    Returns:
        The configuration of a model that the state dict fits.

    Raises:
        KeyError: If a parameter is missing.
        ValueError: If the shapes make no model.
    """
    n_levels, d_model = state["level_embedding"].shape
    shown = dict(
        num_classes=len(state["decoder.heads.0.class_head.bias"]),
        backbone=resnet_name(state),
        d_model=d_model,
        n_levels=n_levels,
        n_encoder_layers=count_modules(state, "encoder.layers."),
        n_decoder_layers=count_modules(state, "decoder.layers."),
        d_ffn=len(state["decoder.layers.0.ffn.linear1.bias"]),
        box_refine=count_modules(state, "decoder.heads.") > 1 or known.get("box_refine", False),
        two_stage="queries.memory_projection.weight" in state,
    )
    if not shown["two_stage"]:
        shown["n_queries"] = len(state["queries.embedding.weight"])
    heads = known.get("n_heads", DeformableDETRConfig.n_heads)
    points = len(state["decoder.layers.0.cross_attn.attention_weights.bias"]) / (heads * n_levels)
    if points != int(points):
        raise ValueError(f"the attention weights cannot be divided among {heads} heads")
    return DeformableDETRConfig(**{**known, **shown, "n_points": int(points)})


def _heads_inside_the_decoder(config: DeformableDETRConfig) -> tuple[str, ...]:
    """The prefixes of the heads that the others save under the decoder's name as well."""
    if config.two_stage:
        return ("bbox_embed.", "class_embed.")
    return ("bbox_embed.",) if config.box_refine else ()


def _one_head_per_layer(state: State, config: DeformableDETRConfig) -> dict[str, Tensor]:
    """Our heads, numbered like theirs: shared ones repeated, the first stage's last."""
    layers = config.n_decoder_layers
    numbered = {}
    for name, tensor in state.items():
        if name.startswith("queries.heads."):
            name = name.replace("queries.heads.", f"decoder.heads.{layers}.")
        if name.startswith("decoder.heads.0.") and not config.box_refine:
            for i in range(layers):
                numbered[name.replace("heads.0.", f"heads.{i}.")] = tensor
        else:
            numbered[name] = tensor
    return numbered


def _heads_to_ours(state: State, prefix: str, column: Column) -> dict[str, Tensor]:
    """Their state dict under our names, with every shared parameter once.

    Parameters that Hugging Face left out because an earlier layer has them are filled in.
    """
    refine = any(name.startswith(f"{prefix}decoder.bbox_embed.") for name in state)
    flat: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".num_batches_tracked"):  # older files of frozen norms have it
            continue
        name = re.sub(rf"^{prefix}decoder\.(class|bbox)_embed\.", r"\1_embed.", name)
        if name in flat and not torch.equal(flat[name], tensor):
            raise ValueError(f"{name} and {prefix}decoder.{name} should be the same and differ")
        flat[name] = tensor
    ours = rename(flat, column, OURS)
    layers = count_modules(ours, "decoder.layers.")
    for first in [name for name in ours if name.startswith("decoder.heads.0.")]:
        for i in range(1, layers):
            later = first.replace("heads.0.", f"heads.{i}.")
            if refine:
                ours.setdefault(later, ours[first])
            elif not torch.equal(ours.pop(later, ours[first]), ours[first]):
                raise ValueError(
                    f"without box refinement all layers share their heads, but {later} differs "
                    f"from {first}"
                )
    first_stage = f"decoder.heads.{layers}."
    return {name.replace(first_stage, "queries.heads."): tensor for name, tensor in ours.items()}
