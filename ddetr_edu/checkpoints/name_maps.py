"""The same parameters under three names: ours, the official code's and Hugging Face's.

This is what both families of models share; their tables are in deformable_detr_names.py and
detr_names.py. Everything is a pure function on state dicts (name -> tensor). Other names are all
there is to it, except that Hugging Face keeps the three projections of a dense attention apart.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig

State = Mapping[str, Tensor]
Table = Mapping[tuple[str, str, str], str]
Column = list[str]


def read_table(table: Table) -> tuple[Column, Column, Column]:
    """The three columns of a table of names.

    Args:
        table: From the prefix of a module, as (ours, official, Hugging Face's), to lines of the
            prefixes inside it, three to a line in the same order. {i} stands for a number, the
            same in all three.

    Returns:
        The full prefixes: ours, the official code's, Hugging Face's.

    Raises:
        ValueError: For a line that does not hold three prefixes.
    """
    ours, official, huggingface = [], [], []
    for module, lines in table.items():
        for line in lines.strip().splitlines():
            mine, theirs, others = line.split()
            ours.append(module[0] + mine)
            official.append(module[1] + theirs)
            huggingface.append(module[2] + others)
    return ours, official, huggingface


def rename(state: State, old: Column, new: Column) -> dict[str, Tensor]:
    """The same tensors, with their names translated from one column of a table to another.

    Args:
        state: Whose names all begin with a prefix of `old`.
        old: The prefixes to be replaced, from `read_table`.
        new: What replaces each of them.

    Returns:
        The renamed state dict, in the same order.

    Raises:
        ValueError: For a name that is not in the table.
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
            raise ValueError(f"no parameter of this library corresponds to {name}")
    return renamed


def split_projections(state: State) -> dict[str, Tensor]:
    """Separate the projections of queries, keys and values, as Hugging Face does.

    Args:
        state: With "in_proj_weight" (3C, C) and "in_proj_bias" (3C,) for each dense attention.

    Returns:
        With "q_proj.weight", "k_proj.weight", "v_proj.weight" (C, C) in their place, and biases
        (C,) alike.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, found, kind = name.partition(".in_proj_")
        if found:
            for p, part in zip("qkv", tensor.chunk(3), strict=True):  # each C of the 3C rows
                split[f"{layer}.{p}_proj.{kind}"] = part.clone()
        else:
            split[name] = tensor
    return split


def join_projections(state: State) -> dict[str, Tensor]:
    """The inverse of `split_projections`.

    Args:
        state: With separate projections of queries, keys and values.

    Returns:
        With one "in_proj_weight" and one "in_proj_bias" in place of three.

    Raises:
        KeyError: If one of the three is missing.
    """
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"(.*)\.([qkv])_proj\.(weight|bias)", name):
            layer, which, kind = match.groups()
            if which == "q":
                parts = [tensor, *(state[f"{layer}.{p}_proj.{kind}"] for p in "kv")]
                joined[f"{layer}.in_proj_{kind}"] = torch.cat(parts)  # (3C, C) or (3C,)
        else:
            joined[name] = tensor
    return joined


def count_modules(state: State, prefix: str) -> int:
    """How many modules are numbered 0, 1, 2, ... after this prefix."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    return len(numbers)


def resnet_name(state: State) -> str:
    """The name of a model's ResNet, from its parameters under our names.

    A ResNet is named by its depth: the stem, the convolutions of its blocks, the classifier.

    Args:
        state: A state dict under our names.

    Returns:
        Such as "resnet50".

    Raises:
        ValueError: If the backbone is not a ResNet.
    """
    if "backbone.body.layer1.0.conv1.weight" not in state:
        raise ValueError("its backbone is no ResNet with torchvision's names")
    blocks = sum(count_modules(state, f"backbone.body.layer{stage}.") for stage in (1, 2, 3, 4))
    per_block = 3 if "backbone.body.layer1.0.conv3.weight" in state else 2
    return f"resnet{2 + per_block * blocks}"


def check_convertible(config: DeformableDETRConfig | DETRConfig) -> None:
    """Raise unless the other implementations can hold such a model.

    Args:
        config: The configuration of the model.

    Raises:
        ValueError: For a model that only this library can build.
    """
    if config.backbone == "tiny":
        raise ValueError(
            "the tiny backbone exists in this library alone; convert a model with a ResNet"
        )
    if config.backbone.startswith("timm/"):
        raise ValueError(
            f"the other implementations read the parameters of torchvision's ResNets, and this "
            f"backbone is {config.backbone}; convert a model with a ResNet, or `ddetr export` this "
            "one to ONNX"
        )
    if isinstance(config, DeformableDETRConfig) and config.n_levels == 2:
        raise ValueError(
            "the other implementations read one level of the backbone or all three, so a model "
            "with n_levels=2 cannot be converted"
        )
    if isinstance(config, DeformableDETRConfig) and config.tokens_as_content:
        raise ValueError(
            "the other implementations make queries from boxes alone, so a model with "
            "tokens_as_content=True cannot be converted"
        )
