"""What a resumed run must have in common with the run so far: settings and categories."""

import json
from collections.abc import Mapping
from pathlib import Path

from ddetr_edu.evaluation.categories import describe_difference

# Settings that change how a run is carried out, but not what it computes: a resumed run may have
# others.
MAY_DIFFER = (
    "out",
    "resume",
    "images",
    "strict",
    "device",
    "threads",
    "workers",
    "checkpoint_activations",
    "eval_every",
    "save_every",
    "keep_checkpoints",
    "log_matches",
    "tensorboard",
)


def check_same_settings(before: dict, now: dict) -> None:
    """Raise if settings differ that determine what a run computes.

    Args:
        before: Those of the run so far.
        now: Those that it would be resumed with.

    Raises:
        ValueError: Naming the settings that differ.
    """
    different = [
        f"{option_of(name)} was {before.get(name)} and is now {now.get(name)}"
        for name in now.keys() | before.keys()
        if name not in MAY_DIFFER and before.get(name) != now.get(name)
    ]
    if different:
        raise ValueError(
            f"--resume needs the same settings, but {' and '.join(sorted(different))}; "
            "give those of the run, or choose another --out for a new one"
        )


def option_of(name: str) -> str:
    """What a setting is called on the command line."""
    if name == "processes":
        return "the number of processes (torchrun --nproc-per-node)"
    return f"--{name.replace('_', '-')}"


def flatten_settings(settings: dict, prefix: str = "") -> dict:
    """Nested settings by their names on the command line.

    Args:
        settings: A config as a dict.
        prefix: What precedes the names.

    Returns:
        {"optim.lr": ..., ...}, with values as JSON keeps them.
    """
    flat: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value, default=str))
    return flat


def check_same_categories(
    before: Mapping[int, str], now: Mapping[int, str], checkpoint: Path
) -> None:
    """Raise if the data has other categories than the checkpoint, or the same with other ids.

    Args:
        before: {id: name} of the checkpoint, in the order of the model's class outputs.
        now: {id: name} of the data.
        checkpoint: For the message.

    Raises:
        ValueError: Naming a category that differs.
    """
    if list(before.items()) == list(now.items()):
        return
    missing = ", ".join(name for i, name in before.items() if i not in now)
    difference = describe_difference(before, now) or (
        f"the data set no longer has {missing}" if missing else "the data set has another order"
    )
    raise ValueError(
        f"--resume needs the categories of {checkpoint}, but {difference}; restore them, or "
        f"fine-tune on the new ones with --start-from {checkpoint} and another --out"
    )
