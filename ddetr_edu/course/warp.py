"""A warp in plain Python: 32 lanes that do the same at the same time, and what it costs them.

A kernel is a function of a warp and of arrays in global memory. What it computes with are tensors
of 32 numbers, one for each lane. Arithmetic on them is free; what the warp is asked for is counted.
"""

from collections import Counter
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

LANES = 32
SECTOR = 8  # numbers: global memory moves 32 bytes at once, and a number has 4
BANKS = 32  # of shared memory, which deliver one number each in a round
GEOMETRY = 20  # instructions that it takes to find the four pixels around a point


@dataclass
class Score:
    """What a kernel has asked for, all lanes together. Each unit costs 1; fewer are better."""

    sectors_read: int = 0
    sectors_written: int = 0
    additions: int = 0  # of numbers in global memory, atomically
    shared_rounds: int = 0  # of reading or writing shared memory
    shuffles: int = 0
    instructions: int = 0  # of arithmetic, as far as it is counted

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        parts = [f"{what.replace('_', ' ')} {n}" for what, n in asdict(self).items() if n]
        return f"{self.total} ({', '.join(parts)})" if parts else "0"


class Array:
    """Numbers in memory, one after the other.

    Args:
        name: For error messages.
        values: The numbers, of any shape; kept as a flat copy.
        is_output: Whether a kernel may write to it.
        is_shared: Whether it lies in shared memory instead of global memory.
    """

    def __init__(self, name: str, values: Tensor, is_output: bool = False, is_shared: bool = False):
        self.name = name
        self.values = values.flatten().clone()
        self.is_output = is_output
        self.is_shared = is_shared

    def __repr__(self) -> str:
        return f"{'shared ' * self.is_shared}array of {len(self.values)} numbers"


class Warp:
    """32 lanes, numbered by `lane`. An index or a mask is a tensor of 32, or one for all lanes."""

    def __init__(self):
        self.lane = torch.arange(LANES)
        self.score = Score()

    def __repr__(self) -> str:
        return "a warp"

    def load(self, array: Array, index, mask=True) -> Tensor:
        """Read a number for each lane; lanes whose mask is False read nothing, and get 0."""
        index, mask = self._checked("reads", array, index, mask)
        self._count_access("sectors_read", array, index[mask])
        return torch.where(mask, array.values[torch.where(mask, index, 0)], 0)

    def store(self, array: Array, index, values, mask=True) -> None:
        """Write a number from each lane whose mask is True."""
        index, mask = self._checked("writes", array, index, mask)
        values = per_lane("values", values)
        self._count_access("sectors_written", array, index[mask])
        _refuse_meetings(array, index, mask)
        array.values[index[mask]] = values[mask].to(array.values.dtype)

    def atomic_add(self, array: Array, index, values, mask=True) -> None:
        """Add a number from each lane whose mask is True; several may add to the same one."""
        index, mask = self._checked("adds to", array, index, mask)
        if array.is_shared:
            raise TypeError("atomic_add is for global memory")
        values = per_lane("values", values)
        self.score.additions += int(mask.sum())
        array.values.index_add_(0, index[mask], values[mask].to(array.values.dtype))

    def shared(self, size: int) -> Array:
        """Shared memory for `size` numbers. Before they are written they are NaN."""
        return Array("shared memory", torch.full((size,), torch.nan).double(), True, True)

    def shuffle(self, values, source) -> Tensor:
        """Each lane gets the value of lane `source`."""
        source = per_lane("source", source)
        wrong = ((source < 0) | (source >= LANES)).nonzero()
        if len(wrong):
            lane = int(wrong[0])
            raise IndexError(f"lane {lane} asks lane {int(source[lane])}; there are 0 to 31")
        self.score.shuffles += 1
        return per_lane("values", values)[source]

    def shuffle_xor(self, values, bits: int) -> Tensor:
        """Each lane gets the value of the lane whose number differs in `bits`: lane ^ bits."""
        return self.shuffle(values, self.lane ^ bits)

    def corners(self, x, y, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The four pixels around a point (x, y) of each lane, on a map of shape (H, W).

        Returns the pixels' numbers (4, 32), -1 for one outside the map, and their weights (4, 32).
        """
        self.score.instructions += GEOMETRY
        (height, width) = shape
        column = per_lane("x", x).double() * width - 0.5
        row = per_lane("y", y).double() * height - 0.5
        left, top = column.floor(), row.floor()
        pixels, weights = [], []
        for r in (top, top + 1):
            for c in (left, left + 1):
                inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
                pixels.append(torch.where(inside, r * width + c, -1).long())
                weights.append((1 - (row - r).abs()) * (1 - (column - c).abs()))
        return torch.stack(pixels), torch.stack(weights)

    def _checked(self, verb: str, array: Array, index, mask) -> tuple[Tensor, Tensor]:
        """Index and mask of each lane."""
        if verb != "reads" and not array.is_output:
            raise TypeError(f"{array.name} is an input; nothing may be written to it")
        index, mask = per_lane("index", index), per_lane("mask", mask)
        if index.is_floating_point() or index.dtype == torch.bool:
            raise TypeError("an index must be a whole number: // divides to one, / does not")
        if mask.dtype != torch.bool:
            raise TypeError("a mask must be True or False for each lane, such as index < n")
        size = len(array.values)
        for lane, (i, is_active) in enumerate(zip(index.tolist(), mask.tolist(), strict=True)):
            if is_active and not 0 <= i < size:
                number = f"{array.name}[{i}]"
                raise IndexError(f"lane {lane} {verb} {number}, but there are only {size} numbers")
        return index, mask

    def _count_access(self, what: str, array: Array, index: Tensor) -> None:
        """Add what one load or store of some lanes costs."""
        positions = set(index.tolist())  # lanes that read the same number share it
        if array.is_shared:
            in_banks = Counter(position % BANKS for position in positions)
            self.score.shared_rounds += max(in_banks.values(), default=0)
        else:
            sectors = len({position // SECTOR for position in positions})
            setattr(self.score, what, getattr(self.score, what) + sectors)


def per_lane(name: str, given) -> Tensor:
    """One value for each lane.

    Args:
        name: For the error message.
        given: A number, or 32 of them.

    Returns:
        (32,).

    Raises:
        ValueError: For another shape.
    """
    values = torch.as_tensor(given)
    if values.ndim and values.shape != (LANES,):
        shape = tuple(values.shape)
        raise ValueError(f"{name} has shape {shape}; one value was expected, or (32,): one a lane")
    return values.expand(LANES)


def _refuse_meetings(array: Array, index: Tensor, mask: Tensor) -> None:
    """Raise an error if two lanes write to one number: which one remains is left to chance."""
    writers: dict[int, int] = {}
    for lane, (i, is_active) in enumerate(zip(index.tolist(), mask.tolist(), strict=True)):
        if is_active and writers.setdefault(i, lane) != lane:
            both = f"lanes {writers[i]} and {lane} write {array.name}[{i}] at the same time"
            raise ValueError(f"{both}; only one of the two numbers would remain")
