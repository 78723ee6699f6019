"""The exercise of lesson 07 about the sine embedding of a token's position."""

import math
from collections.abc import Callable

import torch

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.models.position import sine_position as library_sine_position


def my_sine_position(padding_mask, n_channels, temperature):
    """(padding_mask (H, W), C, T) -> embedding (C, H, W)"""
    height, width = padding_mask.shape
    image_height = (~padding_mask[:, 0]).sum()
    image_width = (~padding_mask[0]).sum()
    y = 2 * math.pi * (torch.arange(height) + 0.5) / image_height
    x = 2 * math.pi * (torch.arange(width) + 0.5) / image_width
    half = n_channels // 2
    embedding = torch.zeros(n_channels, height, width)
    for f in range(n_channels // 4):
        wavelength = temperature ** (4 * f / n_channels)
        embedding[2 * f] = torch.sin(y / wavelength)[:, None]
        embedding[2 * f + 1] = torch.cos(y / wavelength)[:, None]
        embedding[half + 2 * f] = torch.sin(x / wavelength)
        embedding[half + 2 * f + 1] = torch.cos(x / wavelength)
    return embedding * ~padding_mask


def sines_by(
    count: Callable = lambda i, image, padded: (i + 0.5) / image,
    scale: float = 2 * math.pi,
    exponent: Callable = lambda f, c: 4 * f / c,
    axes: str = "yx",
    blocks: bool = False,
    pair: tuple[Callable, Callable] = (torch.sin, torch.cos),
    padding: bool = False,
) -> Callable:
    """The sine embedding of positions, with switches for what goes wrong.

    Args:
        count: A function (indices, size of the image, size with padding) -> positions on one axis.
        scale: What positions are multiplied by.
        exponent: A function (f, C) -> the power of the temperature that is wavelength f.
        axes: The order of the halves.
        blocks: All sines, then all cosines, instead of one beside the other.
        pair: The two functions of each wavelength.
        padding: Fill the padding in as well.

    Returns:
        A function (padding_mask, C, T) -> (C, H, W).
    """

    def embed(padding_mask, n_channels, temperature):
        height, width = padding_mask.shape
        f = torch.arange(n_channels // 4, dtype=torch.float64)
        wavelengths = float(temperature) ** exponent(f, n_channels)

        def half(size, image):
            indices = torch.arange(size, dtype=torch.float64)
            angles = scale * count(indices, image, size) / wavelengths[:, None]  # (C/4, size)
            return torch.stack([wave(angles) for wave in pair], dim=1 - blocks).flatten(0, 1)

        rows, columns = int((~padding_mask[:, 0]).sum()), int((~padding_mask[0]).sum())
        halves = {
            "y": half(height, rows)[:, :, None].expand(-1, -1, width),
            "x": half(width, columns)[:, None].expand(-1, height, -1),
        }
        embedding = torch.cat([halves[axis] for axis in axes])
        return embedding if padding else embedding * ~padding_mask

    return embed


def _padded_maps() -> Cases:
    # Short wavelengths: an angle multiplied by one, a usual mistake, is still exact in fp32.
    maps = {  # (H, W) of the map, (H, W) of the image in it, C, temperature
        "one wavelength, no padding": ((2, 4), (2, 4), 4, 10000.0),
        "two wavelengths": ((5, 3), (5, 3), 8, 50.0),
        "many channels": ((7, 9), (7, 9), 36, 10.0),
        "padding on the right": ((3, 8), (3, 5), 12, 20.0),
        "padding below": ((9, 6), (4, 6), 20, 8.0),
        "padding on both sides": ((10, 13), (6, 11), 12, 15.0),
        "a map of one row": ((1, 7), (1, 7), 8, 40.0),
        "a map of one column": ((6, 1), (6, 1), 12, 2.0),
        "an image of one pixel": ((4, 5), (1, 1), 16, 12.0),
    }
    cases: Cases = {}
    for name, (size, (height, width), channels, temperature) in maps.items():
        padding_mask = torch.ones(size, dtype=torch.bool)
        padding_mask[:height, :width] = False
        cases[name] = padding_mask, channels, temperature
    return cases


sine_position = Exercise(
    my_sine_position,
    _padded_maps,
    {
        "half a pixel is missing: row i is at (i + 0.5) / h": sines_by(lambda i, n, _: i / n),
        "the far edge of each pixel was taken, as in DETR; row i is at (i + 0.5) / h": sines_by(
            lambda i, n, _: (i + 1) / n
        ),
        "positions are fractions of the padded map; take those of the image": sines_by(
            lambda i, _, padded: (i + 0.5) / padded
        ),
        "positions are counted in pixels; divide by the size of the image": sines_by(
            lambda i, *_: i + 0.5
        ),
        "the factor 2 pi is missing": sines_by(scale=1.0),
        "the factor is 2 pi, a full turn, not pi": sines_by(scale=math.pi),
        "x comes first; the first half of the channels belongs to y": sines_by(axes="xy"),
        "all sines come before all cosines; they stand side by side": sines_by(blocks=True),
        "sine and cosine are swapped; the sine comes first": sines_by(pair=(torch.cos, torch.sin)),
        "the wavelengths grow too slowly: T to the power 4f / C": sines_by(
            exponent=lambda f, c: 2 * f / c
        ),
        "the wavelengths grow too fast: T to the power 4f / C": sines_by(
            exponent=lambda f, c: 8 * f / c
        ),
        "the last wavelength is T itself; it stays below: T to the power 4f / C": sines_by(
            exponent=lambda f, c: f / max(c // 4 - 1, 1)
        ),
        "the angle is multiplied by the wavelength; divide": sines_by(
            exponent=lambda f, c: -4 * f / c
        ),
        "the temperature is always 10000; it is an argument": lambda mask, c, _: my_sine_position(
            mask, c, 10000.0
        ),
        "the padding was filled in as well; it is 0": sines_by(padding=True),
    },
    library=(library_sine_position,),
)
