"""Ways to compute a sampling location, right ones and wrong ones, for trials to tell apart.

Each is a function (reference point (2,), offset (2,), (H, W)) -> location (2,), as `add_offset`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention import sampling_locations

Locate = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]


def add_offset(reference: Tensor, offset: Tensor, shape: tuple[int, int]) -> Tensor:
    """The sampling location of one point on one map, by the library.

    Args:
        reference: (2,) (x, y), a fraction of the map.
        offset: (2,) (dx, dy), in pixels of the map.
        shape: (H, W) of the map.

    Returns:
        (2,) (x, y), a fraction of the map.
    """
    return sampling_locations(reference.view(1, 1, 1, 2), offset.view(1, 1, 1, 1, 1, 2), [shape])[
        0, 0, 0, 0, 0
    ]


def locate_by(rule: Callable) -> Locate:
    """A way to compute locations by a rule of one's own.

    Args:
        rule: A function (x, y, dx, dy, H, W) -> (x, y).

    Returns:
        A function as `add_offset`, whose result has the type of the reference point.
    """

    def locate(reference, offset, shape):
        reference, offset = torch.as_tensor(reference), torch.as_tensor(offset)
        x, y = rule(*reference.double(), *offset.double(), *shape)
        dtype = reference.dtype if reference.is_floating_point() else torch.get_default_dtype()
        return torch.stack([torch.as_tensor(x), torch.as_tensor(y)]).to(dtype)

    return locate


def _by_the_library(reference, offset, shape):
    reference, offset = torch.as_tensor(reference), torch.as_tensor(offset)
    return add_offset(reference, offset.to(reference.dtype), shape)


def _in_single_precision(x, y, dx, dy, h, w):
    return (x.float() * w + dx.float()) / w, (y.float() * h + dy.float()) / h


RIGHT: dict[str, Locate] = {
    "the library's": _by_the_library,
    "right, counted in pixels": locate_by(
        lambda x, y, dx, dy, h, w: ((x * w - 0.5 + dx + 0.5) / w, (y * h - 0.5 + dy + 0.5) / h)
    ),
    "right, with the reciprocal": locate_by(
        lambda x, y, dx, dy, h, w: (x + dx * (1 / w), y + dy * (1 / h))
    ),
    "right, in single precision": locate_by(_in_single_precision),
}
WRONG: dict[str, Locate] = {
    "divides (dx, dy) by (H, W)": locate_by(lambda x, y, dx, dy, h, w: (x + dx / h, y + dy / w)),
    "does not divide": locate_by(lambda x, y, dx, dy, h, w: (x + dx, y + dy)),
    "divides both by W": locate_by(lambda x, y, dx, dy, h, w: (x + dx / w, y + dy / w)),
    "divides both by H": locate_by(lambda x, y, dx, dy, h, w: (x + dx / h, y + dy / h)),
    "divides dx by the longer side": locate_by(
        lambda x, y, dx, dy, h, w: (x + dx / max(h, w), y + dy / min(h, w))
    ),
    "divides dx by the shorter side": locate_by(
        lambda x, y, dx, dy, h, w: (x + dx / min(h, w), y + dy / max(h, w))
    ),
    "divides by (W - 1, H - 1)": locate_by(
        lambda x, y, dx, dy, h, w: (x + dx / max(w - 1, 1), y + dy / max(h - 1, 1))
    ),
    "subtracts the offset": locate_by(lambda x, y, dx, dy, h, w: (x - dx / w, y - dy / h)),
    "counts dy upwards": locate_by(lambda x, y, dx, dy, h, w: (x + dx / w, y - dy / h)),
    "swaps dx and dy": locate_by(lambda x, y, dx, dy, h, w: (x + dy / w, y + dx / h)),
    "swaps x and y of the reference": locate_by(
        lambda x, y, dx, dy, h, w: (y + dx / w, x + dy / h)
    ),
    "always starts in the middle": locate_by(
        lambda x, y, dx, dy, h, w: (0.5 + dx / w, 0.5 + dy / h)
    ),
    "rounds offsets to whole pixels": locate_by(
        lambda x, y, dx, dy, h, w: (x + dx.round() / w, y + dy.round() / h)
    ),
    "clamps to [0, 1]": locate_by(
        lambda x, y, dx, dy, h, w: ((x + dx / w).clamp(0, 1), (y + dy / h).clamp(0, 1))
    ),
    "half a pixel too far left": locate_by(
        lambda x, y, dx, dy, h, w: (x + (dx - 0.5) / w, y + dy / h)
    ),
}
