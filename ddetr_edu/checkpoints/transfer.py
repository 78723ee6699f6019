"""Fine-tuning: a new model starts from a trained detector, for other categories."""

from collections.abc import Mapping

import torch

from ddetr_edu.detector import Detector
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR


@torch.no_grad()
def adopt_parameters(
    model: DeformableDETR | DETR, categories: Mapping[int, str], source: Detector
) -> str:
    """Copy the parameters of a trained detector into a new model; only categories may differ.

    A class output is copied to the category of the same name, whatever its label was. Categories
    that the source does not know, or whose name it has twice, keep their initial output, which
    predicts background everywhere.

    Args:
        model: The new model, changed in place; apart from its number of classes it has the
            configuration of the source's.
        categories: {label: name} in the order of the model's class outputs.
        source: The trained detector.

    Returns:
        A summary of a few lines: what was copied, which categories are new, which were dropped.
    """
    names, known = list(categories.values()), list(source.categories.values())
    same = [(i, known.index(name)) for i, name in enumerate(names) if known.count(name) == 1]
    state, copied = model.state_dict(), 0
    class_agnostic = isinstance(model, DeformableDETR) and not model.config.tokens_as_content
    for name, values in source.model.state_dict().items():
        if "class_head." not in name:
            state[name].copy_(values)
            copied += values.numel()
            continue
        if name.startswith("queries.") and class_agnostic:  # output 0 means "object"
            rows = [(0, 0)]
        elif isinstance(model, DETR):  # the last output means "no object"
            rows = [*same, (len(names), len(known))]
        else:
            rows = same
        for new, old in rows:
            state[name][new] = values[old]
    kept = {names[new] for new, _ in same}
    added = [name for name in names if name not in kept]
    dropped = [name for name in dict.fromkeys(known) if name not in kept]
    return (
        f"copied   {copied / 1e6:.2f} million parameters; class outputs by category name:\n"
        f"  kept     {_some(sorted(kept))}\n"
        f"  new      {_some(added)}\n"
        f"  dropped  {_some(dropped)}"
    )


def _some(names: list[str]) -> str:
    """How many names there are, and the first of them."""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{len(names)}: {shown}" if names else "none"
