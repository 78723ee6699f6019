"""The puzzles of lesson 15 about sums over lanes: of a row, and of several terms over 8 lanes."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases
from ddetr_edu.course.exercises.lesson_15 import random_numbers
from ddetr_edu.course.puzzle import Puzzle
from ddetr_edu.course.warp import Array, Warp


def my_sum_row(warp, source, target, n):
    """(warp, source (n,), target (1,), n): writes the sum of source to target"""
    total = torch.zeros(32)
    for first in range(0, n, 32):
        index = first + warp.lane
        total = total + warp.load(source, index, index < n)
    for distance in (16, 8, 4, 2, 1):
        total = total + warp.shuffle_xor(total, distance)
    warp.store(target, 0, total, warp.lane == 0)


def my_sum_terms(warp, source, target, n_terms):
    """(warp, source (T, 32), target (4, T), T = 1, 2, 4 or 8): sums over 8 lanes each"""
    terms = [warp.load(source, 32 * t + warp.lane) for t in range(n_terms)]
    for distance in (4, 2, 1):
        sent = terms
        if len(terms) > 1:  # a lane keeps half of its terms, and sends the other half
            half = len(terms) // 2
            upper = warp.lane & distance > 0
            sent = [torch.where(upper, terms[t], terms[t + half]) for t in range(half)]
            terms = [torch.where(upper, terms[t + half], terms[t]) for t in range(half)]
        terms = [terms[t] + warp.shuffle_xor(sent[t], distance) for t in range(len(sent))]
    group, lane, copies = warp.lane // 8, warp.lane % 8, 8 // n_terms
    at = group * n_terms + lane // copies
    warp.store(target, at, terms[0], lane % copies == 0)


def _rows_to_sum() -> Cases:
    lengths = {
        "32 numbers, one for each lane": 32,
        "64 numbers": 64,
        "50 numbers: in the second round some lanes have nothing to do": 50,
        "one number": 1,
        "7 numbers": 7,
        "a multiple of 8 only": 88,
        "a prime": 131,
        "300 numbers": 300,
    }
    return {
        name: (
            Warp(),
            Array("source", random_numbers(n, seed=n) + 1),
            Array("target", torch.zeros(1).double(), is_output=True),
            n,
        )
        for name, n in lengths.items()
    }


def sum_by(reduce: Callable, first_round_only: bool = False) -> Callable:
    """Sums whose last part, over the lanes, is done in a way of one's own.

    Args:
        reduce: A function (warp, sum (32,) of each lane, target), which writes the sum.
        first_round_only: Whether only the first 32 numbers are read.

    Returns:
        A kernel.
    """

    def kernel(warp, source, target, n):
        total = torch.zeros(32)
        for first in range(0, 32 if first_round_only else n, 32):
            index = first + warp.lane
            total = total + warp.load(source, index, index < n)
        reduce(warp, total, target)

    return kernel


def by_shuffles(distances: tuple[int, ...], add_original: bool = False) -> Callable:
    """A sum over lanes by shuffles of some distances; for `sum_by`."""

    def reduce(warp, total, target):
        original = total
        for distance in distances:
            sent = original if add_original else total
            total = total + warp.shuffle_xor(sent, distance)
        warp.store(target, 0, total, warp.lane == 0)

    return reduce


def _one_by_one(warp, total, target):
    added = total
    for k in range(1, 32):
        added = added + warp.shuffle(total, k)
    warp.store(target, 0, added, warp.lane == 0)


def _through_shared_memory(warp, total, target):
    shared = warp.shared(32)
    warp.store(shared, warp.lane, total)
    added = torch.zeros(32)
    for k in range(32):
        added = added + warp.load(shared, k)
    warp.store(target, 0, added, warp.lane == 0)


def _all_write(warp, total, target):
    for distance in (16, 8, 4, 2, 1):
        total = total + warp.shuffle_xor(total, distance)
    warp.store(target, 0, total)


def _join_in_each_round(warp, source, target, n):
    total = torch.zeros(32)
    for first in range(0, n, 32):
        index = first + warp.lane
        numbers = warp.load(source, index, index < n)
        for distance in (16, 8, 4, 2, 1):
            numbers = numbers + warp.shuffle_xor(numbers, distance)
        total = total + numbers
    warp.store(target, 0, total, warp.lane == 0)


def _add_each_number(warp, source, target, n):
    for first in range(0, n, 32):
        index = first + warp.lane
        warp.atomic_add(target, 0, warp.load(source, index, index < n), index < n)


sum_row = Puzzle(
    my_sum_row,
    _rows_to_sum,
    {
        "each number was added to memory by an addition of its own; add in the lanes first": (
            _add_each_number
        ),
        "the sums of the 32 lanes were added to memory one by one; five shuffles can join them": (
            sum_by(lambda warp, total, target: warp.atomic_add(target, 0, total))
        ),
        "the lanes are joined in each round; they can add up their own numbers first": (
            _join_in_each_round
        ),
        "the distances are 1, 2, 3, 4, 5; each has to be twice the one before": sum_by(
            by_shuffles((1, 2, 3, 4, 5))
        ),
        "one lane was asked after the other, 31 times; each shuffle can double what is summed": (
            sum_by(_one_by_one)
        ),
        "the sums went through shared memory one by one; five shuffles do the same": sum_by(
            _through_shared_memory
        ),
        "all lanes write the sum; one of them is enough": sum_by(_all_write),
        "lane 0 writes the sum of what it has read, without that of the other lanes": sum_by(
            by_shuffles(())
        ),
        "a shuffle is missing: 16 lanes of the 32 were joined": sum_by(by_shuffles((8, 4, 2, 1))),
        "the shuffle over distance 1 is missing: neighbours were never joined": sum_by(
            by_shuffles((16, 8, 4, 2))
        ),
        "each shuffle sent the number of the beginning; it has to send the sum so far": sum_by(
            by_shuffles((16, 8, 4, 2, 1), add_original=True)
        ),
        "a shuffle over distance 0 adds to each lane its own sum": sum_by(
            by_shuffles((16, 8, 4, 2, 1, 0))
        ),
        "only the first 32 numbers are in the sum": sum_by(
            by_shuffles((16, 8, 4, 2, 1)), first_round_only=True
        ),
    },
)


def _terms() -> Cases:
    cases: Cases = {}
    for name, n_terms in {
        "two terms": 2,
        "one term": 1,
        "four terms": 4,
        "eight terms": 8,
        "two other terms": 2,
        "four other terms": 4,
        "one other term": 1,
        "eight other terms": 8,
    }.items():
        terms = random_numbers(n_terms, 32, seed=len(cases)) + 0.5
        cases[name] = (
            Warp(),
            Array("source", terms),
            Array("target", torch.zeros(4, n_terms).double(), is_output=True),
            n_terms,
        )
    return cases


def _finish(warp: Warp, target: Array, n_terms: int, sums: list[Tensor]) -> None:
    """Write sums that all lanes of a group have."""
    lane, group = warp.lane % 8, warp.lane // 8
    chosen = sums[0]
    for t, each in enumerate(sums):
        chosen = torch.where(lane == t, each, chosen)
    warp.store(target, group * n_terms + lane, chosen, lane < n_terms)


def every_term(distances: tuple[int, ...], divide: int = 1, stores: bool = False) -> Callable:
    """Each term is summed by shuffles of its own.

    Args:
        distances: Of the shuffles.
        divide: What the sums are divided by.
        stores: Whether each sum is stored by an instruction of its own.

    Returns:
        A kernel.
    """

    def kernel(warp, source, target, n_terms):
        sums = []
        for t in range(n_terms):
            term = warp.load(source, 32 * t + warp.lane)
            for distance in distances:
                term = term + warp.shuffle_xor(term, distance)
            sums.append(term / divide)
            if stores:
                at = warp.lane // 8 * n_terms + t
                warp.store(target, at, term, warp.lane % 8 == 0)
        if not stores:
            _finish(warp, target, n_terms, sums)

    return kernel


def exchange_by(
    distances: tuple[int, ...] = (4, 2, 1),
    keeps_upper: bool = True,
    sends_kept: bool = False,
    joins_last: bool = True,
) -> Callable:
    """Lanes exchange halves of their terms, with something done in another way.

    Args:
        distances: Of the shuffles.
        keeps_upper: Whether the lane with the higher number keeps the upper half.
        sends_kept: Whether a lane sends what it keeps.
        joins_last: Whether lanes that are left with parts of the same term add them up.

    Returns:
        A kernel.
    """

    def kernel(warp, source, target, n_terms):
        terms = [warp.load(source, 32 * t + warp.lane) for t in range(n_terms)]
        for distance in distances:
            sent = terms
            if len(terms) > 1:
                half = len(terms) // 2
                upper = (warp.lane & distance > 0) == keeps_upper
                kept = [torch.where(upper, terms[t + half], terms[t]) for t in range(half)]
                others = [torch.where(upper, terms[t], terms[t + half]) for t in range(half)]
                terms, sent = kept, kept if sends_kept else others
            elif not joins_last:
                break
            terms = [t + warp.shuffle_xor(s, distance) for t, s in zip(terms, sent, strict=True)]
        lane, copies = warp.lane % 8, 8 // n_terms
        at = warp.lane // 8 * n_terms + lane // copies
        warp.store(target, at, terms[0], lane % copies == 0)

    return kernel


def _through_memory(warp, source, target, n_terms):
    for t in range(n_terms):
        term = warp.load(source, 32 * t + warp.lane)
        warp.atomic_add(target, warp.lane // 8 * n_terms + t, term)


def _terms_through_shared_memory(warp, source, target, n_terms):
    tile = warp.shared(33 * n_terms)
    for t in range(n_terms):
        warp.store(tile, 33 * t + warp.lane, warp.load(source, 32 * t + warp.lane))
    group, t = warp.lane // 8, warp.lane % 8
    total = torch.zeros(32)
    for lane in range(8):
        total = total + warp.load(tile, 33 * t + 8 * group + lane, t < n_terms)
    warp.store(target, group * n_terms + t, total, t < n_terms)


sum_terms = Puzzle(
    my_sum_terms,
    _terms,
    {
        "every term is summed by three shuffles of its own; exchange halves of the terms instead": (
            every_term((4, 2, 1))
        ),
        "every term has three shuffles and a store of its own; exchange halves of the terms": (
            every_term((4, 2, 1), stores=True)
        ),
        "lanes that are left with parts of one and the same term do not add them up": exchange_by(
            joins_last=False
        ),
        "the terms of all lanes were added in memory; shuffles can join them before": (
            _through_memory
        ),
        "the terms went through shared memory; to exchange halves by shuffles takes less": (
            _terms_through_shared_memory
        ),
        "all 32 lanes were summed; a group has 8": every_term((16, 8, 4, 2, 1)),
        "a shuffle is missing: the two halves of a group were not joined": every_term((2, 1)),
        "this is the mean over the lanes, not the sum": every_term((4, 2, 1), divide=8),
        "a lane sends the half that it keeps; the other lane needs the other half": exchange_by(
            sends_kept=True
        ),
        "the upper lanes keep the lower half, so that the sums are in other lanes than expected": (
            exchange_by(keeps_upper=False)
        ),
        "the distances run upwards, so that the sums are in other lanes than expected": exchange_by(
            (1, 2, 4)
        ),
        "terms went to lanes 16 apart, which belong to another group": exchange_by((16, 2, 1)),
    },
)
