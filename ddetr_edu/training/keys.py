"""What the same weights are called here, in the official code, and by Hugging Face.

Pure functions on state dicts (name -> tensor). The table below is all there is to know, but for
two things: both others write shared weights down once per layer, and Hugging Face keeps the three
projections of a dense attention apart.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ddetr_edu.detector import DeformableDETRConfig, DETRConfig

State = Mapping[str, Tensor]

# Beginnings of names as they stand in files, by the module they are in. The columns are ours, the
# official code's and Hugging Face's; {i} is a number, the same in all three.
TABLE = {
    ("", "", ""): """
    backbone.body.               backbone.0.body.              model.backbone.conv_encoder.model.
    input_projection.levels.{i}. input_proj.{i}.               model.input_proj.{i}.
    level_embedding              transformer.level_embed       model.level_embed
    decoder.heads.{i}.classify.  class_embed.{i}.              class_embed.{i}.
    decoder.heads.{i}.locate.0.  bbox_embed.{i}.layers.0.      bbox_embed.{i}.layers.0.
    decoder.heads.{i}.locate.2.  bbox_embed.{i}.layers.1.      bbox_embed.{i}.layers.1.
    decoder.heads.{i}.locate.4.  bbox_embed.{i}.layers.2.      bbox_embed.{i}.layers.2.
    queries.embedding.           query_embed.                  model.query_position_embeddings.
    queries.reference_points.    transformer.reference_points. model.reference_points.
    queries.memory_projection.   transformer.enc_output.       model.enc_output.
    queries.memory_norm.         transformer.enc_output_norm.  model.enc_output_norm.
    queries.to_queries.          transformer.pos_trans.        model.pos_trans.
    queries.to_queries_norm.     transformer.pos_trans_norm.   model.pos_trans_norm.
    """,
    ("encoder.layers.{i}.", "transformer.encoder.layers.{i}.", "model.encoder.layers.{i}."): """
    self_attn.                   self_attn.                    self_attn.
    self_attn_norm.              norm1.                        self_attn_layer_norm.
    ffn.linear1.                 linear1.                      fc1.
    ffn.linear2.                 linear2.                      fc2.
    ffn_norm.                    norm2.                        final_layer_norm.
    """,
    ("decoder.layers.{i}.", "transformer.decoder.layers.{i}.", "model.decoder.layers.{i}."): """
    self_attn.                   self_attn.                    self_attn.
    self_attn_norm.              norm2.                        self_attn_layer_norm.
    cross_attn.                  cross_attn.                   encoder_attn.
    cross_attn_norm.             norm1.                        encoder_attn_layer_norm.
    ffn.linear1.                 linear1.                      fc1.
    ffn.linear2.                 linear2.                      fc2.
    ffn_norm.                    norm3.                        final_layer_norm.
    """,
}
OURS, OFFICIAL, HUGGINGFACE = (
    [
        module[who] + line.split()[who]
        for module in TABLE
        for line in TABLE[module].split("\n")[1:-1]
    ]
    for who in range(3)
)


def rename(state: State, old: list[str], new: list[str]) -> dict[str, Tensor]:
    """The same tensors, their names translated from one column of the table to another.

    Raises: ValueError for a name that is not in the table.
    """
    rows = [
        (re.compile(re.escape(a).replace(r"\{i\}", r"(\d+)")), b.replace("{i}", r"\1"))
        for a, b in zip(old, new, strict=True)
    ]
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rows:
            if match := pattern.match(name):
                renamed[match.expand(replacement) + name[match.end() :]] = tensor
                break
        else:
            raise ValueError(f"no weight here corresponds to {name}")
    return renamed


# The official repository --------------------------------------------------------------------------


def from_official(state: State) -> dict[str, Tensor]:
    """A state dict of the official code under our names.

    Raises: ValueError for a name that is not in the table, or shared weights that differ.
    Source: deformable_detr.py of the official code.
    """
    return _heads_to_ours(state, "transformer.", OFFICIAL)


def to_official(state: State, config: DeformableDETRConfig) -> dict[str, Tensor]:
    """Our state dict under the names of the official code, which saves every shared weight again.

    Raises: ValueError for weights that the official code has no name for (the tiny backbone's).
    """
    official = rename(_one_head_per_layer(state, config), OURS, OFFICIAL)
    return official | {
        f"transformer.decoder.{name}": tensor
        for name, tensor in official.items()
        if name.startswith(_heads_inside_the_decoder(config))
    }


# Hugging Face -------------------------------------------------------------------------------------


def from_huggingface(state: State) -> dict[str, Tensor]:
    """A state dict of a Hugging Face file under our names. Raises: as `from_official`."""
    return _heads_to_ours(_join_projections(state), "model.", HUGGINGFACE)


def to_huggingface(state: State, config: DeformableDETRConfig) -> dict[str, Tensor]:
    """Our state dict under the names in a Hugging Face file, where each weight is saved once.

    Raises: ValueError for weights that Hugging Face has no name for (the tiny backbone's).
    """
    theirs = _split_projections(rename(_one_head_per_layer(state, config), OURS, HUGGINGFACE))
    inside = _heads_inside_the_decoder(config)
    shared = re.compile(r"(class|bbox)_embed\.[1-9]")
    saved = {}
    for name, tensor in theirs.items():
        if name.startswith(inside):
            saved[f"model.decoder.{name}"] = tensor
        elif config.box_refine or not shared.match(name):
            saved[name] = tensor
    return saved


def _split_projections(state: State) -> dict[str, Tensor]:
    """in_proj_weight -> q_proj.weight, k_proj.weight, v_proj.weight, each (C, C); biases alike."""
    split = {}
    for name, tensor in state.items():
        layer, found, kind = name.partition(".in_proj_")
        if found:
            q, k, v = (part.clone() for part in tensor.chunk(3))  # each C of the 3C rows
            split |= {f"{layer}.{p}_proj.{kind}": t for p, t in zip("qkv", (q, k, v), strict=True)}
        else:
            split[name] = tensor
    return split


def _join_projections(state: State) -> dict[str, Tensor]:
    """The inverse of `_split_projections`."""
    joined = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"(.*)\.([qkv])_proj\.(weight|bias)", name):
            layer, which, kind = match.groups()
            if which == "q":
                parts = [tensor, *(state[f"{layer}.{p}_proj.{kind}"] for p in "kv")]
                joined[f"{layer}.in_proj_{kind}"] = torch.cat(parts)  # (3C, C) or (3C,)
        else:
            joined[name] = tensor
    return joined


# Heads --------------------------------------------------------------------------------------------
# Theirs are numbered by layer, shared or not, and the first stage of two has the last number. With
# box refinement the decoder uses the box heads itself, and they are saved under its name as well;
# in two stages the class heads, too.


def _heads_inside_the_decoder(config: DeformableDETRConfig) -> tuple[str, ...]:
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


def _heads_to_ours(state: State, prefix: str, column: list[str]) -> dict[str, Tensor]:
    """Their state dict under our names, with every shared weight once.

    Weights that Hugging Face left out because an earlier layer has them are filled in.
    """
    refine = any(name.startswith(f"{prefix}decoder.bbox_embed.") for name in state)
    flat = {}
    for name, tensor in state.items():
        if name.endswith(".num_batches_tracked"):  # older files of frozen norms have it
            continue
        name = re.sub(rf"^{prefix}decoder\.(class|bbox)_embed\.", r"\1_embed.", name)
        if name in flat and not torch.equal(flat[name], tensor):
            raise ValueError(f"{name} and {prefix}decoder.{name} should be the same and differ")
        flat[name] = tensor
    ours = rename(flat, column, OURS)
    layers = count(ours, "decoder.layers.")
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


# What the weights tell about the model ------------------------------------------------------------


def count(state: State, prefix: str) -> int:
    """How many modules are numbered 0, 1, 2, ... after this prefix."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    return len(numbers)


def deduce_config(state: State, **known) -> DeformableDETRConfig:
    """The configuration of a state dict under our names, from the shapes of its weights.

    known: settings known from elsewhere; shapes, where they tell, go before. They do not tell
        n_heads (only heads times points shows), dilation (the same weights, used otherwise),
        dropout, n_queries in two stages, and box_refine if there is but one layer; of what nobody
        knows the default is taken
    Raises: KeyError if a weight is missing, ValueError if the shapes make no model.
    """
    n_levels, d_model = state["level_embedding"].shape
    shown = dict(
        num_classes=len(state["decoder.heads.0.classify.bias"]),
        backbone=resnet_name(state),
        d_model=d_model,
        n_levels=n_levels,
        n_encoder_layers=count(state, "encoder.layers."),
        n_decoder_layers=count(state, "decoder.layers."),
        d_ffn=len(state["decoder.layers.0.ffn.linear1.bias"]),
        box_refine=count(state, "decoder.heads.") > 1 or known.get("box_refine", False),
        two_stage="queries.memory_projection.weight" in state,
    )
    if not shown["two_stage"]:
        shown["n_queries"] = len(state["queries.embedding.weight"])
    heads = known.get("n_heads", DeformableDETRConfig.n_heads)
    points = len(state["decoder.layers.0.cross_attn.attention_weights.bias"]) / (heads * n_levels)
    if points != int(points):
        raise ValueError(f"the attention weights cannot be shared out over {heads} heads")
    return DeformableDETRConfig(**{**known, **shown, "n_points": int(points)})


def resnet_name(state: State) -> str:
    """A ResNet is named by its depth: the stem, the convolutions of its blocks, the classifier.

    Raises: ValueError if the backbone is none.
    """
    if "backbone.body.layer1.0.conv1.weight" not in state:
        raise ValueError("its backbone is no ResNet with torchvision's names")
    blocks = sum(count(state, f"backbone.body.layer{stage}.") for stage in (1, 2, 3, 4))
    per_block = 3 if "backbone.body.layer1.0.conv3.weight" in state else 2
    return f"resnet{2 + per_block * blocks}"


def check_convertible(config: DeformableDETRConfig | DETRConfig) -> None:
    """Raise ValueError, in one sentence, for a model that only we can build."""
    if config.backbone == "tiny":
        raise ValueError("the tiny backbone exists in this library alone; convert a ResNet's model")
    if isinstance(config, DeformableDETRConfig) and config.n_levels == 2:
        raise ValueError(
            "the other implementations read one level of the backbone or all three, so a model "
            "with n_levels=2 cannot be converted"
        )
    if isinstance(config, DeformableDETRConfig) and config.token_queries:
        raise ValueError(
            "the other implementations make queries from boxes alone, so a model with "
            "token_queries=True cannot be converted"
        )
