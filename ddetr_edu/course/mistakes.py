"""The usual mistakes, each a solution of an exercise with a switch for what is wrong.

Letters and shapes are those of the exercises in `solutions.py`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def count_tokens_with(rounding: Callable) -> Callable:
    """A count of tokens that rounds the sizes of the feature maps in its own way.

    Args:
        rounding: What is applied to height / stride and width / stride.

    Returns:
        A function (height, width) -> number.
    """

    def count(height, width):
        return sum(rounding(height / s) * rounding(width / s) for s in (8, 16, 32, 64))

    return count


def sample_pixels(
    feature_map: Tensor,
    column: float,
    row: float,
    border: str = "zeros",
    ceil: bool = False,
    floor: Callable = math.floor,
) -> Tensor:
    """Bilinear sampling at a position in pixels, with switches for what goes wrong.

    Args:
        feature_map: (H, W, D).
        column: In pixels, a whole number at a pixel centre.
        row: Likewise.
        border: What is sampled beyond the border: "zeros", "repeat" (the outermost pixel) or "wrap"
            (the opposite side).
        ceil: Take ceil(column) instead of floor(column) + 1 for the far corner.
        floor: What finds the near corner.

    Returns:
        (D,)
    """
    height, width, _ = feature_map.shape
    left, top = floor(column), floor(row)
    right, bottom = (math.ceil(column), math.ceil(row)) if ceil else (left + 1, top + 1)
    value = 0.0 * feature_map[0, 0]
    for r, weight_y in ((top, bottom - row), (bottom, row - top)):
        for c, weight_x in ((left, right - column), (right, column - left)):
            if border == "repeat":
                r, c = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
            elif border == "wrap":
                r, c = r % height, c % width
            if 0 <= r < height and 0 <= c < width:
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


def slope_without_half_pixel(feature_map: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The slope of bilinear sampling at x * W and y * H instead of x * W - 0.5 and y * H - 0.5.

    Args:
        feature_map: (H, W).
        x: A 0-d tensor in [0, 1].
        y: Likewise.

    Returns:
        (2,), slopes along x and y.
    """
    height, width = feature_map.shape
    padded = torch.nn.functional.pad(feature_map, (0, 2, 0, 2))  # so that the corners exist
    row, column = math.floor(y * height), math.floor(x * width)
    (a, b), (c, d) = padded[row : row + 2, column : column + 2]
    down, right = y * height - row, x * width - column
    slope_x = width * ((1 - down) * (b - a) + down * (d - c))
    return torch.stack([slope_x, height * ((1 - right) * (c - a) + right * (d - b))])


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


def sampling_locations_by(normalise: Callable) -> Callable:
    """Sampling locations whose offsets are normalised in their own way.

    Args:
        normalise: A function (offsets of one level, height, width) -> steps, in fractions.

    Returns:
        A function (reference points, offsets, shapes) -> locations.
    """

    def locations(reference_points, offsets, shapes):
        steps = [normalise(offsets[:, :, :, l], h, w) for l, (h, w) in enumerate(shapes)]
        return reference_points[:, :, None, :, None] + torch.stack(steps, dim=3)

    return locations


def assign_cheapest_pair_first(cost: Tensor) -> Tensor:
    """A greedy assignment: again and again the cheapest pair that is left.

    Args:
        cost: (Q, T).

    Returns:
        (T,), the query of each object.
    """
    cost = cost.clone()
    assigned = torch.zeros(cost.shape[1], dtype=torch.int64)
    for _ in range(cost.shape[1]):
        query, item = divmod(int(cost.argmin()), cost.shape[1])
        assigned[item] = query
        cost[query], cost[:, item] = math.inf, math.inf
    return assigned


def assign_in_order(cost: Tensor) -> Tensor:
    """A greedy assignment: object by object the cheapest query that is left.

    Args:
        cost: (Q, T).

    Returns:
        (T,), the query of each object.
    """
    cost = cost.clone()
    assigned: list[int] = []
    for item in range(cost.shape[1]):
        assigned.append(int(cost[:, item].argmin()))
        cost[assigned[-1]] = math.inf
    return torch.tensor(assigned)


def focal_loss_with(
    alpha: float = 0.25, gamma: float = 2, divide: bool = True, mirrored: bool = False
) -> Callable:
    """A focal loss with its own constants.

    Args:
        alpha: The weight of positives; negatives get 1 - alpha.
        gamma: The exponent that makes easy predictions count less.
        divide: Divide the sum by the number of boxes.
        mirrored: Swap p and 1 - p in the factors.

    Returns:
        A function (logits, is_object, num_boxes) -> number.
    """

    def loss(logits, is_object, num_boxes):
        prob = logits.sigmoid()
        pos_factor, neg_factor = (prob, 1 - prob) if mirrored else (1 - prob, prob)
        pos_loss = -alpha * pos_factor**gamma * prob.log()
        neg_loss = -(1 - alpha) * neg_factor**gamma * (1 - prob).log()
        total = torch.where(is_object, pos_loss, neg_loss).sum()
        return total / num_boxes if divide else total

    return loss
