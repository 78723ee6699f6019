"""The small trained model that comes with the library, and the log of its training."""

from pathlib import Path

from ddetr_edu.files import find_shipped

CHECKPOINT = "data/tiny-shapes/model.safetensors"
LOG = "data/tiny-shapes/metrics.jsonl"


def shipped_checkpoint() -> Path:
    """The checkpoint of a small detector of shapes, trained for ten minutes: open it with `load`.

    Returns:
        Its file, inside the installed package or beside it in a checkout.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    return _find(CHECKPOINT)


def shipped_log() -> Path:
    """The metrics.jsonl of those ten minutes, as `ddetr train` wrote it.

    Returns:
        Its file, inside the installed package or beside it in a checkout.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    return _find(LOG)


def _find(name: str) -> Path:
    path = find_shipped(name)
    if path is None:
        raise FileNotFoundError(
            f"the model that comes with the library is missing: there is no {name} here; "
            "clone the repository or install the library again"
        )
    return path
