"""The ★★★ exercise of lesson 18: versions of discrete sampling, some of which need a square map.

Whoever is about to do it should not read on: the versions and their faults are named below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_edu.course.choice import Choice, objections


@dataclass(frozen=True)
class ReadingFault:
    """A way to read the wrong pixel."""

    means: str  # what is wrong in the code
    shows: str  # what one would see
    rule: Callable  # (x, y, H, W) -> index within the map, and whether there is a pixel


def _read(column: Tensor, row: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row * width + column, inside


def _one_limit(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = (x * width).floor(), (y * height).floor()
    _, inside = _read(column, row, height, height)
    return row * width + column, inside


def _row_length(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column, row = (x * width).floor(), (y * height).floor()
    _, inside = _read(column, row, height, width)
    return row * height + column, inside


def _clamped(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    column = (x * width).floor().clamp(0, width - 1)
    row = (y * height).floor().clamp(0, height - 1)
    return _read(column, row, height, width)


FAULTS = {
    "nothing": ReadingFault(
        "nothing is wrong",
        "then it would read what `ms_deform_attn_discrete` reads, on every map",
        lambda x, y, h, w: _read((x * w).floor(), (y * h).floor(), h, w),
    ),
    "x and y swapped": ReadingFault(
        "x is taken for the row and y for the column",
        "the map would look reflected about its diagonal, square or not",
        lambda x, y, h, w: _read((y * w).floor(), (x * h).floor(), h, w),
    ),
    "sizes swapped": ReadingFault(
        "x is multiplied by H and y by W",
        "a wide map would look stretched in width, a tall one in height, and a part of each"
        " would not be shown at all",
        lambda x, y, h, w: _read((x * h).floor(), (y * w).floor(), h, w),
    ),
    "one limit": ReadingFault(
        "columns and rows are both compared with H to see whether they are inside",
        "a tall map would look right inside its frame, and a wide one would lack its right part",
        _one_limit,
    ),
    "row length": ReadingFault(
        "the index of a pixel is row · H + column",
        "row 0 of any map would be right, and on a wide map each further row would begin with"
        " pixels of the row above",
        _row_length,
    ),
    "half a pixel": ReadingFault(
        "the column is ⌊x · W + 1/2⌋, and the row likewise",
        "all pixels would lie half a pixel too far left and up, square or not",
        lambda x, y, h, w: _read((x * w + 0.5).floor(), (y * h + 0.5).floor(), h, w),
    ),
    "towards zero": ReadingFault(
        "positions are rounded towards zero instead of down",
        "there would be a strip as wide as a pixel along the left and the upper side, outside the"
        " frame, and nothing on the other sides",
        lambda x, y, h, w: _read((x * w).trunc(), (y * h).trunc(), h, w),
    ),
    "clamped": ReadingFault(
        "outside, the pixel at the border is read instead of zero",
        "the outermost pixels would go on without end, on all four sides",
        _clamped,
    ),
}
VERSIONS = {
    "A": "sizes swapped",
    "B": "half a pixel",
    "C": "one limit",
    "D": "towards zero",
    "E": "row length",
}
LOOKS_RIGHT = "on the square map this version is right everywhere; on which maps is it wrong, and"
SEEN = {
    "A": f"{LOOKS_RIGHT} what has become of the parts that you still see?",
    "B": "look at where one pixel ends and the next begins, and at what lies outside the frame",
    "C": f"{LOOKS_RIGHT} is it wrong on both a wide and a tall one?",
    "D": "inside the frame this version is right; look outside, at each of the four sides",
    "E": f"{LOOKS_RIGHT} which rows are still right?",
}


def read_version(
    version: str,
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Discrete sampling with a planted fault; you find out which.

    Args:
        version: "A" to "E".
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level.
        sampling_locations: (N, Lq, M, L, P, 2).
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).
    """
    rule = FAULTS[VERSIONS[version]].rule
    images = torch.arange(value.shape[0])[:, None, None, None]
    heads = torch.arange(value.shape[2])[:, None]
    output = value.new_zeros(*sampling_locations.shape[:3], value.shape[-1])
    levels = value.split([h * w for h, w in spatial_shapes], dim=1)
    for level, (height, width) in enumerate(spatial_shapes):
        x, y = sampling_locations[:, :, :, level].unbind(-1)  # (N, Lq, M, P) each
        index, exists = rule(x, y, height, width)
        exists = exists & (index >= 0) & (index < height * width)
        samples = levels[level][images, index.where(exists, 0).long(), heads]  # (N, Lq, M, P, D)
        weights = attention_weights[:, :, :, level].where(exists, 0)
        output = output + (samples * weights[..., None]).sum(3)
    return output.flatten(2)


square_maps = Choice(
    "square_maps",
    VERSIONS,
    {word: fault.means for word, fault in FAULTS.items()},
    objections(VERSIONS, {word: each.shows for word, each in FAULTS.items()}, SEEN),
)
