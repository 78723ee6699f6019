"""The puzzle of lesson 15 about adding to memory: a list that is sorted by pixel."""

from collections.abc import Callable

import torch

from ddetr_edu.course.exercise import Cases
from ddetr_edu.course.exercises.lesson_15 import random_numbers
from ddetr_edu.course.puzzle import Puzzle
from ddetr_edu.course.warp import Array, Warp


def my_scatter_add(warp, pixels, amounts, target, n):
    """(warp, pixels (n,) sorted, amounts (n,), target, n): target[pixel] += amount, of each"""
    share = -(-n // 32) | 1  # of each lane; odd, so that lanes read from different banks
    pixel, total = torch.full((32,), -1), torch.zeros(32)
    for k in range(share):
        index = warp.lane * share + k
        exists = index < n
        following = torch.where(exists, warp.load(pixels, index, exists), -1)
        is_new = following != pixel
        warp.atomic_add(target, pixel, total, is_new & (pixel >= 0))
        total = torch.where(is_new, 0, total) + warp.load(amounts, index, exists)
        pixel = following
    warp.atomic_add(target, pixel, total, pixel >= 0)


def _sorted_lists() -> Cases:
    sizes = {  # how many entries there are, and how many pixels
        "few pixels": (96, 5),
        "one pixel": (64, 1),
        "fewer entries than lanes": (20, 4),
        "one entry": (1, 3),
        "four entries a lane": (128, 16),
        "200 entries": (200, 11),
        "every pixel occurs about once": (33, 90),
        "a long list": (288, 24),
    }
    cases: Cases = {}
    for k, (name, (n, n_pixels)) in enumerate(sizes.items()):
        generator = torch.Generator().manual_seed(k)
        pixels = torch.randint(n_pixels, (n,), generator=generator).sort().values
        cases[name] = (
            Warp(),
            Array("pixels", pixels, is_shared=True),
            Array("amounts", random_numbers(n, seed=k), is_shared=True),
            Array("target", random_numbers(n_pixels, seed=100 + k), is_output=True),
            n,
        )
    return cases


def walk_by(
    share_of: Callable = lambda n: -(-n // 32) | 1,
    has_last: bool = True,
    restarts: bool = True,
    includes_new: bool = False,
    stops_at_end: bool = False,
) -> Callable:
    """A walk along the list in which each lane has a share, with something done in another way.

    Args:
        share_of: A function n -> the entries of each lane.
        has_last: Whether the last sum of each lane is added.
        restarts: Whether the sum begins anew with each pixel.
        includes_new: Whether the entry of the next pixel is counted with the one before.
        stops_at_end: Whether the end of the list is no change of pixel.

    Returns:
        A kernel.
    """

    def kernel(warp, pixels, amounts, target, n):
        share = share_of(n)
        pixel, total = torch.full((32,), -1), torch.zeros(32)
        for k in range(share):
            index = warp.lane * share + k
            exists = index < n
            beyond = pixel if stops_at_end else -1
            following = torch.where(exists, warp.load(pixels, index, exists), beyond)
            amount = warp.load(amounts, index, exists)
            is_new = following != pixel
            sent = total + amount if includes_new else total
            warp.atomic_add(target, pixel, sent, is_new & (pixel >= 0))
            total = torch.where(is_new & restarts, 0, total) + amount
            pixel = following
        warp.atomic_add(target, pixel, total, (pixel >= 0) & has_last)

    return kernel


def entry_by_entry(is_coalesced: bool = True, write: str = "add") -> Callable:
    """Every entry is added to memory by itself.

    Args:
        is_coalesced: Whether neighbouring lanes take neighbouring entries.
        write: "add" for an atomic addition, "store" for a load, a sum and a store, "overwrite" for
            a store alone.

    Returns:
        A kernel.
    """

    def kernel(warp, pixels, amounts, target, n):
        share = -(-n // 32)
        for k in range(share):
            index = 32 * k + warp.lane if is_coalesced else warp.lane * share + k
            exists = index < n
            pixel = warp.load(pixels, index, exists)
            amount = warp.load(amounts, index, exists)
            if write == "add":
                warp.atomic_add(target, pixel, amount, exists)
            else:
                before = warp.load(target, pixel, exists) if write == "store" else 0
                warp.store(target, pixel, before + amount, exists)

    return kernel


def _by_shuffles(warp, pixels, amounts, target, n):
    """The entries of one round are joined by shuffles over growing distances."""
    for first in range(0, n, 32):
        index = first + warp.lane
        exists = index < n
        pixel = torch.where(exists, warp.load(pixels, index, exists), -1)
        total = warp.load(amounts, index, exists)
        for distance in (1, 2, 4, 8, 16):
            below = (warp.lane - distance).clamp(min=0)
            same = (warp.shuffle(pixel, below) == pixel) & (warp.lane >= distance)
            total = total + torch.where(same, warp.shuffle(total, below), 0)
        following = warp.shuffle(pixel, (warp.lane + 1).clamp(max=31))
        is_last = (following != pixel) | (warp.lane == 31)
        warp.atomic_add(target, pixel, total, exists & is_last)


def _one_pixel_a_lane(warp, pixels, amounts, target, n):
    """Each lane adds up its whole stretch, and sends the sum to the pixel with which it begins."""
    share = -(-n // 32) | 1
    total = torch.zeros(32)
    for k in range(share):
        index = warp.lane * share + k
        total = total + warp.load(amounts, index, index < n)
    index = warp.lane * share
    warp.atomic_add(target, warp.load(pixels, index, index < n), total, index < n)


scatter_add = Puzzle(
    my_scatter_add,
    _sorted_lists,
    {
        "each entry is added to memory by itself; add up what belongs to one pixel first": (
            entry_by_entry()
        ),
        "each lane walks along a stretch, but still adds each of its entries to memory": (
            entry_by_entry(is_coalesced=False)
        ),
        "lanes that add to one pixel at the same time need atomic_add; a store would lose sums": (
            entry_by_entry(write="store")
        ),
        "the last sum of each lane is never added to memory": walk_by(has_last=False),
        "a sum is added when the pixel changes, but never what a lane holds at the end": walk_by(
            has_last=False, stops_at_end=True
        ),
        "the sum is not set to 0 when a new pixel begins": walk_by(restarts=False),
        "the first entry of the next pixel is added to the pixel before": walk_by(
            includes_new=True
        ),
        "lanes are an even number of entries apart, so that several read from one bank": walk_by(
            lambda n: -(-n // 32) + -(-n // 32) % 2
        ),
        "a stretch has n / 32 entries, rounded up; where that is even, lanes meet in a bank": (
            walk_by(lambda n: -(-n // 32))
        ),
        "the whole list is walked along by one lane; it can be cut into 32 stretches": walk_by(
            lambda n: n
        ),
        "the sum of a whole stretch is sent to one pixel; a stretch may have several": (
            _one_pixel_a_lane
        ),
        "n / 32 was rounded down, and the last entries belong to no lane": walk_by(
            lambda n: n // 32
        ),
        "32 entries at a time are joined by shuffles; walking along the list takes fewer": (
            _by_shuffles
        ),
    },
)
