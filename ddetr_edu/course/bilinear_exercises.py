"""The exercises of lesson 03: bilinear sampling and its gradient."""

import math

import torch

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.mistakes import (
    bilinear_sample_by,
    sample_only_inside,
    sample_pixels,
    sample_with_swapped_weights,
    slope_without_half_pixel,
)


def _map_and_location(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    height, width = ((3, 5), (7, 4), (2, 3), (5, 5), (3, 7))[seed]
    feature_map = torch.randn(height, width, 3, generator=generator, dtype=torch.float64)
    x, y = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if seed == 1:  # a little beyond the lower right corner
        x, y = 1.04, 1.02
    elif seed == 2:  # a little beyond the upper left corner
        x, y = -0.05, -0.1
    elif seed == 3:  # exactly at a pixel centre
        x, y = 0.5, 0.7
    elif seed == 4:  # within half a pixel of the left edge
        x = 0.02
    return feature_map, *torch.tensor([x, y], dtype=torch.float64)


bilinear_sample = Exercise(
    solutions.bilinear_sample,
    _map_and_location,
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


def _plane_and_location(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    height, width = ((3, 5), (7, 4), (2, 3), (5, 6), (3, 7))[seed]
    plane = torch.randn(height, width, generator=generator, dtype=torch.float64)
    # Between the outer pixel centres, so that all four corners exist.
    inside = 0.1 + 0.8 * torch.rand(2, generator=generator, dtype=torch.float64)
    x = (inside[0] * (width - 1) + 0.5) / width
    y = (inside[1] * (height - 1) + 0.5) / height
    return plane, x, y


bilinear_slope = Exercise(
    solutions.bilinear_slope,
    _plane_and_location,
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
