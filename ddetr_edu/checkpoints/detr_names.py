"""The names of DETR's parameters: ours, the official code's and Hugging Face's."""

from torch import Tensor

from ddetr_edu.checkpoints.name_maps import (
    State,
    count_modules,
    join_projections,
    read_table,
    rename,
    resnet_name,
    split_projections,
)
from ddetr_edu.models.config import DETRConfig

TABLE = {
    ("", "", ""): """
    backbone.body.    backbone.0.body.          model.backbone.conv_encoder.model.
    input_projection. input_proj.               model.input_projection.
    queries.          query_embed.              model.query_position_embeddings.
    decoder_norm.     transformer.decoder.norm. model.decoder.layernorm.
    class_head.       class_embed.              class_labels_classifier.
    bbox_head.0.      bbox_embed.layers.0.      bbox_predictor.layers.0.
    bbox_head.2.      bbox_embed.layers.1.      bbox_predictor.layers.1.
    bbox_head.4.      bbox_embed.layers.2.      bbox_predictor.layers.2.
    """,
    ("encoder.{i}.", "transformer.encoder.layers.{i}.", "model.encoder.layers.{i}."): """
    self_attn.        self_attn.       self_attn.
    self_attn_norm.   norm1.           self_attn_layer_norm.
    ffn.linear1.      linear1.         fc1.
    ffn.linear2.      linear2.         fc2.
    ffn_norm.         norm2.           final_layer_norm.
    """,
    ("decoder.{i}.", "transformer.decoder.layers.{i}.", "model.decoder.layers.{i}."): """
    self_attn.        self_attn.       self_attn.
    self_attn_norm.   norm1.           self_attn_layer_norm.
    cross_attn.       multihead_attn.  encoder_attn.
    cross_attn_norm.  norm2.           encoder_attn_layer_norm.
    ffn.linear1.      linear1.         fc1.
    ffn.linear2.      linear2.         fc2.
    ffn_norm.         norm3.           final_layer_norm.
    """,
}
OURS, OFFICIAL, HUGGINGFACE = read_table(TABLE)

# What transformers 5 calls these modules in memory; its files keep the older names.
NEWER_NAMES = [
    ("model.backbone.model.", "model.backbone.conv_encoder.model."),
    (".o_proj.", ".out_proj."),
    (".mlp.fc", ".fc"),
]


def from_official(state: State) -> dict[str, Tensor]:
    """A state dict of facebookresearch/detr under our names.

    Args:
        state: The "model" entry of an official checkpoint.

    Returns:
        Our state dict.

    Raises:
        ValueError: For a name that is not in the table.
    """
    return rename(state, OFFICIAL, OURS)


def to_official(state: State) -> dict[str, Tensor]:
    """Our state dict under the names of facebookresearch/detr.

    Args:
        state: Our state dict.

    Returns:
        What the official model's `load_state_dict` takes.

    Raises:
        ValueError: For parameters that the official code has no name for (the tiny backbone's).
    """
    return rename(state, OURS, OFFICIAL)


def from_huggingface(state: State) -> dict[str, Tensor]:
    """The parameters of a `DetrForObjectDetection` with a timm backbone, under our names.

    Args:
        state: What a model.safetensors holds, or what `state_dict()` gives.

    Returns:
        Our state dict.

    Raises:
        ValueError: For a name that is not in the table.
        KeyError: If one of three projections is missing.
    """
    older = {}
    for name, tensor in state.items():
        for new, old in NEWER_NAMES:
            name = name.replace(new, old)
        older[name] = tensor
    return rename(join_projections(older), HUGGINGFACE, OURS)


def to_huggingface(state: State) -> dict[str, Tensor]:
    """Our state dict as the model.safetensors of a `DetrForObjectDetection` with a timm backbone.

    Args:
        state: Our state dict.

    Returns:
        Its tensors under Hugging Face's names, projections kept apart.

    Raises:
        ValueError: For parameters that Hugging Face has no name for (the tiny backbone's).
    """
    return split_projections(rename(state, OURS, HUGGINGFACE))


def deduce_config(state: State, **known) -> DETRConfig:
    """The configuration of a state dict under our names, from the shapes of its tensors.

    Args:
        state: A state dict under our names.
        **known: Settings known from elsewhere, of which n_heads, dropout and dilation are taken:
            shapes do not tell them.

    Returns:
        The configuration of a model that the state dict fits.

    Raises:
        KeyError: If a parameter is missing.
        ValueError: If the shapes make no model.
    """
    hidden = {name: known[name] for name in ("n_heads", "dropout", "dilation") if name in known}
    return DETRConfig(
        num_classes=len(state["class_head.bias"]) - 1,
        backbone=resnet_name(state),
        d_model=state["queries.weight"].shape[1],
        n_encoder_layers=count_modules(state, "encoder."),
        n_decoder_layers=count_modules(state, "decoder."),
        d_ffn=len(state["decoder.0.ffn.linear1.bias"]),
        n_queries=len(state["queries.weight"]),
        **hidden,
    )
