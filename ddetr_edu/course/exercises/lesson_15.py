"""The puzzles of lesson 15 about memory: copy a row, transpose a matrix."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases
from ddetr_edu.course.puzzle import Puzzle
from ddetr_edu.course.warp import Array, Warp


def my_copy_row(warp, source, target, n):
    """(warp, source (n,), target (n,), n): copies source to target"""
    for first in range(0, n, 32):
        index = first + warp.lane
        exists = index < n
        warp.store(target, index, warp.load(source, index, exists), exists)


def my_transpose(warp, source, target, rows, columns):
    """(warp, source (rows, columns), target (columns, rows), rows, columns): transposes"""
    tile = warp.shared(32 * 33)
    for top in range(0, rows, 32):
        for left in range(0, columns, 32):
            for r in range(32):
                row = warp.load(source, (top + r) * columns + left + warp.lane)
                warp.store(tile, r * 33 + warp.lane, row)
            for c in range(32):
                column = warp.load(tile, warp.lane * 33 + c)
                warp.store(target, (left + c) * rows + top + warp.lane, column)


def random_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers in which no two are alike.

    Args:
        shape: Of the result.
        seed: Other seeds give other numbers.

    Returns:
        Fp64, of normal distribution.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rows_to_copy() -> Cases:
    lengths = {
        "32 numbers, one for each lane": 32,
        "64 numbers": 64,
        "40 numbers: in the second round some lanes have nothing to do": 40,
        "one number": 1,
        "31 numbers": 31,
        "a multiple of 8 only": 72,
        "a prime": 97,
        "200 numbers": 200,
    }
    return {
        name: (
            Warp(),
            Array("source", random_numbers(n, seed=n)),
            Array("target", torch.zeros(n).double(), is_output=True),
            n,
        )
        for name, n in lengths.items()
    }


def copy_by(index_of: Callable, rounds_of: Callable) -> Callable:
    """Copies whose lanes are given numbers in a way of one's own.

    Args:
        index_of: A function (round, lane (32,), n) -> the number (32,) that each lane copies.
        rounds_of: A function n -> how many rounds there are.

    Returns:
        A kernel; lanes whose number does not exist do nothing.
    """

    def kernel(warp, source, target, n):
        for k in range(rounds_of(n)):
            index = index_of(k, warp.lane, n)
            exists = (index >= 0) & (index < n)
            warp.store(target, index, warp.load(source, index, exists), exists)

    return kernel


def rounds(n: int) -> int:
    """How often 32 lanes have to take a number each until n are taken."""
    return -(-n // 32)


def _stretches(k: int, lane: Tensor, n: int) -> Tensor:
    """Number k of the stretch that belongs to a lane."""
    return lane * rounds(n) + k


def _without_mask(warp, source, target, n):
    for first in range(0, n, 32):
        warp.store(target, first + warp.lane, warp.load(source, first + warp.lane))


copy_row = Puzzle(
    my_copy_row,
    _rows_to_copy,
    {
        "each lane copies a stretch of its own, so that neighbouring lanes are in other sectors": (
            copy_by(_stretches, rounds)
        ),
        "only the first 32 numbers are copied; a longer row needs more rounds": copy_by(
            lambda k, lane, n: lane, lambda n: 1
        ),
        "the last round is missing where n is not a multiple of 32": copy_by(
            lambda k, lane, n: 32 * k + lane, lambda n: n // 32
        ),
        "lanes beyond the end were not masked": _without_mask,
        "lane 0 copies everything, and the other lanes look on": copy_by(
            lambda k, lane, n: torch.where(lane == 0, k, n), lambda n: n
        ),
        "a round reads every second number, so that each sector is read in two rounds": copy_by(
            lambda k, lane, n: 64 * (k // 2) + 2 * lane + k % 2, lambda n: 2 * -(-n // 64)
        ),
        "the rounds overlap: the next one begins 32 numbers later, and not 31": copy_by(
            lambda k, lane, n: 31 * k + lane, lambda n: max(1, -(-(n - 1) // 31))
        ),
        "number 0 is left out: lanes are counted from 0": copy_by(
            lambda k, lane, n: 32 * k + lane + 1, rounds
        ),
    },
)


def _matrices() -> Cases:
    sizes = {
        "one tile": (32, 32),
        "wide": (32, 64),
        "tall": (64, 32),
        "three tiles side by side": (32, 96),
        "three tiles one below the other": (96, 32),
        "two rows of three tiles": (64, 96),
        "very tall": (128, 32),
    }
    return {
        name: (
            Warp(),
            Array("source", random_numbers(rows, columns, seed=rows + 7 * columns)),
            Array("target", torch.zeros(rows * columns).double(), is_output=True),
            rows,
            columns,
        )
        for name, (rows, columns) in sizes.items()
    }


def transpose_by(
    pitch: int = 32, turned: bool = True, target_of: Callable | None = None, tiles: bool = True
) -> Callable:
    """A transposition through shared memory, in a way of one's own.

    Args:
        pitch: From one row in shared memory to the next.
        turned: Whether columns of the tile are read, and not rows again.
        target_of: A function (row, column, rows, columns) -> index in the target; the right one if
            None.
        tiles: Whether all tiles are done, and not only the first.

    Returns:
        A kernel.
    """
    at = target_of or (lambda r, c, rows, columns: c * rows + r)

    def kernel(warp, source, target, rows, columns):
        tile = warp.shared(32 * pitch)
        for top in range(0, rows if tiles else 32, 32):
            for left in range(0, columns if tiles else 32, 32):
                for r in range(32):
                    row = warp.load(source, (top + r) * columns + left + warp.lane)
                    warp.store(tile, r * pitch + warp.lane, row)
                for c in range(32):
                    index = warp.lane * pitch + c if turned else c * pitch + warp.lane
                    column = warp.load(tile, index)
                    warp.store(target, at(top + warp.lane, left + c, rows, columns), column)

    return kernel


def _without_shared_memory(warp, source, target, rows, columns, coalesced_reads=True):
    for k in range(rows * columns // 32):
        index = 32 * k + warp.lane
        if coalesced_reads:
            other, here = index % columns * rows + index // columns, index
        else:
            other, here = index, index % rows * columns + index // rows
        warp.store(target, other, warp.load(source, here))


transpose = Puzzle(
    my_transpose,
    _matrices,
    {
        "the columns of the tile lie in one bank: rows that are 33 apart would not": transpose_by(),
        "reads are coalesced, but each write goes to 32 sectors: shared memory can turn the tile": (
            _without_shared_memory
        ),
        "writes are coalesced, but each read comes from 32 sectors: shared memory can turn them": (
            functools.partial(_without_shared_memory, coalesced_reads=False)
        ),
        "tiles are in the right places, but inside a tile nothing is transposed": transpose_by(
            33, turned=False
        ),
        "nothing is transposed": transpose_by(
            33, target_of=lambda r, c, rows, columns: r * columns + c
        ),
        "only the first tile is transposed": transpose_by(33, tiles=False),
        "rows of the target are as long as those of the source; they have `rows` numbers": (
            transpose_by(33, target_of=lambda r, c, rows, columns: c * columns + r)
        ),
        "rows in shared memory that are 34 apart still put two lanes into each bank": (
            transpose_by(34)
        ),
        "tiles are transposed one by one, but stay where they were": transpose_by(
            33,
            target_of=lambda r, c, rows, columns: (
                (r // 32 * 32 + c % 32) * columns + c // 32 * 32 + r % 32
            ),
        ),
        "rows and columns are swapped inside each tile, but where the tile goes they are not": (
            transpose_by(
                33,
                target_of=lambda r, c, rows, columns: (
                    (r // 32 * 32 + c % 32) * rows + c // 32 * 32 + r % 32
                ),
            )
        ),
    },
)
