"""The small trained model that comes with the library."""

from pathlib import Path

from ddetr_edu.files import find_shipped

CHECKPOINT = "data/tiny-shapes/model.safetensors"


def shipped_checkpoint() -> Path:
    """The checkpoint of a small detector of shapes, trained for ten minutes: open it with `load`.

    Returns:
        Its file, inside the installed package or beside it in a checkout.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    path = find_shipped(CHECKPOINT)
    if path is None:
        raise FileNotFoundError(
            f"the model that comes with the library is missing: there is no {CHECKPOINT} here; "
            "clone the repository or install the library again"
        )
    return path
