"""Pretrained parameters of a backbone, from a file that cannot hold code."""

import re
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

COUNTERS = (
    "num_batches_tracked"  # of batch norms; no result depends on them, and files may lack them
)


def load_backbone(body: nn.Module, path: str | Path, model: nn.Module, name: str) -> None:
    """Load the parameters of a whole network from a .safetensors file into its part without heads.

    Args:
        body: Changed in place. Its names are those of `model`, except that timm's `features_only`
            joins some by "_" instead of "." and puts "model." or "body." in front of others.
        path: The file, under the names of `model`.
        model: The whole network, which tells what else the file may hold.
        name: Of the network, for messages.

    Raises:
        ValueError: If the file cannot be read or belongs to another network; nothing is loaded.
    """
    given = read_safetensors(path)
    own = {n: tensor for n, tensor in body.state_dict().items() if not n.endswith(COUNTERS)}
    names = {joined(n): n for n in given}
    missing = [n for n in own if joined(n) not in names]
    differing = [
        n for n in own if joined(n) in names and given[names[joined(n)]].shape != own[n].shape
    ]
    unknown = sorted(given.keys() - model.state_dict().keys())
    problems = []
    if differing:
        theirs = names[joined(differing[0])]
        problems.append(
            f"{theirs} has shape {tuple(given[theirs].shape)} instead of "
            f"{tuple(own[differing[0]].shape)}"
        )
    if missing:
        problems.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if unknown:
        problems.append(f"{len(unknown)} are unknown to it, such as {unknown[0]}")
    if problems:
        raise ValueError(
            f"{path} does not hold the parameters of {name}: {'; '.join(problems)}. Give a file "
            "that was saved from this very model"
        )
    with torch.no_grad():
        for n, tensor in own.items():
            tensor.copy_(given[names[joined(n)]])


def joined(name: str) -> str:
    """The name of a parameter, in a form that is the same in a model and in its features."""
    return re.sub(r"^(model|body)\.", "", name).replace(".", "_")


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU.

    Args:
        path: The file.

    Returns:
        {name: tensor}

    Raises:
        ValueError: If it is missing, damaged, or of another kind.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file of parameters at {path}; check the path")
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as .safetensors ({error}); other files of parameters can hold "
            "code and are not opened, so give one that was written by safetensors.torch.save_file"
        ) from None
