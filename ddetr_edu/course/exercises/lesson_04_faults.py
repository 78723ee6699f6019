"""The exercises of lesson 04 about broken sampling locations: name the fault, and mend one.

Whoever is about to do them should not read on: the versions and their faults are named below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_edu.course.choice import Choice
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.exercises.lesson_04 import box_step, sampling_locations_with, without_box_size

right_locations = sampling_locations_with()


def letter_f(n_levels: int) -> Tensor:
    """Offsets in the shape of the letter F, which no mirror image and no turn looks like.

    Head 0 is the stem, head 1 the upper bar, head 2 the shorter bar in the middle.

    Args:
        n_levels: L.

    Returns:
        (M=3, L, P=3, 2), the same for every level.
    """
    strokes = [[(0, 2), (0, 0), (0, -2)], [(0, -2), (1, -2), (2, -2)], [(0, 0), (0.5, 0), (1, 0)]]
    return torch.tensor(strokes, dtype=torch.float64)[:, None].repeat(1, n_levels, 1, 1)


@dataclass(frozen=True)
class Fault:
    """A fault in sampling locations."""

    means: str  # what is wrong in the code
    shows: str  # what a figure of the letter F would show
    locations: Callable  # (reference points, offsets, shapes) -> locations, with the fault


def half_a_pixel_less(reference_points: Tensor, offsets: Tensor, shapes: list) -> Tensor:
    """Sampling locations half a pixel too far up and to the left.

    Args:
        reference_points: (N, Lq, L, 2 or 4).
        offsets: (N, Lq, M, L, P, 2).
        shapes: (H, W) of each level.

    Returns:
        (N, Lq, M, L, P, 2).
    """
    sizes = torch.tensor([(width, height) for height, width in shapes])
    return right_locations(reference_points, offsets, shapes) - 0.5 / sizes[:, None]


def all_dx_first(offsets: Tensor) -> Tensor:
    """Offsets whose numbers are read as P times dx and then P times dy.

    Args:
        offsets: (N, Lq, M, L, P, 2).

    Returns:
        (N, Lq, M, L, P, 2).
    """
    return offsets.flatten(-2).unflatten(-1, (2, -1)).transpose(-1, -2)


FAULTS = {
    "minus": Fault(
        "the offset is subtracted from the reference point",
        "each F would be turned by 180 degrees",
        lambda r, o, shapes: right_locations(r, -o, shapes),
    ),
    "y up": Fault(
        "dy is counted upwards",
        "each F would stand on its head, with its bars to the right",
        lambda r, o, shapes: right_locations(r, o * torch.tensor([1, -1]), shapes),
    ),
    "dx and dy": Fault(
        "dx and dy are swapped",
        "each F would lie on its side",
        lambda r, o, shapes: right_locations(r, o.flip(-1), shapes),
    ),
    "H and W": Fault(
        "(dx, dy) is divided by (H, W)",
        "each F would be twice as wide and half as tall as it should be",
        sampling_locations_with(lambda o, h, w: o / torch.tensor([h, w])),
    ),
    "first size": Fault(
        "the offsets of every level are divided by the size of level 0",
        "level 0 would be right, and on level 1 each F would be half as large as it should be",
        lambda r, o, shapes: right_locations(r, o, [shapes[0]] * len(shapes)),
    ),
    "clamp": Fault(
        "locations are clamped to [0, 1]",
        "all points inside the map would be right, and there would be none outside",
        lambda r, o, shapes: right_locations(r, o, shapes).clamp(0, 1),
    ),
    "half a pixel": Fault(
        "half a pixel is subtracted",
        "each F would have its shape and size, a little up and to the left of where it should be",
        half_a_pixel_less,
    ),
    "layout": Fault(
        "the layer's numbers are read as first all dx, then all dy, instead of pairs",
        "points of one stroke would no longer lie in a row",
        lambda r, o, shapes: right_locations(r, all_dx_first(o), shapes),
    ),
    "box ignored": Fault(
        "a box is used like a point; its size does not matter",
        "the F would be as large for any box, and twice as large on level 1 as on level 0",
        without_box_size,
    ),
    "no half": Fault(
        "an offset counts whole box sides, divided by P",
        "each F would be twice as large as it should be, on both levels",
        sampling_locations_with(around_box=lambda o, size: 2 * box_step(o, size)),
    ),
    "no P": Fault(
        "an offset counts half box sides, not divided by P",
        "each F would be three times as large as it should be, on both levels",
        sampling_locations_with(around_box=lambda o, size: o * size / 2),
    ),
    "w and h": Fault(
        "width and height of the box are swapped",
        "each F would be too large in one direction and too small in the other, on both levels",
        sampling_locations_with(around_box=lambda o, size: box_step(o, size.flip(-1))),
    ),
}
VERSIONS = {
    "version 1": "H and W",
    "version 2": "first size",
    "version 3": "layout",
    "version 4": "clamp",
    "version 5": "half a pixel",
    "version 6": "no P",
    "version 7": "box ignored",
}
BOX_FAULTS = ("box ignored", "no half", "no P", "w and h")
SEEN = {
    "version 1": "here both levels differ from the rings in the same way: compare width and height",
    "version 2": "here the two levels differ from each other",
    "version 3": "look at one colour at a time: where are its three points?",
    "version 4": "here nearly all points are in their rings; look at those that are not",
    "version 5": "here each F has its shape: look at where it stands in the grid",
    "version 6": "here both levels are alike: compare the lengths of the strokes with the rings",
    "version 7": "here the two levels differ, though a box has the same size on both",
}


def broken_locations(
    version: str, reference_points: Tensor, offsets: Tensor, spatial_shapes: list[tuple[int, int]]
) -> Tensor:
    """Sampling locations with a fault, which is for you to find.

    Args:
        version: "version 1" to "version 7".
        reference_points: (N, Lq, L, 2), or (N, Lq, L, 4) for versions 6 and 7.
        offsets: (N, Lq, M, L, P, 2).
        spatial_shapes: (H, W) of each level.

    Returns:
        (N, Lq, M, L, P, 2).
    """
    return FAULTS[VERSIONS[version]].locations(reference_points, offsets, spatial_shapes)


def _against(version: str, word: str) -> str:
    """What in the figures speaks against a word."""
    if word in BOX_FAULTS and VERSIONS[version] not in BOX_FAULTS:
        return "the references of this version are points, and there is no box"
    return f"{FAULTS[word].shows}; {SEEN[version]}"


location_faults = Choice(
    "location_faults",
    VERSIONS,
    {word: fault.means for word, fault in FAULTS.items()},
    {
        (version, word): _against(version, word)
        for version in VERSIONS
        for word in FAULTS
        if word != VERSIONS[version]
    },
)


def my_mend_locations(locations, reference_points, spatial_shapes):
    """locations (N,Lq,M,L,P,2) of version 1, references (N,Lq,L,2), shapes -> right locations"""
    mended = torch.zeros_like(locations)
    for level, (height, width) in enumerate(spatial_shapes):
        reference = reference_points[:, :, None, level, None]
        step = locations[:, :, :, level] - reference
        mended[:, :, :, level] = reference + step * torch.tensor([height / width, width / height])
    return mended


def mend_with(mend_step: Callable) -> Callable:
    """A mending of sampling locations by a rule for their steps.

    Args:
        mend_step: A function (steps of one level, height, width) -> steps.

    Returns:
        A function (locations, reference points, shapes) -> locations.
    """

    def mend(locations, reference_points, shapes):
        reference = reference_points[:, :, None, :, None]
        steps = (locations - reference).unbind(3)
        mended = [mend_step(step, *shape) for step, shape in zip(steps, shapes, strict=True)]
        return reference + torch.stack(mended, dim=3)

    return mend


def _ratios(height: int, width: int) -> Tensor:
    return torch.tensor([height / width, width / height])


def _broken() -> Cases:
    sizes = {  # (N, Lq, M, L, P), one (H, W) for each level, and how far the offsets spread
        "one level, twice as wide as tall": ((1, 2, 4, 1, 3), [(5, 10)], 1.0),
        "three levels": ((2, 4, 5, 3, 7), [(11, 13), (5, 7), (2, 3)], 1.0),
        "two levels, taller than wide": ((3, 5, 7, 2, 4), [(17, 6), (9, 4)], 1.0),
        "a square level": ((5, 3, 2, 1, 6), [(7, 7)], 1.0),
        "levels of different proportions": ((4, 6, 1, 3, 2), [(9, 5), (4, 3), (2, 8)], 1.0),
        "one point, levels of one row": ((2, 7, 3, 4, 1), [(1, 9), (1, 5), (1, 3), (1, 2)], 1.0),
        "locations outside the image": ((7, 1, 6, 2, 5), [(3, 10), (2, 5)], 20.0),
        "offsets of zero": ((6, 3, 8, 2, 4), [(4, 13), (6, 5)], 0.0),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((n, lq, m, l, p), shapes, spread) in sizes.items():
        references = torch.rand(n, lq, l, 2, generator=generator, dtype=torch.float64)
        offsets = torch.randn(n, lq, m, l, p, 2, generator=generator, dtype=torch.float64)
        broken = broken_locations("version 1", references, spread * offsets, shapes)
        cases[name] = broken, references, shapes
    return cases


mend_locations = Exercise(
    my_mend_locations,
    _broken,
    {
        "nothing was mended": lambda x, r, shapes: x.clone(),
        "the factors of x and y are the wrong way round": mend_with(
            lambda step, h, w: step / _ratios(h, w)
        ),
        "the whole location was scaled; only its step from the reference is wrong": (
            lambda x, r, shapes: x * torch.stack([_ratios(*shape) for shape in shapes])[:, None]
        ),
        "only x was mended": mend_with(
            lambda step, h, w: step * torch.stack([_ratios(h, w)[0], torch.tensor(1.0)])
        ),
        "only y was mended": mend_with(
            lambda step, h, w: step * torch.stack([torch.tensor(1.0), _ratios(h, w)[1]])
        ),
        "the factors of the first level were used on all levels": lambda x, r, shapes: (
            my_mend_locations(x, r, [shapes[0]] * len(shapes))
        ),
        "x and y were exchanged; it is their lengths that are wrong": mend_with(
            lambda step, h, w: step.flip(-1)
        ),
        "the reference was not added again": lambda x, r, shapes: (
            my_mend_locations(x, r, shapes) - r[:, :, None, :, None]
        ),
        "the mended locations were clamped to [0, 1]; they may leave the image": (
            lambda x, r, shapes: my_mend_locations(x, r, shapes).clamp(0, 1)
        ),
    },
)
