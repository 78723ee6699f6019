"""The exercises of lesson 03: bilinear sampling and its gradient."""

import math

import torch

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.mistakes import (
    bilinear_sample_by,
    sample_only_inside,
    sample_pixels,
    sample_with_swapped_weights,
    slope_without_half_pixel,
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
    solutions.bilinear_sample,
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
        "indices beyond the border wrapped around to the other side (a negative index?)": (
            bilinear_sample_by(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="wrap")
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
)


def _locations_between_pixels() -> Cases:
    # Locations in pixels, always between the outer pixel centres, so that all four corners exist.
    places = {
        "in the middle": ((5, 7), 2.3, 3.6),
        "nearer to the other corners": ((7, 4), 3.8, 1.1),
        "between the first four pixels": ((3, 5), 0.4, 0.7),
        "between the last four pixels": ((6, 3), 4.6, 1.2),
        "near the upper right corner": ((4, 11), 0.1, 9.8),
        "near the lower left corner": ((11, 6), 9.7, 0.2),
        "a map of two rows": ((2, 9), 0.35, 6.4),
        "a map of two columns": ((8, 2), 5.2, 0.55),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((height, width), row, column) in places.items():
        plane = torch.randn(height, width, generator=generator, dtype=torch.float64)
        location = [(column + 0.5) / width, (row + 0.5) / height]
        cases[name] = plane, *torch.tensor(location, dtype=torch.float64)
    return cases


bilinear_slope = Exercise(
    solutions.bilinear_slope,
    _locations_between_pixels,
    {
        "the chain rule of x_pixel = x * W - 0.5 is missing: a factor W (and H)": (
            lambda f, x, y: (
                solutions.bilinear_slope(f, x, y) / torch.tensor([f.shape[1], f.shape[0]])
            )
        ),
        "half a pixel is missing: x_pixel is x * W - 0.5": slope_without_half_pixel,
        "the factors W and H are swapped": lambda f, x, y: (
            solutions.bilinear_slope(f, x, y)
            * torch.tensor([f.shape[0] / f.shape[1], f.shape[1] / f.shape[0]])
        ),
        "the sign is wrong: moving right, the right corners gain weight": lambda f, x, y: (
            -solutions.bilinear_slope(f, x, y)
        ),
        "the two slopes are in the order (y, x); return (x, y)": lambda f, x, y: (
            solutions.bilinear_slope(f, x, y).flip(0)
        ),
    },
)
