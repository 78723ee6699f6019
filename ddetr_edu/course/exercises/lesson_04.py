"""The exercises of lesson 04: how far a head reaches, the initial offsets, sampling locations.

The one about broken sampling locations is in `lesson_04_faults`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu import attention
from ddetr_edu.course.exercise import Cases, Exercise


def my_reach(offsets, strides):
    """offsets (M, L, P, 2), strides of L levels -> (M, L), image pixels to the farthest point"""
    distance = offsets.norm(dim=-1).amax(dim=-1)
    return distance * torch.tensor(strides)


def my_initial_offsets(n_heads, n_levels, n_points):
    """(M, L, P) -> offsets (M, L, P, 2) in pixels"""
    angle = torch.arange(n_heads) * 2 * math.pi / n_heads
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().max(dim=-1, keepdim=True).values
    offsets = torch.zeros(n_heads, n_levels, n_points, 2)
    for p in range(n_points):
        offsets[:, :, p] = direction[:, None] * (p + 1)
    return offsets


def my_sampling_locations(reference_points, offsets, spatial_shapes):
    """references (N,Lq,L,2 or 4), offsets (N,Lq,M,L,P,2), shapes -> locations (N,Lq,M,L,P,2)"""
    locations = torch.zeros_like(offsets)
    for level, (height, width) in enumerate(spatial_shapes):
        reference = reference_points[:, :, None, level, None]
        step = offsets[:, :, :, level]
        if reference.shape[-1] == 4:
            step = step / offsets.shape[-2] * reference[..., 2:] / 2
        else:
            step = step / torch.tensor([width, height])
        locations[:, :, :, level] = reference[..., :2] + step
    return locations


def star(
    n_heads: int,
    n_levels: int,
    n_points: int,
    square: bool = True,
    first: int = 1,
    swap: bool = False,
    by_point: bool = False,
    closed: bool = False,
) -> Tensor:
    """The initial offsets, with switches for what goes wrong.

    Args:
        n_heads: M.
        n_levels: L.
        n_points: P.
        square: Divide each direction by its larger component.
        first: How many steps out the first point is.
        swap: Take (sin, cos) for a direction.
        by_point: Give the directions to points instead of heads.
        closed: Spread the directions so that the last repeats the first.

    Returns:
        (M, L, P, 2), in pixels.
    """
    directions = n_points if by_point else n_heads
    angle = torch.arange(directions) * 2 * math.pi / max(directions - closed, 1)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    if swap:
        direction = direction.flip(-1)
    if square:
        direction = direction / direction.abs().max(dim=-1, keepdim=True).values
    if by_point:
        rays = direction[None, None] * torch.ones(n_heads, n_levels, 1, 1)
        return rays * torch.arange(1, n_heads + 1)[:, None, None, None]
    steps = torch.arange(n_points)[:, None] + first
    return direction[:, None, None] * steps * torch.ones(1, n_levels, 1, 1)


def pixel_step(offsets: Tensor, height: int, width: int) -> Tensor:
    """From offsets in pixels to steps in fractions of a level.

    Args:
        offsets: (..., 2) (dx, dy), of one level.
        height: Rows of the level.
        width: Its columns.

    Returns:
        (..., 2).
    """
    return offsets / torch.tensor([width, height])


def box_step(offsets: Tensor, box_size: Tensor) -> Tensor:
    """From offsets around a box to steps in fractions of the image.

    Args:
        offsets: (..., P, 2).
        box_size: (w, h), to broadcast with the offsets.

    Returns:
        (..., P, 2).
    """
    return offsets / offsets.shape[-2] * box_size / 2


def sampling_locations_with(
    around_point: Callable = pixel_step, around_box: Callable = box_step
) -> Callable:
    """Sampling locations that go from offsets to steps in their own way.

    Args:
        around_point: Does what `pixel_step` should do.
        around_box: Does what `box_step` should do.

    Returns:
        A function (reference points, offsets, shapes) -> locations.
    """

    def locations(reference_points, offsets, shapes):
        reference = reference_points[:, :, None, :, None]  # (N, Lq, 1, L, 1, 2 or 4)
        if reference.shape[-1] == 4:
            return reference[..., :2] + around_box(offsets, reference[..., 2:])
        steps = [around_point(offsets[:, :, :, l], h, w) for l, (h, w) in enumerate(shapes)]
        return reference + torch.stack(steps, dim=3)

    return locations


def without_box_size(reference_points: Tensor, offsets: Tensor, shapes: list) -> Tensor:
    """Sampling locations that take a box for a point: its width and height are ignored.

    Args:
        reference_points: (N, Lq, L, 2 or 4).
        offsets: (N, Lq, M, L, P, 2).
        shapes: (H, W) of each level.

    Returns:
        (N, Lq, M, L, P, 2).
    """
    return sampling_locations_with()(reference_points[..., :2], offsets, shapes)


def _offsets_and_strides() -> Cases:
    sizes = {  # (M, L, P), and the strides
        "the star of eight heads": ((8, 4, 6), [8, 16, 32, 64]),
        "trained offsets, of any size": ((5, 3, 7), [4, 8, 16]),
        "the farthest point is the first one": ((3, 2, 4), [16, 32]),
        "one head": ((1, 5, 2), [2, 4, 8, 16, 32]),
        "one level": ((6, 1, 3), [32]),
        "one point": ((2, 3, 1), [8, 16, 64]),
        "offsets of zero": ((4, 6, 5), [4, 8, 16, 32, 64, 128]),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((m, l, p), strides) in sizes.items():
        offsets = 2 * torch.randn(m, l, p, 2, generator=generator, dtype=torch.float64)
        if name.startswith("the star"):
            offsets = star(m, l, p).double()
        elif name.startswith("the farthest"):
            offsets = offsets.sign() * torch.tensor([5.0, 3]) / torch.arange(1, p + 1)[:, None]
        elif name.endswith("zero"):
            offsets = 0 * offsets
        cases[name] = offsets, strides
    return cases


reach = Exercise(
    my_reach,
    _offsets_and_strides,
    {
        "these are pixels of the level; one of them is as many image pixels as the stride says": (
            lambda o, strides: my_reach(o, [1] * len(strides))
        ),
        "distances were divided by the stride": lambda o, strides: my_reach(
            o, [1 / stride for stride in strides]
        ),
        "the larger of |dx| and |dy| was taken for the distance; a diagonal is longer": (
            lambda o, strides: o.abs().amax((-1, -2)) * torch.tensor(strides)
        ),
        "|dx| and |dy| were added; the distance is the root of dx² + dy²": (
            lambda o, strides: o.abs().sum(-1).amax(-1) * torch.tensor(strides)
        ),
        "the root is missing: dx² + dy² is the squared distance": (
            lambda o, strides: o.square().sum(-1).amax(-1) * torch.tensor(strides)
        ),
        "the last point was taken; it is not always the farthest": (
            lambda o, strides: my_reach(o[:, :, -1:], strides)
        ),
        "the nearest point was taken": lambda o, strides: (
            o.norm(dim=-1).amin(-1) * torch.tensor(strides)
        ),
        "the mean over the points was taken": lambda o, strides: (
            o.norm(dim=-1).mean(-1) * torch.tensor(strides)
        ),
        "the distances of all points were added": lambda o, strides: (
            o.norm(dim=-1).sum(-1) * torch.tensor(strides)
        ),
    },
)


def _sizes_of_the_star() -> Cases:
    return {
        "eight heads, as in the paper": (8, 4, 4),
        "four heads: only along the axes": (4, 3, 7),
        "five heads: no ray points straight down": (5, 2, 3),
        "an odd number of heads": (7, 6, 2),
        "one head": (1, 5, 6),
        "one level": (6, 1, 5),
        "one point": (3, 7, 1),
    }


initial_offsets = Exercise(
    my_initial_offsets,
    _sizes_of_the_star,
    {
        "the rays end on a circle: divide each direction by its larger component": (
            lambda m, l, p: star(m, l, p, square=False)
        ),
        "the first point is at the reference point: steps are 1, 2, 3, ...": (
            lambda m, l, p: star(m, l, p, first=0)
        ),
        "the last head repeats the first: M heads share a full turn, 2 pi / M apart": (
            lambda m, l, p: star(m, l, p, closed=True)
        ),
        "the heads share half a turn; they share a full one, 2 pi / M apart": (
            lambda m, l, p: star(2 * m, l, p)[:m]
        ),
        "the steps were divided by P; that is done around a box, and not here": (
            lambda m, l, p: star(m, l, p) / p
        ),
        "y points up; in an image it points down": (
            lambda m, l, p: star(m, l, p) * torch.tensor([1, -1])
        ),
        "x and y are swapped: a direction is (cos, sin)": lambda m, l, p: star(m, l, p, swap=True),
        "directions were given to points; they belong to heads": (
            lambda m, l, p: star(m, l, p, by_point=True)
        ),
        "all points of a ray are one step out: point p is p + 1 steps out": (
            lambda m, l, p: star(m, l, 1).expand(m, l, p, 2)
        ),
        "all offsets are zero: the layer's weight is, its bias is not": (
            lambda m, l, p: torch.zeros(m, l, p, 2)
        ),
    },
    library=(attention.initial_offsets,),
)


def _references_and_offsets() -> Cases:
    # (N, Lq, M, L, P) all different in each case, one (H, W) for each level, the numbers of a
    # reference, and how far the offsets spread
    sizes = {
        "three levels": ((2, 4, 5, 3, 7), [(11, 13), (5, 7), (2, 3)], 2, 1.0),
        "two levels, taller than wide": ((3, 5, 7, 2, 4), [(17, 6), (9, 4)], 2, 1.0),
        "one level": ((5, 3, 2, 1, 6), [(7, 12)], 2, 1.0),
        "one image and one query": ((1, 1, 3, 4, 2), [(19, 8), (10, 4), (5, 2), (3, 1)], 2, 1.0),
        "one head and one point": (
            (4, 6, 1, 5, 1),
            [(9, 5), (4, 3), (8, 2), (2, 7), (1, 4)],
            2,
            1.0,
        ),
        "offsets that lead out of the image": ((7, 2, 4, 2, 3), [(3, 10), (2, 5)], 2, 20.0),
        "offsets of zero": ((2, 7, 6, 2, 5), [(4, 13), (6, 5)], 2, 0.0),
        "boxes": ((3, 2, 4, 1, 5), [(6, 9)], 4, 1.0),
        "boxes, on two levels": ((2, 6, 3, 2, 4), [(8, 11), (4, 6)], 4, 1.0),
        "boxes, one point": ((1, 5, 2, 3, 1), [(12, 5), (6, 3), (3, 2)], 4, 2.0),
        "boxes, offsets that lead out of the image": ((4, 1, 5, 2, 3), [(5, 7), (3, 4)], 4, 9.0),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((n, lq, m, l, p), shapes, numbers, spread) in sizes.items():
        references = torch.rand(n, lq, l, numbers, generator=generator, dtype=torch.float64)
        offsets = torch.randn(n, lq, m, l, p, 2, generator=generator, dtype=torch.float64)
        cases[name] = references, offsets * spread, shapes
    return cases


sampling_locations = Exercise(
    my_sampling_locations,
    _references_and_offsets,
    {
        "the offset was not divided by the size of its level": sampling_locations_with(
            lambda o, h, w: o
        ),
        "width and height are swapped: divide (dx, dy) by (W, H)": sampling_locations_with(
            lambda o, h, w: o / torch.tensor([h, w])
        ),
        "x and y of the offset are swapped": lambda r, o, shapes: my_sampling_locations(
            r, o.flip(-1), shapes
        ),
        "the result is in pixels; locations are fractions of the level": lambda r, o, shapes: (
            my_sampling_locations(r, o, shapes) * torch.tensor([(w, h) for h, w in shapes])[:, None]
        ),
        "every level was divided by the size of the first": lambda r, o, shapes: (
            my_sampling_locations(r, o, [shapes[0]] * len(shapes))
        ),
        "the reference of level 0 was used on every level; each level has its own": (
            lambda r, o, shapes: my_sampling_locations(r[:, :, :1].expand_as(r), o, shapes)
        ),
        "the offset was subtracted": lambda r, o, shapes: my_sampling_locations(r, -o, shapes),
        "the locations were clamped to [0, 1]; they may leave the image": lambda r, o, shapes: (
            my_sampling_locations(r, o, shapes).clamp(0, 1)
        ),
        "half a pixel was subtracted; that belongs to reading, not to the location": (
            sampling_locations_with(lambda o, h, w: (o - 0.5) / torch.tensor([w, h]))
        ),
        "the size of a box was ignored: around a box, offsets are not in pixels": without_box_size,
        "a box's width and height were taken whole; an offset counts halves": (
            sampling_locations_with(around_box=lambda o, size: 2 * box_step(o, size))
        ),
        "the offsets around a box were not divided by the number of points": (
            sampling_locations_with(around_box=lambda o, size: o * size / 2)
        ),
        "around a box, point p was divided by p + 1; all are divided by P, the number of points": (
            sampling_locations_with(
                around_box=lambda o, size: o / torch.arange(1, o.shape[-2] + 1)[:, None] * size / 2
            )
        ),
        "the offsets around a box were divided by 4; divide by P, which need not be 4": (
            sampling_locations_with(around_box=lambda o, size: o / 4 * size / 2)
        ),
        "around a box, the number of points and the half are both missing": (
            sampling_locations_with(around_box=lambda o, size: o * size)
        ),
        "a box's width and height are swapped": sampling_locations_with(
            around_box=lambda o, size: box_step(o, size.flip(-1))
        ),
        "a box's corner was taken for its centre: a reference is (cx, cy, w, h)": (
            sampling_locations_with(around_box=lambda o, size: box_step(o, size) - size / 2)
        ),
    },
    library=(attention.sampling_locations,),
)
