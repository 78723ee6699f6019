"""Trials of the claims about geometry: offsets, sampling locations, interpolation."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention import (
    MSDeformAttn,
    bilinear_sample,
    encoder_reference_points,
    initial_offsets,
    sampling_locations,
)
from ddetr_edu.course.claim import Claim, Verdict, agrees, decide

LEVELS = [(100, 150), (50, 75), (25, 38), (13, 19)]  # (H, W), of an image of 800 x 1200 pixels


def try_directions_of_a_head(offsets: Callable = initial_offsets) -> Verdict:
    """The points of a head, or the heads, have the directions 0, 45, 90 and 135 degrees.

    Args:
        offsets: As `initial_offsets`.

    Returns:
        The verdict.
    """
    star = offsets(8, 4, 4)[:, 0]  # (M, P, 2) of level 0
    degrees = torch.atan2(star[..., 1], star[..., 0]).rad2deg().round().int() % 360  # (M, P)
    claimed = [0, 45, 90, 135]
    points, heads = degrees[0].tolist(), degrees[:4, 0].tolist()
    return decide(
        points == claimed,
        f"The four points of head 0 lie at {_listed(points)} degrees. "
        f"The first points of heads 0 to 3 lie at {_listed(heads)}.",
    )


def try_circle(offsets: Callable = initial_offsets) -> Verdict:
    """Whether the eight heads reach equally far.

    Args:
        offsets: As `initial_offsets`.

    Returns:
        The verdict.
    """
    reach = offsets(8, 1, 1).flatten(1).norm(dim=-1)  # (M,) in pixels
    ratio = (reach.max() / reach.min()).item()
    return decide(
        abs(ratio - 1) < 1e-3,
        f"Of the eight first points the nearest is {reach.min():.2f} and the farthest "
        f"{reach.max():.2f} pixels away, {ratio:.2f} times as far.",
    )


def try_all_points_on_the_reference(attention: MSDeformAttn | None = None) -> Verdict:
    """Where a layer that has just been built samples.

    Args:
        attention: One with 256 channels and 4 levels; the library's if None.

    Returns:
        The verdict.
    """
    attention = attention or MSDeformAttn()
    queries = torch.randn(1, 5, 256, generator=torch.Generator().manual_seed(0))
    reference = torch.full((1, 5, 4, 2), 0.5)
    with torch.no_grad():
        offsets, *_ = attention.sampling_locations_and_weights(queries, reference, LEVELS)
    far = offsets.abs().amax(-1)  # (N, Lq, M, L, P) in pixels, the larger of x and y
    between = (offsets - offsets[:, :1]).abs().max().item()
    weight = attention.sampling_offsets.weight.abs().max().item()
    return decide(
        weight == 0 and far.max().item() == 0,
        f"The largest weight of the offset layer is {weight:g}, and yet its points are "
        f"{far.min():g} to {far.max():g} pixels away from the reference point (in x or in y, "
        f"whichever is more). From query to query they differ by {between:g}: the bias alone "
        "spreads them.",
    )


def try_locations_within_the_map(locations: Callable = sampling_locations) -> Verdict:
    """How many sampling locations of the encoder lie outside the map before training.

    Args:
        locations: As `sampling_locations`.

    Returns:
        The verdict.
    """
    percent = [f"{value:.1f}" for value in percent_outside(locations)]
    return decide(
        all(float(value) == 0 for value in percent),
        f"For an image of 800 x 1200 pixels, {_listed(percent)} % of the encoder's locations on "
        "its four levels lie outside when training begins; zeros are read there.",
    )


def percent_outside(locations: Callable = sampling_locations) -> list[float]:
    """The sampling locations of the encoder that lie outside [0, 1] before training.

    Args:
        locations: As `sampling_locations`.

    Returns:
        The percentage of each level, for an image of 800 x 1200 pixels.
    """
    reference = encoder_reference_points(LEVELS, torch.ones(1, 4, 2))  # (1, S, L, 2)
    star = initial_offsets(8, 4, 4).expand(1, reference.shape[1], -1, -1, -1, -1)
    found = locations(reference, star, LEVELS)  # (1, S, M, L, P, 2)
    outside = ((found < 0) | (found > 1)).any(-1)
    return (100 * outside.double().mean((0, 1, 2, 4))).tolist()


def try_floor_and_ceil(sample: Callable = bilinear_sample) -> Verdict:
    """Whether the pixels at floor and ceil, in two kinds of coordinates, give what is read.

    Args:
        sample: As `bilinear_sample`.

    Returns:
        The verdict.
    """
    generator = torch.Generator().manual_seed(0)
    feature_map = 1 + torch.rand(4, 6, 1, generator=generator, dtype=torch.float64)  # H = 4, W = 6
    inside = 0.2 + 0.6 * torch.rand(100, 2, generator=generator, dtype=torch.float64)
    size = torch.tensor([6, 4])
    values = [sample(feature_map, *point).item() for point in inside]
    normalised = [read_at_floor_and_ceil(feature_map, *point) for point in inside]
    in_pixels = [read_at_floor_and_ceil(feature_map, *point) for point in inside * size - 0.5]
    # the centre of the pixel in row 1, column 2
    centre = torch.tensor([2.5 / 6, 1.5 / 4], dtype=torch.float64)
    there = sample(feature_map, *centre).item()
    ceiled = read_at_floor_and_ceil(feature_map, *(centre * size - 0.5).round())
    right = [
        sum(abs(a - b) < 1e-9 for a, b in zip(values, others, strict=True))
        for others in (normalised, in_pixels)
    ]
    return decide(
        right[0] == 100,
        f"Of 100 values, {right[0]} are right with floor and ceil of the normalised (x, y), and "
        f"{right[1]} with those of x W - 1/2 and y H - 1/2. At the centre of a pixel, floor and "
        f"ceil are the same, and the value is {ceiled:.2f} instead of {there:.2f}; floor + 1 is "
        "meant.",
        right[1] == 100 and abs(there - ceiled) < 1e-9,
    )


def read_at_floor_and_ceil(feature_map: Tensor, column: Tensor, row: Tensor) -> float:
    """Interpolate between the pixels at floor and ceil of a position.

    Args:
        feature_map: (H, W, 1).
        column: 0-d, inside the map.
        row: 0-d, inside the map.

    Returns:
        The weighted sum of the four pixels.
    """
    left, right, top, bottom = column.floor(), column.ceil(), row.floor(), row.ceil()
    total = 0.0
    for r, weight_y in ((top, bottom - row), (bottom, row - top)):
        for c, weight_x in ((left, right - column), (right, column - left)):
            total += (weight_y * weight_x * feature_map[int(r), int(c), 0]).item()
    return total


def try_bilinear_example(sample: Callable = bilinear_sample) -> Verdict:
    """The value between 10, 20, 30 and 40 at (0.3, 0.7), in two kinds of coordinates.

    Args:
        sample: As `bilinear_sample`.

    Returns:
        The verdict.
    """
    feature_map = torch.tensor([[[10.0], [20]], [[30], [40]]], dtype=torch.float64)  # (H, W, 1)
    point = torch.tensor([0.3, 0.7], dtype=torch.float64)
    normalised = sample(feature_map, *point).item()
    in_pixels = sample(feature_map, *((point + 0.5) / 2)).item()
    return decide(
        agrees("27.0", normalised),
        f"Counted in pixels from the centre of the first one, (0.3, 0.7) gives {in_pixels:.1f}; as "
        f"a fraction of the map, which a sampling location is, it gives {normalised:.1f}.",
        agrees("27.0", in_pixels),
    )


def try_reference_plus_offset(
    locations: Callable = sampling_locations, shape: tuple[int, int] = (4, 10)
) -> Verdict:
    """What is added to a reference point: an offset, or a part of it.

    Args:
        locations: As `sampling_locations`.
        shape: (H, W) of the map. If it is square, the trial cannot tell (W, H) from (H, W).

    Returns:
        The verdict.
    """
    reference, offset = torch.tensor([0.5, 0.25]), torch.tensor([1.0, 2.0])
    height, width = shape
    found = locations(reference.view(1, 1, 1, 2), offset.view(1, 1, 1, 1, 1, 2), [shape]).flatten()
    step = found - reference
    divided = offset / torch.tensor([width, height])
    return decide(
        torch.allclose(step, offset),
        f"On a map of {height} x {width} (H x W), an offset of (1, 2) is a step of ({step[0]:.3g}, "
        f"{step[1]:.3g}); (1, 2) divided by (W, H) is ({divided[0]:.3g}, {divided[1]:.3g}).",
        torch.allclose(step, divided),
    )


def try_step_on_a_map(locations: Callable = sampling_locations) -> Verdict:
    """Where an offset of a tenth of a pixel leads on a map of 100 x 150.

    Args:
        locations: As `sampling_locations`.

    Returns:
        The verdict.
    """
    offset = torch.tensor([0.1, -0.1], dtype=torch.float64).view(1, 1, 1, 1, 1, 2)
    reference = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    x, y = locations(reference, offset, [(100, 150)]).flatten().tolist()
    return decide(
        agrees("0.500667", x) and agrees("0.499", y),
        f"The library gives ({x:.6f}, {y:.6f}): 0.1 / 150 to the right and 0.1 / 100 up.",
    )


def _listed(values: list) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


CLAIMS = (
    Claim(
        1,
        "The four initial points of head 0 lie in the directions 0, 45, 90 and 135 degrees.",
        try_directions_of_a_head,
    ),
    Claim(2, "The eight initial directions form a circle.", try_circle),
    Claim(
        3,
        "The weights of the offset layer are 0, so at first every sampling point sits on the "
        "reference point.",
        try_all_points_on_the_reference,
    ),
    Claim(5, "Sampling locations lie in [0, 1].", try_locations_within_the_map),
    Claim(
        6,
        "The corners of a sampling location are the floor and the ceil of its normalised (x, y).",
        try_floor_and_ceil,
    ),
    Claim(
        7,
        "Bilinear interpolation between the values 10, 20 (first row), 30 and 40 (second row) at "
        "(0.3, 0.7) gives 27.0.",
        try_bilinear_example,
    ),
    Claim(12, "Sampling location = reference point + offset.", try_reference_plus_offset),
    Claim(
        34,
        "On a map of 100 x 150 (H x W), the offset (0.1, -0.1) moves (0.5, 0.5) to "
        "(0.500667, 0.499).",
        try_step_on_a_map,
    ),
)
