"""The small trained model that comes with the library, and the log of its training."""

from pathlib import Path

from ddetr_edu.files import shipped_path

CHECKPOINT = "data/tiny-shapes/model.safetensors"
LOG = "data/tiny-shapes/metrics.jsonl"


def shipped_checkpoint() -> Path:
    """The checkpoint of a small detector of shapes, trained for some minutes: open it with `load`.

    Returns:
        Its file, inside the installed package or beside it in a checkout.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    return shipped_path(CHECKPOINT, "model")


def shipped_log() -> Path:
    """The metrics.jsonl of that training, as `ddetr train` wrote it.

    Returns:
        Its file, inside the installed package or beside it in a checkout.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    return shipped_path(LOG, "log of the model")
