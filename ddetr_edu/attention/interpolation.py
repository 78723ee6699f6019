"""Step 4 of 5, I: reading a feature map between its pixels, and the gradient of that.

The code handles one point at a time, as the formula does; the fast backends do the same arithmetic
for all points at once. Lesson 03 is about this module.

Convention: a sampling location is (x, y) in [0, 1] of the map, x to the right, y down. Pixel i
covers [i, i + 1) and its value stands at its centre, i + 0.5; so in units where pixel centres are
whole numbers, x_pixel = x * W - 0.5 and y_pixel = y * H - 0.5 (align_corners=False). Beyond the
border every pixel is 0; locations outside [0, 1] are valid, and values fade to 0 there.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Corner(NamedTuple):
    """One of the four pixels around a location: its weight, and the slope of the weight."""

    row: int
    column: int
    weight: Tensor
    slope_x: Tensor  # d weight / d x_pixel
    slope_y: Tensor  # d weight / d y_pixel


def corners(x_pixel: Tensor, y_pixel: Tensor, height: int, width: int) -> Iterator[Corner]:
    """The pixels around a location that exist: four inside, fewer at the border, none beyond it.

    A location that reaches no pixel has no corners; nor has NaN or infinity.

    Args:
        x_pixel: 0-d, in pixels, a whole number at pixel centres.
        y_pixel: 0-d, in pixels, a whole number at pixel centres.
        height: H of the map.
        width: W of the map.

    Yields:
        The corners inside the map, row by row.
    """
    if not (-1 < x_pixel < width and -1 < y_pixel < height):
        return
    left, top = int(x_pixel.detach().floor()), int(y_pixel.detach().floor())
    weight_right, weight_bottom = x_pixel - left, y_pixel - top
    weight_left, weight_top = 1 - weight_right, 1 - weight_bottom
    for row, weight_y, sign_y in ((top, weight_top, -1), (top + 1, weight_bottom, +1)):
        for column, weight_x, sign_x in ((left, weight_left, -1), (left + 1, weight_right, +1)):
            if 0 <= row < height and 0 <= column < width:
                weight = weight_y * weight_x
                yield Corner(row, column, weight, sign_x * weight_y, sign_y * weight_x)


def bilinear_sample(feature_map: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The value of a feature map at one location, between its pixels.

    Convention: that of this module: (x, y) in [0, 1], half-pixel centres, zeros outside.

    Source: paper, the text below equation 2; Deformable Convolutional Networks, equation 3.

    Args:
        feature_map: (H, W, D).
        x: 0-d, a fraction of the map.
        y: 0-d, a fraction of the map.

    Returns:
        (D,).
    """
    height, width, channels = feature_map.shape
    value = feature_map.new_zeros(channels)
    for corner in corners(x * width - 0.5, y * height - 0.5, height, width):
        value = value + corner.weight * feature_map[corner.row, corner.column]
    return value


def bilinear_sample_backward(
    feature_map: Tensor, x: Tensor, y: Tensor, grad_value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `bilinear_sample`, by hand.

    The map receives the incoming gradient through the same four weights. The location receives it
    through the *change* of the weights: moving right shifts weight from the left corners to the
    right ones. The factor W (or H) is the chain rule of x_pixel = x * W - 0.5. At a pixel centre
    the slope jumps; the gradient given there is the one to the right (and below).

    Args:
        feature_map: (H, W, D).
        x: 0-d, a fraction of the map.
        y: 0-d, a fraction of the map.
        grad_value: (D,), the gradient of the result.

    Returns:
        The gradients of feature_map (H, W, D), of x and of y (0-d).
    """
    height, width, _ = feature_map.shape
    grad_map = torch.zeros_like(feature_map)
    grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
    for corner in corners(x * width - 0.5, y * height - 0.5, height, width):
        grad_map[corner.row, corner.column] += corner.weight * grad_value
        grad_dot_value = grad_value @ feature_map[corner.row, corner.column]
        grad_x += width * corner.slope_x * grad_dot_value
        grad_y += height * corner.slope_y * grad_dot_value
    return grad_map, grad_x, grad_y
