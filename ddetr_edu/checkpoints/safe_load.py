"""Reading checkpoint files without trusting them: nothing in them is executed."""

import argparse
import json
from pathlib import Path

import torch


class CheckpointError(ValueError):
    """The file is not a checkpoint, or not one that fits."""


def safe_load(path: Path) -> object:
    """The content of a torch file: tensors, plain values and argparse's Namespace, nothing else.

    Args:
        path: The file.

    Returns:
        Whatever was saved, tensors on the CPU.

    Raises:
        CheckpointError: If the file is missing, or cannot be read without running code in it.
    """
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint at {path}; `ddetr train` writes one to its --out folder"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # official files hold one
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # on a damaged file torch.load may fail in any way, AssertionError included
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely (it is damaged, of another "
            "program, or contains code); give a checkpoint.pt written by `ddetr train`"
        ) from None


def read_json(path: Path) -> dict:
    """The settings in a JSON file.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        CheckpointError: If it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}); copy or download it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings; copy or download it again")
    return content
