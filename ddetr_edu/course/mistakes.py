"""The usual mistakes, each as a function with a switch for what is wrong."""

import math
from collections.abc import Callable

import torch


def tokens_rounded_by(round_to_whole: Callable) -> Callable:
    def count(height, width):
        return sum(round_to_whole(height / s) * round_to_whole(width / s) for s in (8, 16, 32, 64))

    return count


def read(feature_map, column, row, border: str = "zeros", ceil: bool = False, floor=math.floor):
    height, width, _ = feature_map.shape
    left, top = floor(column), floor(row)
    right, bottom = (math.ceil(column), math.ceil(row)) if ceil else (left + 1, top + 1)
    value = 0.0 * feature_map[0, 0]
    for r, share_y in ((top, bottom - row), (bottom, row - top)):
        for c, share_x in ((left, right - column), (right, column - left)):
            if border == "repeat":
                r, c = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
            elif border == "wrap":
                r, c = r % height, c % width
            if 0 <= r < height and 0 <= c < width:
                value = value + share_y * share_x * feature_map[r, c]
    return value


def sampled_by(f: Callable) -> Callable:
    """A mistake of bilinear sampling from its rule (map, x, y, height, width)."""
    return lambda feature_map, x, y: f(feature_map, x.item(), y.item(), *feature_map.shape[:2])


def read_mirrored(feature_map, column, row):
    left, top = math.floor(column), math.floor(row)
    return read(feature_map, 2 * left + 1 - column, 2 * top + 1 - row)


def read_if_inside(feature_map, x, y):
    height, width, _ = feature_map.shape
    if 0 <= x <= 1 and 0 <= y <= 1:
        return read(feature_map, x * width - 0.5, y * height - 0.5)
    return 0.0 * feature_map[0, 0]


def slope_without_half(feature_map, x, y):
    height, width = feature_map.shape
    padded = torch.nn.functional.pad(feature_map, (0, 2, 0, 2))  # so that the corners exist
    row, column = math.floor(y * height), math.floor(x * width)
    (a, b), (c, d) = padded[row : row + 2, column : column + 2]
    down, right = y * height - row, x * width - column
    along_x = width * ((1 - down) * (b - a) + down * (d - c))
    return torch.stack([along_x, height * ((1 - right) * (c - a) + right * (d - b))])


def star(
    n_heads, n_levels, n_points, square=True, first=1, swap=False, by_point=False, closed=False
):
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


def located_by(scale: Callable) -> Callable:
    """A mistake of sampling locations from its rule (offsets of a level, height, width)."""

    def mistaken(references, offsets, shapes):
        steps = [scale(offsets[:, :, :, l], h, w) for l, (h, w) in enumerate(shapes)]
        return references[:, :, None, :, None] + torch.stack(steps, dim=3)

    return mistaken


def cheapest_pair_first(cost):
    cost = cost.clone()
    chosen = torch.zeros(cost.shape[1], dtype=torch.int64)
    for _ in range(cost.shape[1]):
        query, item = divmod(int(cost.argmin()), cost.shape[1])
        chosen[item] = query
        cost[query], cost[:, item] = math.inf, math.inf
    return chosen


def one_after_another(cost):
    cost = cost.clone()
    chosen = []
    for item in range(cost.shape[1]):
        chosen.append(int(cost[:, item].argmin()))
        cost[chosen[-1]] = math.inf
    return torch.tensor(chosen)


def focal(alpha=0.25, gamma=2, divide=True, mirrored=False) -> Callable:
    def loss(logits, is_object, n_objects):
        p = logits.sigmoid()
        yes, no = -((1 - p) ** gamma) * p.log(), -(p**gamma) * (1 - p).log()
        if mirrored:
            yes, no = -(p**gamma) * p.log(), -((1 - p) ** gamma) * (1 - p).log()
        total = torch.where(is_object, alpha * yes, (1 - alpha) * no).sum()
        return total / n_objects if divide else total

    return loss
