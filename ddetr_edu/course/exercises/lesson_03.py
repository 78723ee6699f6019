"""The exercises of lesson 03, first part: the weights of corners, and bilinear sampling."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu import attention
from ddetr_edu.course.exercise import Cases, Exercise


def my_corner_weights(x, y, height, width):
    """(x, y, H, W) -> weights (4,): upper left, upper right, lower left, lower right"""
    column, row = x * width - 0.5, y * height - 0.5
    right = column - torch.floor(column)
    down = row - torch.floor(row)
    weights = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    return torch.stack(weights)


def my_bilinear_sample(feature_map, x, y):
    """(feature_map (H, W, D), x, y) -> (D,)"""
    height, width, channels = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = int(torch.floor(column)), int(torch.floor(row))
    value = torch.zeros(channels, dtype=feature_map.dtype)
    for r, weight_y in ((top, top + 1 - row), (top + 1, row - top)):
        for c, weight_x in ((left, left + 1 - column), (left + 1, column - left)):
            if 0 <= r < height and 0 <= c < width:
                value = value + weight_y * weight_x * feature_map[r, c]
    return value


def weights_at(
    column: float, row: float, ceil: bool = False, floor: Callable = math.floor
) -> Tensor:
    """The weights of the corners at a position in pixels, with switches for what goes wrong.

    Args:
        column: In pixels, a whole number at a pixel centre.
        row: Likewise.
        ceil: Take ceil(column) instead of floor(column) + 1 for the far corner.
        floor: What finds the near corner.

    Returns:
        (4,), row by row.
    """
    left, top = floor(column), floor(row)
    right, bottom = (math.ceil(column), math.ceil(row)) if ceil else (left + 1, top + 1)
    across, down = (right - column, column - left), (bottom - row, row - top)
    return torch.tensor([weight_y * weight_x for weight_y in down for weight_x in across])


def corner_weights_by(rule: Callable) -> Callable:
    """Corner weights made of a rule that gets plain numbers.

    Args:
        rule: A function (x, y, height, width) -> (4,).

    Returns:
        A function of the same arguments that takes tensors for x and y.
    """
    return lambda x, y, height, width: rule(x.item(), y.item(), height, width)


def existing_weights(x: float, y: float, height: int, width: int) -> Tensor:
    """The weights of the corners, 0 for pixels beyond the border.

    Args:
        x: A fraction of the map.
        y: Likewise.
        height: H of the map.
        width: W of the map.

    Returns:
        (4,), row by row.
    """
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    exists = [0 <= r < height and 0 <= c < width for r in (top, top + 1) for c in (left, left + 1)]
    return weights_at(column, row) * torch.tensor(exists)


def weights_by_distance(column: float, row: float) -> Tensor:
    """Weights that fall with the distance to each corner, and sum to 1.

    Args:
        column: In pixels, a whole number at a pixel centre.
        row: Likewise.

    Returns:
        (4,), row by row.
    """
    right, down = column - math.floor(column), row - math.floor(row)
    distances = [math.hypot(right - c, down - r) for r in (0, 1) for c in (0, 1)]
    nearness = 1 / (torch.tensor(distances, dtype=torch.float64) + 1e-9)
    return nearness / nearness.sum()


def sample_pixels(
    feature_map: Tensor,
    column: float | Tensor,
    row: float | Tensor,
    border: str = "zeros",
    ceil: bool = False,
    floor: Callable = math.floor,
) -> Tensor:
    """Bilinear sampling at a position in pixels, with switches for what goes wrong.

    Args:
        feature_map: (H, W, D).
        column: In pixels, a whole number at a pixel centre; autograd follows a tensor.
        row: Likewise.
        border: What is sampled beyond the border: "zeros", "repeat" (the outermost pixel), "cut"
            (the whole value is 0 as soon as a corner is missing), "negative" (negative indices
            count from the other side), or "unchecked" (likewise; too large ones raise IndexError).
        ceil: Take ceil(column) instead of floor(column) + 1 for the far corner.
        floor: What finds the near corner.

    Returns:
        (D,)
    """
    height, width, _ = feature_map.shape
    across, down = (at.item() if isinstance(at, Tensor) else at for at in (column, row))
    left, top = floor(across), floor(down)
    right, bottom = (math.ceil(across), math.ceil(down)) if ceil else (left + 1, top + 1)
    value = 0.0 * feature_map[0, 0]
    if border == "cut" and not (0 <= left <= right < width and 0 <= top <= bottom < height):
        return value
    for r, weight_y in ((top, bottom - row), (bottom, row - top)):
        for c, weight_x in ((left, right - column), (right, column - left)):
            if border == "repeat":
                r, c = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
            exists = r < height and c < width and (border == "negative" or (r >= 0 and c >= 0))
            if exists or border == "unchecked":
                value = value + weight_y * weight_x * feature_map[r, c]
    return value


def bilinear_sample_by(rule: Callable) -> Callable:
    """A bilinear sampling made of a rule that also gets the size of the map.

    Args:
        rule: A function (feature_map, x, y, height, width) -> (D,), x and y plain numbers.

    Returns:
        A function (feature_map, x, y) -> (D,).
    """
    return lambda feature_map, x, y: rule(feature_map, x.item(), y.item(), *feature_map.shape[:2])


def sample_with_swapped_weights(feature_map: Tensor, column: float, row: float) -> Tensor:
    """Bilinear sampling in which the nearer pixel gets the smaller weight.

    Args:
        feature_map: (H, W, D).
        column: In pixels, a whole number at a pixel centre.
        row: Likewise.

    Returns:
        (D,)
    """
    left, top = math.floor(column), math.floor(row)
    return sample_pixels(feature_map, 2 * left + 1 - column, 2 * top + 1 - row)


def sample_only_inside(feature_map: Tensor, x: float, y: float) -> Tensor:
    """Bilinear sampling that is zero as soon as the location is outside the map.

    Args:
        feature_map: (H, W, D).
        x: In [0, 1] inside the map.
        y: Likewise.

    Returns:
        (D,)
    """
    height, width, _ = feature_map.shape
    if 0 <= x <= 1 and 0 <= y <= 1:
        return sample_pixels(feature_map, x * width - 0.5, y * height - 0.5)
    return 0.0 * feature_map[0, 0]


def _sizes_and_locations() -> Cases:
    cases = {
        "inside the map": (0.43, 0.61, 5, 7),
        "between other pixels": (0.57, 0.19, 4, 6),
        "nearer to the lower right pixel": (0.66, 0.84, 3, 5),
        "exactly at a pixel centre": (0.6875, 0.25, 2, 8),
        "exactly on a line between pixel centres": (0.375, 0.3, 6, 4),
        "in the middle of four pixels": (0.5, 0.5, 8, 2),
        "between the border and the first pixel centres": (0.03, 0.02, 7, 11),
        "beyond the lower right corner of the map": (1.07, 1.12, 11, 9),
        "a map of one row": (0.38, 0.8, 1, 10),
        "a map of one column": (0.3, 0.43, 10, 1),
        "far outside": (-0.75, 1.3125, 9, 3),
    }
    return {
        name: (*torch.tensor(case[:2], dtype=torch.float64), *case[2:])
        for name, case in cases.items()
    }


corner_weights = Exercise(
    my_corner_weights,
    _sizes_and_locations,
    {
        "half a pixel is missing: x_pixel is x * W - 0.5": corner_weights_by(
            lambda x, y, h, w: weights_at(x * w, y * h)
        ),
        "align_corners: 0 and 1 were taken for the centres of the outer pixels": corner_weights_by(
            lambda x, y, h, w: weights_at(x * (w - 1), y * (h - 1))
        ),
        "x and y are swapped": corner_weights_by(
            lambda x, y, h, w: weights_at(y * w - 0.5, x * h - 0.5)
        ),
        "height and width are swapped: x goes with W, y with H": corner_weights_by(
            lambda x, y, h, w: weights_at(x * h - 0.5, y * w - 0.5)
        ),
        "the nearer pixel got the smaller weight: at its centre it must weigh 1": corner_weights_by(
            lambda x, y, h, w: weights_at(x * w - 0.5, y * h - 0.5).flip(0)
        ),
        "the order is column by column; the upper right pixel comes second": corner_weights_by(
            lambda x, y, h, w: weights_at(x * w - 0.5, y * h - 0.5)[[0, 2, 1, 3]]
        ),
        "int() rounds towards zero; left of the first centre you need floor": corner_weights_by(
            lambda x, y, h, w: weights_at(x * w - 0.5, y * h - 0.5, floor=int)
        ),
        "the far corner is ceil(x); at a pixel centre that is the near one: use floor(x) + 1": (
            corner_weights_by(lambda x, y, h, w: weights_at(x * w - 0.5, y * h - 0.5, ceil=True))
        ),
        "corners beyond the border got the weight 0; all four weights are wanted": (
            corner_weights_by(existing_weights)
        ),
        "the location was clamped to [0, 1]; it may lie outside": corner_weights_by(
            lambda x, y, h, w: weights_at(min(max(x, 0), 1) * w - 0.5, min(max(y, 0), 1) * h - 0.5)
        ),
        "the weights follow the distance to each corner; multiply one for x and one for y": (
            corner_weights_by(lambda x, y, h, w: weights_by_distance(x * w - 0.5, y * h - 0.5))
        ),
    },
)


def _locations_in_maps() -> Cases:
    # x goes with the width, y with the height; no two maps have the same size or depth.
    places = {
        "inside the map": ((5, 7, 3), 0.43, 0.61),
        "between other pixels": ((11, 4, 6), 0.57, 0.18),
        "exactly at a pixel centre": ((5, 3, 2), 0.5, 0.7),
        "in the outer half of the leftmost pixels": ((3, 8, 4), 0.02, 0.6),
        "in the outer half of the rightmost pixels": ((4, 9, 5), 0.98, 0.4),
        "in the outer half of the top row": ((7, 2, 3), 0.4, 0.03),
        "in the outer half of the bottom row": ((6, 5, 1), 0.7, 0.97),
        "a little beyond the upper left corner": ((2, 3, 7), -0.05, -0.1),
        "a little beyond the lower right corner": ((7, 4, 2), 1.04, 1.02),
        "exactly at the centre of the last pixel": ((2, 5, 4), 0.9, 0.75),
        "exactly at the lower left corner": ((3, 5, 8), 0.0, 1.0),
        "exactly at the upper right corner": ((5, 4, 1), 1.0, 0.0),
        "far to the left": ((4, 3, 5), -3.0, 0.55),
        "far to the right": ((9, 5, 2), 1.5, 0.35),
        "far above": ((5, 6, 4), 0.45, -0.6),
        "far below": ((3, 2, 6), 0.65, 3.7),
        "one whole pixel beyond the right border": ((2, 7, 3), 1.16, 0.5),
        "one whole pixel beyond the top": ((8, 3, 2), 0.6, -0.15),
        "a map of one row": ((1, 6, 3), 0.37, 0.8),
        "a map of one column": ((8, 1, 4), 0.3, 0.44),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, x, y) in places.items():
        feature_map = torch.randn(*shape, generator=generator, dtype=torch.float64)
        cases[name] = feature_map, *torch.tensor([x, y], dtype=torch.float64)
    return cases


bilinear_sample = Exercise(
    my_bilinear_sample,
    _locations_in_maps,
    {
        "half a pixel is missing: x_pixel is x * W - 0.5": bilinear_sample_by(
            lambda f, x, y, h, w: sample_pixels(f, x * w, y * h)
        ),
        "align_corners: 0 and 1 were taken for the centres of the outer pixels": bilinear_sample_by(
            lambda f, x, y, h, w: sample_pixels(f, x * (w - 1), y * (h - 1))
        ),
        "x and y are swapped": bilinear_sample_by(
            lambda f, x, y, h, w: sample_pixels(f, y * w - 0.5, x * h - 0.5)
        ),
        "height and width are swapped: x goes with W, y with H": bilinear_sample_by(
            lambda f, x, y, h, w: sample_pixels(f, x * h - 0.5, y * w - 0.5)
        ),
        "the border was repeated; beyond the map there are zeros": bilinear_sample_by(
            lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="repeat")
        ),
        "negative indices read from the other side of the map; beyond the border there are zeros": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="negative")
            )
        ),
        "no index was checked; -1 reads from the other side of the map, W and H are too large": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="unchecked")
            )
        ),
        "locations outside [0, 1] were clamped to the border; values fade to zero there": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(
                    f, min(max(x, 0), 1) * w - 0.5, min(max(y, 0), 1) * h - 0.5
                )
            )
        ),
        "locations outside [0, 1] were given 0; a pixel may still be in reach": bilinear_sample_by(
            lambda f, x, y, h, w: sample_only_inside(f, x, y)
        ),
        "the value is 0 as soon as one corner is missing; the others still count": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="cut")
            )
        ),
        "int() rounds towards zero; left of the first centre you need floor": bilinear_sample_by(
            lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, floor=int)
        ),
        "the far corner is ceil(x); at a pixel centre that is the near one: use floor(x) + 1": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, ceil=True)
            )
        ),
        "the nearest pixel was taken; the four around the location should be mixed": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(f, math.floor(x * w), math.floor(y * h))
            )
        ),
        "the weights are swapped: the nearer pixel must weigh more": bilinear_sample_by(
            lambda f, x, y, h, w: sample_with_swapped_weights(f, x * w - 0.5, y * h - 0.5)
        ),
    },
    library=(attention.bilinear_sample,),
)
