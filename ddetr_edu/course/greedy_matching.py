"""Two greedy assignments, which need not be the cheapest, and how much more they may cost."""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign_cheapest_pair_first(cost: Tensor) -> Tensor:
    """A greedy assignment: again and again the cheapest pair that is left.

    Args:
        cost: (Q, T), at least as many queries as objects.

    Returns:
        (T,), the query of each object. Of several cheapest pairs, the first is taken.
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
        cost: (Q, T), at least as many queries as objects.

    Returns:
        (T,), the query of each object.
    """
    cost = cost.clone()
    assigned: list[int] = []
    for item in range(cost.shape[1]):
        assigned.append(int(cost[:, item].argmin()))
        cost[assigned[-1]] = math.inf
    return torch.tensor(assigned)


def total_cost(cost: Tensor, assigned: Tensor) -> float:
    """What an assignment costs.

    Args:
        cost: (Q, T).
        assigned: (T,), the query of each object.

    Returns:
        The sum over all objects.
    """
    return cost[assigned, torch.arange(len(assigned))].sum().item()


def greedy_totals(queries, objects) -> tuple[float, float]:
    """What taking the cheapest pair first costs on a line, and what the best matching costs.

    A pair costs its distance. Where pairs are equally far apart, so that either may be taken first,
    it is the one that leads to the lower total.

    Args:
        queries: (n,) positions on a line.
        objects: (n,), likewise.

    Returns:
        The total of the greedy assignment, and the lowest total of any.
    """
    queries = torch.as_tensor(queries, dtype=torch.float64)
    objects = torch.as_tensor(objects, dtype=torch.float64)
    cost = (queries[:, None] - objects).abs()
    rows, columns = linear_sum_assignment(cost)
    return min(totals_by_order(cost)), cost[rows, columns].sum().item()


def totals_by_order(cost: Tensor) -> list[float]:
    """What the cheapest pair first costs, with other choices among pairs that cost the same.

    Args:
        cost: (Q, T), at least as many queries as objects.

    Returns:
        Four totals, which may all be the same.
    """
    orders = (cost, cost.flip(0), cost.flip(1), cost.flip(0, 1))  # the first of equals differs
    return [total_cost(each, assign_cheapest_pair_first(each)) for each in orders]


def greedy_ratio(queries, objects) -> float:
    """How many times as much as the best matching the cheapest pair first costs, on a line.

    Args:
        queries: (n,) positions on a line.
        objects: (n,), likewise.

    Returns:
        The quotient of `greedy_totals`; 1 if both are zero.
    """
    greedy, lowest = greedy_totals(queries, objects)
    return greedy / lowest if greedy > lowest else 1.0
