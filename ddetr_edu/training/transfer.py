"""Going on from a trained detector, on other categories."""

from collections.abc import Mapping

import torch

from ddetr_edu.detector import DETR, DeformableDETR
from ddetr_edu.training.detector import Detector


@torch.no_grad()
def adopt_weights(
    model: DeformableDETR | DETR, categories: Mapping[int, str], source: Detector
) -> str:
    """Give a fresh model the weights of a trained detector; only categories may differ.

    A class output goes to the category of the same name, whatever its number was. Categories that
    the source does not know, or whose name it has twice, keep the output they have: it says
    "nothing" of everything.

    categories: {label: name} in the order of the model's class outputs
    Returns: an account of what was taken over, what was not, and what was left behind.
    """
    names, known = list(categories.values()), list(source.categories.values())
    same = [(i, known.index(name)) for i, name in enumerate(names) if known.count(name) == 1]
    state, taken = model.state_dict(), 0
    for name, values in source.model.state_dict().items():
        if "classify." not in name:
            state[name].copy_(values)
            taken += values.numel()
            continue
        if name.startswith("queries."):  # the first of two stages: output 0 means "object"
            rows = [(0, 0)]
        elif isinstance(model, DETR):  # the last output means "no object"
            rows = [*same, (len(names), len(known))]
        else:
            rows = same
        for new, old in rows:
            state[name][new] = values[old]
    kept = {names[new] for new, _ in same}
    fresh = [name for name in names if name not in kept]
    left = [name for name in dict.fromkeys(known) if name not in kept]
    return (
        f"taken    {taken / 1e6:.2f} million weights as they are; class outputs by name:\n"
        f"  kept   {_some(sorted(kept))}\n  new    {_some(fresh)}\n  left   {_some(left)}"
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{len(names)}: {shown}" if names else "none"
