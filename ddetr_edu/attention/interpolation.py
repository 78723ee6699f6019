"""Step 4 of 5, I: reading a feature map between its pixels, and the gradient of that.

One point at a time, in the words of the formula; the fast backends do the same arithmetic for all
points at once. Lesson 03 is about this module.

Convention: a place is (x, y) in [0, 1] of the map, x to the right, y down. Pixel i covers
[i, i + 1) and its value stands at its centre, i + 0.5; so in units where pixel centres are whole
numbers, x_pixel = x * W - 0.5 and y_pixel = y * H - 0.5 (align_corners=False). Beyond the border
every pixel is 0; places outside [0, 1] are legal and fade into that zero.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Corner(NamedTuple):
    """One of the four pixels around a place: its weight, and how the weight changes with x, y."""

    row: int
    column: int
    weight: Tensor
    slope_x: Tensor  # d weight / d x_pixel
    slope_y: Tensor  # d weight / d y_pixel


def corners(x_pixel: Tensor, y_pixel: Tensor, height: int, width: int) -> Iterator[Corner]:
    """The pixels around a place that exist: four inside, fewer at the border, none beyond it.

    A place with no pixel within reach has no corner; nor has NaN or infinity.

    x_pixel, y_pixel: 0-d tensors in pixels, whole numbers at pixel centres
    """
    if not (-1 < x_pixel < width and -1 < y_pixel < height):
        return
    left, top = int(x_pixel.detach().floor()), int(y_pixel.detach().floor())
    right_share, bottom_share = x_pixel - left, y_pixel - top
    left_share, top_share = 1 - right_share, 1 - bottom_share
    for row, share_y, sign_y in ((top, top_share, -1), (top + 1, bottom_share, +1)):
        for column, share_x, sign_x in ((left, left_share, -1), (left + 1, right_share, +1)):
            if 0 <= row < height and 0 <= column < width:
                yield Corner(row, column, share_y * share_x, sign_x * share_y, sign_y * share_x)


def bilinear_sample(feature_map: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The value of a feature map at one place, between its pixels.

    Convention: that of this module: (x, y) in [0, 1], half-pixel centres, zeros outside.

    feature_map: (H, W, D)
    x, y:        0-d tensors
    Returns:     (D,)
    Source: paper, the text below equation 2; Deformable Convolutional Networks, equation 3.
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

    The map receives the incoming gradient through the same four weights. The place receives it
    through the *change* of the weights: moving right trades the left corners for the right ones.
    The factor W (or H) is the chain rule of x_pixel = x * W - 0.5. At a pixel centre the slope
    jumps; the gradient given there is the one to the right (and below).

    feature_map: (H, W, D);  x, y: 0-d tensors;  grad_value: (D,)
    Returns: gradients of feature_map (H, W, D), of x and of y (0-d).
    """
    height, width, _ = feature_map.shape
    grad_map = torch.zeros_like(feature_map)
    grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
    for corner in corners(x * width - 0.5, y * height - 0.5, height, width):
        grad_map[corner.row, corner.column] += corner.weight * grad_value
        along = grad_value @ feature_map[corner.row, corner.column]
        grad_x += width * corner.slope_x * along
        grad_y += height * corner.slope_y * along
    return grad_map, grad_x, grad_y
