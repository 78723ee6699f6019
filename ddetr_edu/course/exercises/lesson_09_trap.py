"""The exercise of lesson 09 about a trap: distances for which the cheapest pair first goes wrong.

Whoever is about to do it should not read on.
"""

from collections.abc import Callable

from torch import Tensor

from ddetr_edu.course.construction import Construction
from ddetr_edu.course.exercise import Cases
from ddetr_edu.course.greedy_matching import greedy_ratio, greedy_totals, totals_by_order

MAX_OBJECTS = 100  # of a construction; a hundredfold loop of the check is still fast


def my_greedy_trap(times):
    """times -> (queries (n,), objects (n,)): positions on a line, n of each"""
    queries, objects = [0.0], [1000.0]  # a pair
    for _ in range(5):
        if greedy_ratio(queries, objects) >= times:
            break
        shift = 2 * objects[-1] - 1  # to a copy, behind a gap that is a little smaller than it
        queries = queries + [x + shift for x in queries]
        objects = objects + [x + shift for x in objects]
    return queries, objects


def _factors() -> Cases:
    return {
        "half as much again": (1.5,),
        "nearly twice as much": (1.9,),
        "two and a half times": (2.5,),
        "three times": (3,),
        "3.4 times": (3.4,),
        "five times": (5,),
        "five and a half times": (5.5,),
        "nine times": (9,),
    }


def judge_trap(queries: Tensor, objects: Tensor, times: float) -> str:
    """What is wrong with a trap for the greedy assignment.

    Args:
        queries: Positions on a line.
        objects: Likewise.
        times: How many times as much as the best matching the greedy one has to cost.

    Returns:
        A sentence; empty if nothing is wrong.
    """
    if queries.ndim != 1 or queries.shape != objects.shape or not len(queries):
        shapes = f"{tuple(queries.shape)} and {tuple(objects.shape)}"
        return f"the shapes are {shapes}; there must be as many queries as objects, (n,) of each"
    if len(queries) > MAX_OBJECTS:
        return f"there are {len(queries)} queries; a few dozen are enough"
    if not (queries.isfinite().all() and objects.isfinite().all()):
        return "not all positions are finite"
    greedy, lowest = greedy_totals(queries, objects)
    if greedy_ratio(queries, objects) >= times * (1 - 1e-9):
        return ""
    if lowest == 0:
        return "every query is at an object of its own, so both totals are 0"
    found = f"the cheapest pair first costs {greedy:.5g}, and the best matching {lowest:.5g}"
    found = f"{found}: {greedy / lowest:.3f} times as much, and not {times:g} times"
    return "; ".join([found, *advice_on(queries, objects, times)])


def advice_on(queries: Tensor, objects: Tensor, times: float) -> list[str]:
    """Why positions are no trap, or not enough of one.

    Args:
        queries: (n,) positions on a line.
        objects: (n,), likewise.
        times: How many times as much as the best matching the greedy one has to cost.

    Returns:
        A reason, or nothing if none is known.
    """
    greedy, lowest = greedy_totals(queries, objects)
    if max(totals_by_order((queries[:, None] - objects).abs())) >= times * lowest:
        return ["with another choice among pairs that are equally far apart, it would be enough"]
    if queries.max() <= objects.min() or objects.max() <= queries.min():
        return ["all queries are on one side of all objects, so every matching costs the same"]
    if greedy <= lowest * (1 + 1e-9):
        return ["here the cheapest pair first leads to the best matching"]
    if len(queries) == 2 and times >= 2:
        return ["with two queries and two objects it stays below 2, wherever they are"]
    return []


def trap_by(copy: Callable, max_steps: int = 5, too_few: int = 0) -> Callable:
    """A trap that is built from copies in a way of one's own.

    Args:
        copy: A function (queries, objects, width) -> (queries, objects) of the copy.
        max_steps: How often copies are made at most.
        too_few: How many of the steps that would be needed are left out.

    Returns:
        A function times -> (queries, objects).
    """

    def trap(times):
        built = [([0.0], [1000.0])]
        for _ in range(max_steps):
            queries, objects = built[-1]
            if greedy_ratio(queries, objects) >= times:
                break
            more_queries, more_objects = copy(queries, objects, max(objects + queries))
            built.append((queries + more_queries, objects + more_objects))
        return built[max(0, len(built) - 1 - too_few)]

    return trap


def _shifted_by(distance: Callable) -> Callable:
    """Copies at a distance of one's own, a function of the width of what is copied."""
    return lambda queries, objects, width: (
        [x + distance(width) for x in queries],
        [x + distance(width) for x in objects],
    )


def _chain(times: float) -> tuple[list[float], list[float]]:
    """Pairs in a row, all of one width, with gaps a little smaller than it."""
    count = 2
    while count < 32 and 3 - 2 / count < times + 0.01:
        count += 1
    return [1999.0 * k for k in range(count)], [1999.0 * k + 1000 for k in range(count)]


greedy_trap = Construction(
    my_greedy_trap,
    _factors,
    {
        "every query has its object at the same position; then the cheapest pairs are the best": (
            lambda times: ([0.0, 1000.0, 2000.0], [0.0, 1000.0, 2000.0])
        ),
        "all queries are on one side of all objects; then every assignment costs the same": (
            lambda times: ([0.0, 1000.0, 2000.0], [3000.0, 4000.0, 5000.0])
        ),
        "there are two queries and two objects in all cases; beyond 2 that is not enough": (
            trap_by(_shifted_by(lambda width: 2 * width - 1), max_steps=1)
        ),
        "the pairs stand in a chain with equal gaps; however long it is, it stays below 3": _chain,
        "the gaps are as wide as what they separate: which pair is taken first is left to chance": (
            trap_by(_shifted_by(lambda width: 2 * width))
        ),
        "the gaps are wider than what they separate, so the cheapest pairs are the right ones": (
            trap_by(_shifted_by(lambda width: 2 * width + 1))
        ),
        "copies are mirror images; where two of them meet, there is no query beside an object": (
            trap_by(
                lambda queries, objects, width: (
                    [3 * width - 1 - x for x in queries],
                    [3 * width - 1 - x for x in objects],
                )
            )
        ),
        "one step more is needed": trap_by(_shifted_by(lambda width: 2 * width - 1), too_few=1),
    },
    results=("queries", "objects"),
    judge=judge_trap,
)
