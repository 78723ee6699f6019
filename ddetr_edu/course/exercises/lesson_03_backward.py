"""The exercises of lesson 03, second part: the slope at a location, and the whole backward pass."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu import attention
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.exercises.lesson_03 import sample_pixels

Gradients = tuple[Tensor, Tensor, Tensor]


def my_bilinear_slope(feature_map, x, y):
    """(feature_map (H, W), x, y) -> (2,), slopes along x and y"""
    height, width = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = int(torch.floor(column)), int(torch.floor(row))
    a, b = feature_map[top, left], feature_map[top, left + 1]
    c, d = feature_map[top + 1, left], feature_map[top + 1, left + 1]
    down, right = row - top, column - left
    slope_x = width * ((1 - down) * (b - a) + down * (d - c))
    slope_y = height * ((1 - right) * (c - a) + right * (d - b))
    return torch.stack([slope_x, slope_y])


def my_bilinear_backward(feature_map, x, y, grad_value):
    """(feature_map (H, W, D), x, y, grad_value (D,)) -> grad_map (H, W, D), grad_x, grad_y"""
    height, width, _ = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = int(torch.floor(column)), int(torch.floor(row))
    rows = (top, top + 1 - row, -height), (top + 1, row - top, height)  # index, weight, its slope
    columns = (left, left + 1 - column, -width), (left + 1, column - left, width)
    grad_map, grad_x, grad_y = torch.zeros_like(feature_map), 0.0, 0.0
    for r, weight_y, slope_y in rows:
        for c, weight_x, slope_x in columns:
            if 0 <= r < height and 0 <= c < width:
                grad_map[r, c] = weight_y * weight_x * grad_value
                grad_pixel = (grad_value * feature_map[r, c]).sum()
                grad_x += weight_y * slope_x * grad_pixel
                grad_y += slope_y * weight_x * grad_pixel
    return grad_map, grad_x, grad_y


def slope_at(feature_map: Tensor, column: Tensor, row: Tensor, whole: bool = False) -> Tensor:
    """The slope of bilinear sampling at a position in pixels, with a switch for what goes wrong.

    Args:
        feature_map: (H, W).
        column: 0-d, in pixels, a whole number at a pixel centre.
        row: Likewise.
        whole: Take the slope along the upper row and the left column alone.

    Returns:
        (2,), slopes along x and y.
    """
    height, width = feature_map.shape
    padded = torch.nn.functional.pad(feature_map, (0, 2, 0, 2))  # so that the corners exist
    top, left = math.floor(row), math.floor(column)
    (a, b), (c, d) = padded[top : top + 2, left : left + 2]
    down, right = (0, 0) if whole else (row - top, column - left)
    slope_x = width * ((1 - down) * (b - a) + down * (d - c))
    return torch.stack([slope_x, height * ((1 - right) * (c - a) + right * (d - b))])


def slope_with_swapped_mixing(feature_map: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The slope in which the two rows are mixed by how far right the location is, not how far down.

    Args:
        feature_map: (H, W).
        x: A 0-d tensor in [0, 1].
        y: Likewise.

    Returns:
        (2,), slopes along x and y.
    """
    height, width = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = torch.floor(column), torch.floor(row)
    return slope_at(feature_map, left + (row - top), top + (column - left))


def slope_across_the_nearest(feature_map: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Half the difference between the two neighbours of the nearest pixel, as image filters do.

    Args:
        feature_map: (H, W).
        x: A 0-d tensor in [0, 1].
        y: Likewise.

    Returns:
        (2,), slopes along x and y.
    """
    height, width = feature_map.shape
    row, column = int(y * height), int(x * width)
    left, right = max(column - 1, 0), min(column + 1, width - 1)
    above, below = max(row - 1, 0), min(row + 1, height - 1)
    slope_x = width / 2 * (feature_map[row, right] - feature_map[row, left])
    slope_y = height / 2 * (feature_map[below, column] - feature_map[above, column])
    return torch.stack([slope_x, slope_y])


def _locations_between_pixels() -> Cases:
    # Locations in pixels, always between the outer pixel centres, so that all four corners exist.
    positions = {
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
    for name, ((height, width), row, column) in positions.items():
        plane = torch.randn(height, width, generator=generator, dtype=torch.float64)
        location = [(column + 0.5) / width, (row + 0.5) / height]
        cases[name] = plane, *torch.tensor(location, dtype=torch.float64)
    return cases


bilinear_slope = Exercise(
    my_bilinear_slope,
    _locations_between_pixels,
    {
        "the chain rule of x_pixel = x * W - 0.5 is missing: a factor W (and H)": (
            lambda f, x, y: my_bilinear_slope(f, x, y) / torch.tensor([f.shape[1], f.shape[0]])
        ),
        "half a pixel is missing: x_pixel is x * W - 0.5": (
            lambda f, x, y: slope_at(f, x * f.shape[1], y * f.shape[0])
        ),
        "the factors W and H are swapped": lambda f, x, y: (
            my_bilinear_slope(f, x, y)
            * torch.tensor([f.shape[0] / f.shape[1], f.shape[1] / f.shape[0]])
        ),
        "the sign is wrong: moving right, the right corners gain weight": lambda f, x, y: (
            -my_bilinear_slope(f, x, y)
        ),
        "the two slopes are in the order (y, x); return (x, y)": lambda f, x, y: my_bilinear_slope(
            f, x, y
        ).flip(0),
        "only the upper row and the left column count; the other ones have a part in it, too": (
            lambda f, x, y: slope_at(f, x * f.shape[1] - 0.5, y * f.shape[0] - 0.5, whole=True)
        ),
        "the two rows, and the two columns, count half each; the nearer one should count more": (
            lambda f, x, y: slope_at(
                f, torch.floor(x * f.shape[1] - 0.5) + 0.5, torch.floor(y * f.shape[0] - 0.5) + 0.5
            )
        ),
        "the two rows are mixed by how far right the location is; it must be how far down": (
            slope_with_swapped_mixing
        ),
        "differences across the nearest pixel were taken; only the four pixels around count": (
            slope_across_the_nearest
        ),
    },
    library=(attention.bilinear_sample_backward,),
)


def backward_of(rule: Callable) -> Callable:
    """The gradients, by autograd, of a rule for sampling.

    Args:
        rule: A function (feature_map, x, y, height, width) -> (D,).

    Returns:
        A function (feature_map, x, y, grad_value) -> the gradients of feature_map, x and y.
    """

    def backward(feature_map: Tensor, x: Tensor, y: Tensor, grad_value: Tensor) -> Gradients:
        inputs = [t.detach().clone().requires_grad_() for t in (feature_map, x, y)]
        value = rule(*inputs, *feature_map.shape[:2])
        grads = torch.autograd.grad(value, inputs, grad_value, materialize_grads=True)
        return grads[0], grads[1], grads[2]

    return backward


def sample_by_triangles(feature_map: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Bilinear sampling as a sum over all pixels, with the weight max(0, 1 - distance).

    Its values are right. At a pixel centre, though, autograd takes 0 for the slope of |0|.

    Args:
        feature_map: (H, W, D).
        column: 0-d, in pixels, a whole number at a pixel centre.
        row: Likewise.

    Returns:
        (D,)
    """
    height, width, _ = feature_map.shape
    weights_y = (1 - (torch.arange(height) - row).abs()).relu()
    weights_x = (1 - (torch.arange(width) - column).abs()).relu()
    return torch.einsum("h,w,hwd->d", weights_y, weights_x, feature_map)


def changed(change: Callable) -> Callable:
    """The right gradients, changed.

    Args:
        change: A function (grad_map, grad_x, grad_y, feature_map, grad_value) -> gradients.

    Returns:
        A function (feature_map, x, y, grad_value) -> these.
    """
    return lambda f, x, y, g: change(*attention.bilinear_sample_backward(f, x, y, g), f, g)


def without_incomplete(feature_map: Tensor, x: Tensor, y: Tensor, grad_value: Tensor) -> Gradients:
    """The gradients, zero as soon as one of the four corners lies beyond the border.

    Args:
        feature_map: (H, W, D).
        x: 0-d, a fraction of the map.
        y: Likewise.
        grad_value: (D,).

    Returns:
        The gradients of feature_map (H, W, D), of x and of y (0-d).
    """
    height, width, _ = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    complete = 0 <= column < width - 1 and 0 <= row < height - 1
    grads = attention.bilinear_sample_backward(feature_map, x, y, grad_value)
    return grads[0] * complete, grads[1] * complete, grads[2] * complete


def _locations_and_gradients() -> Cases:
    # Where a location is exactly at a pixel centre, sizes are powers of two: nothing is rounded.
    positions = {
        "inside the map": ((5, 7, 3), 0.43, 0.61),
        "between other pixels": ((11, 4, 6), 0.57, 0.18),
        "one channel": ((6, 5, 1), 0.66, 0.31),
        "in the outer half of the leftmost pixels": ((3, 8, 4), 0.02, 0.6),
        "in the outer half of the rightmost pixels": ((4, 9, 5), 0.98, 0.42),
        "in the outer half of the top row": ((7, 2, 3), 0.4, 0.03),
        "in the outer half of the bottom row": ((6, 11, 2), 0.7, 0.97),
        "a little beyond the upper left corner": ((2, 3, 7), -0.05, -0.1),
        "a little beyond the lower right corner": ((7, 4, 2), 1.04, 1.02),
        "far below": ((9, 5, 4), 0.47, 1.9),
        "far to the right": ((5, 3, 6), 2.3, 0.45),
        "a map of one row": ((1, 6, 3), 0.37, 0.8),
        "a map of one column": ((10, 1, 4), 0.3, 0.44),
        "exactly at a pixel centre": ((4, 8, 3), 0.6875, 0.625),
        "exactly on a column of pixel centres": ((8, 4, 5), 0.375, 0.3),
        "exactly at the centre of the last pixel": ((2, 16, 2), 0.96875, 0.75),
    }
    generator = torch.Generator().manual_seed(3)
    cases: Cases = {}
    for name, (shape, x, y) in positions.items():
        feature_map = torch.randn(*shape, generator=generator, dtype=torch.float64)
        grad_value = torch.randn(shape[-1], generator=generator, dtype=torch.float64)
        cases[name] = feature_map, *torch.tensor([x, y], dtype=torch.float64), grad_value
    return cases


bilinear_backward = Exercise(
    my_bilinear_backward,
    _locations_and_gradients,
    {
        "the chain rule of x_pixel = x * W - 0.5 is missing: a factor W in grad_x, H in grad_y": (
            changed(lambda m, gx, gy, f, g: (m, gx / f.shape[1], gy / f.shape[0]))
        ),
        "the factors W and H are swapped: W belongs to grad_x": changed(
            lambda m, gx, gy, f, g: (m, gx / f.shape[1] * f.shape[0], gy / f.shape[0] * f.shape[1])
        ),
        "the signs of grad_x and grad_y are wrong: moving right, the right corners gain weight": (
            changed(lambda m, gx, gy, f, g: (m, -gx, -gy))
        ),
        "grad_x and grad_y are swapped": changed(lambda m, gx, gy, f, g: (m, gy, gx)),
        "grad_map holds the weights alone; multiply them by grad_value": changed(
            lambda m, gx, gy, f, g: (m / g, gx, gy)
        ),
        "in grad_map each corner got all of grad_value; it gets the share that its weight says": (
            changed(lambda m, gx, gy, f, g: ((m != 0) * g, gx, gy))
        ),
        "grad_x and grad_y have one number for each channel; sum over the channels": (
            lambda f, x, y, g: (
                attention.bilinear_sample_backward(f, x, y, g)[0],
                *torch.stack(
                    [
                        torch.stack(attention.bilinear_sample_backward(f, x, y, g * one)[1:])
                        for one in torch.eye(len(g), dtype=g.dtype)
                    ],
                    dim=1,
                ),
            )
        ),
        "grad_x and grad_y are means over the channels; sum over them": changed(
            lambda m, gx, gy, f, g: (m, gx / len(g), gy / len(g))
        ),
        "grad_x and grad_y do not depend on grad_value: it says how much each channel matters": (
            lambda f, x, y, g: (
                attention.bilinear_sample_backward(f, x, y, g)[0],
                *attention.bilinear_sample_backward(f, x, y, torch.ones_like(g))[1:],
            )
        ),
        "half a pixel is missing: x_pixel is x * W - 0.5": backward_of(
            lambda f, x, y, h, w: sample_pixels(f, x * w, y * h)
        ),
        "x and y are swapped": backward_of(
            lambda f, x, y, h, w: sample_pixels(f, y * w - 0.5, x * h - 0.5)
        ),
        "the border was repeated; beyond the map there are zeros, and nothing to be learned": (
            backward_of(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="repeat")
            )
        ),
        "negative indices read from the other side of the map; beyond the border there are zeros": (
            backward_of(
                lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, border="negative")
            )
        ),
        "there is no gradient as soon as one corner is missing; the others still have one": (
            without_incomplete
        ),
        "int() rounds towards zero; left of the first centre you need floor": backward_of(
            lambda f, x, y, h, w: sample_pixels(f, x * w - 0.5, y * h - 0.5, floor=int)
        ),
        "at a pixel centre the slope to the left and above was taken: use floor, not ceil - 1": (
            backward_of(
                lambda f, x, y, h, w: sample_pixels(
                    f, x * w - 0.5, y * h - 0.5, floor=lambda at: math.ceil(at) - 1
                )
            )
        ),
        "at a pixel centre there is no slope: that of |t| at 0 was taken to be 0": backward_of(
            lambda f, x, y, h, w: sample_by_triangles(f, x * w - 0.5, y * h - 0.5)
        ),
    },
    library=(attention.bilinear_sample_backward,),
    results=("grad_map", "grad_x", "grad_y"),
)
