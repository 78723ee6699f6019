"""The exercise of lesson 04 about broken sampling locations: name the fault of each version.

Whoever is about to do it should not read on: the versions and their faults are named below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_edu.course.choice import Choice
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


def first_reference(reference_points: Tensor, offsets: Tensor, shapes: list) -> Tensor:
    """Sampling locations that use the reference of level 0 on every level.

    Args:
        reference_points: (N, Lq, L, 2 or 4).
        offsets: (N, Lq, M, L, P, 2).
        shapes: (H, W) of each level.

    Returns:
        (N, Lq, M, L, P, 2).
    """
    return right_locations(reference_points[:, :, :1].expand_as(reference_points), offsets, shapes)


def first_image(reference_points: Tensor, offsets: Tensor, shapes: list) -> Tensor:
    """Sampling locations that use the references of image 0 in every image.

    Args:
        reference_points: (N, Lq, L, 2 or 4).
        offsets: (N, Lq, M, L, P, 2).
        shapes: (H, W) of each level.

    Returns:
        (N, Lq, M, L, P, 2).
    """
    return right_locations(reference_points[:1].expand_as(reference_points), offsets, shapes)


def box_steps_over(divisor: Callable) -> Callable:
    """Sampling locations whose offsets around a box are divided by something else than P.

    Args:
        divisor: A function offsets (N, Lq, M, L, P, 2) -> a number.

    Returns:
        A function (reference points, offsets, shapes) -> locations.
    """
    return sampling_locations_with(around_box=lambda o, size: o / divisor(o) * size / 2)


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
        "the numbers are read as all dx, then all dy, instead of pairs",
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
        box_steps_over(lambda o: 1),
    ),
    "w and h": Fault(
        "width and height of the box are swapped",
        "each F would be too large in one direction and too small in the other, on both levels",
        sampling_locations_with(around_box=lambda o, size: box_step(o, size.flip(-1))),
    ),
    "M for P": Fault(
        "around a box, the offset is divided by the number of heads",
        "every ring would be filled, and only with more heads than points would an F be too small",
        box_steps_over(lambda o: o.shape[-4]),
    ),
    "always 3": Fault(
        "around a box, the offset is divided by 3, whatever P is",
        "every ring would be filled, and with four heads of four points an F would be too large",
        box_steps_over(lambda o: 3),
    ),
    "first reference": Fault(
        "the reference of level 0 is used on every level",
        "every ring would be filled, until the references differed from level to level",
        first_reference,
    ),
    "first image": Fault(
        "the references of the first image are used for the whole batch",
        "every ring would be filled, and only in a second image would the points be wrong",
        first_image,
    ),
}
VERSIONS = {
    "version 1": "H and W",
    "version 2": "layout",
    "version 3": "clamp",
    "version 4": "half a pixel",
    "version 5": "first reference",
    "version 6": "no P",
    "version 7": "M for P",
}
BOX_FAULTS = ("box ignored", "no half", "no P", "w and h", "M for P", "always 3")
HIDDEN = ("M for P", "always 3", "first reference", "first image")  # by the inputs of the figures
SEEN = {
    "version 1": "here both levels differ from the rings in the same way: compare width and height",
    "version 2": "look at one colour at a time: where are its three points?",
    "version 3": "here nearly all points are in their rings; look at those that are not",
    "version 4": "here each F has its shape: look at where it stands in the grid",
    "version 5": "here every ring is filled: which inputs of the figure are equal and need not be?",
    "version 6": "here both levels are alike: compare the lengths of the strokes with the rings",
    "version 7": "here every ring is filled: which sizes in the figure are equal by chance?",
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
    """What in the figures speaks against a word, or which experiment does."""
    if word in BOX_FAULTS and VERSIONS[version] not in BOX_FAULTS:
        return "the references of this version are points, and there is no box"
    if word in HIDDEN and VERSIONS[version] in HIDDEN:
        return f"{FAULTS[word].shows}; try this version with such inputs, and you will see"
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
