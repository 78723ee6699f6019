"""What a file of the official code holds, without such a file: names, shapes, and who shares them.

The models stand on torch's device "meta", where a tensor has a shape but no numbers; so the largest
of them takes no memory.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from ddetr_edu.checkpoints.deformable_detr_names import to_official
from ddetr_edu.checkpoints.name_maps import State
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR

# The parts of a model, and how their official names begin; the first that fits counts.
PARTS = {
    "backbone": r"backbone\.",
    "input projections": r"input_proj\.|transformer\.level_embed",
    "encoder layers": r"transformer\.encoder\.",
    "decoder layers": r"transformer\.decoder\.layers\.",
    "heads": r"(transformer\.decoder\.)?(class|bbox)_embed\.",
    "queries": r"query_embed\.|transformer\.(reference_points|enc_output|pos_trans)",
}


class PartCount(NamedTuple):
    """What a state dict holds of one part of a model."""

    names: int
    repeated: int  # of these names, how many stand for a tensor that an earlier name stands for
    numbers: int  # in all its tensors, each tensor counted once


def official_layout(config: DeformableDETRConfig) -> dict[str, Tensor]:
    """The state dict that the official code would save, with shapes but without numbers.

    Args:
        config: The model's configuration.

    Returns:
        Tensors on the device "meta"; a tensor that is saved under several names is one object.
    """
    with torch.device("meta"):
        model = DeformableDETR(config)
    return to_official(model.state_dict(), config)


def count_parts(state: State) -> dict[str, PartCount]:
    """Count what a state dict in the official layout holds, part by part.

    Args:
        state: Under the official names; tensors that are one object count as shared.

    Returns:
        The counts of each part, in the order in which data flows through them.

    Raises:
        ValueError: For a name that belongs to no part.
    """
    seen: set[int] = set()
    counts = dict.fromkeys(PARTS, PartCount(0, 0, 0))
    for name, tensor in state.items():
        part = next((part for part, pattern in PARTS.items() if re.match(pattern, name)), None)
        if part is None:
            raise ValueError(f"{name} belongs to no part of an official Deformable DETR")
        names, repeated, numbers = counts[part]
        new = id(tensor) not in seen
        seen.add(id(tensor))
        counts[part] = PartCount(names + 1, repeated + (not new), numbers + new * tensor.numel())
    return counts
