"""Files read without trust and written without loss."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or not one that fits."""


def read(path: Path) -> object:
    """What a torch file holds: tensors, plain values and argparse's Namespace, nothing else.

    Raises: CheckpointError if the file is missing or cannot be read without running code in it.
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
            f"{path} is not a checkpoint that can be read safely (damaged, of another program, or "
            "holding code); give a checkpoint.pt written by `ddetr train`"
        ) from None


def read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error}); copy it anew") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no settings; copy it anew")
    return content


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file in one go: the old one stays until the new one is whole on the disk.

    Raises: OSError if it cannot be written (a full disk, say); the old file is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch reports a full disk as RuntimeError
            reason = "the disk is full, it seems" if isinstance(error, RuntimeError) else error
            raise OSError(
                f"the checkpoint {path} could not be written: {reason}; one that was there before "
                "is untouched"
            ) from error
        raise
