"""The exercises of lesson 09: the assignment of queries to objects, and the focal loss."""

import math
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise


def my_assign(cost):
    """cost (Q, T) -> the query of each object, (T,)"""
    queries, objects = linear_sum_assignment(cost)
    order = objects.argsort()
    return torch.as_tensor(queries[order])


def my_focal_loss(logits, is_object, num_boxes):
    """(logits, is_object, num_boxes) -> a number"""
    prob = logits.sigmoid()
    pos_loss = -0.25 * (1 - prob) ** 2 * torch.log(prob)
    neg_loss = -0.75 * prob**2 * torch.log(1 - prob)
    return torch.where(is_object, pos_loss, neg_loss).sum() / num_boxes


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


def _costs() -> Cases:
    # Small enough for an answer that tries all assignments. Each has a single best one.
    generator = torch.Generator().manual_seed(0)

    def random(queries: int, objects: int) -> torch.Tensor:
        return torch.rand(queries, objects, generator=generator, dtype=torch.float64)

    contested, second = random(7, 5), random(6, 4)
    contested[2] -= 0.8  # one query is the cheapest for every object
    second[5] -= 0.8
    blocked = torch.tensor([[0.1, 0.2], [0.3, 0.9], [0.8, 0.95]], dtype=torch.float64)
    return {
        "the cheapest pair blocks the best assignment": (blocked,),
        "more queries than objects": (random(9, 3),),
        "several objects compete for one query": (contested,),
        "several objects compete for the last query": (second,),
        "as many objects as queries": (random(5, 5),),
        "one object": (random(6, 1),),
        "many queries, two objects": (random(13, 2),),
        "negative costs, as with GIoU": (random(8, 3) - 2,),
        "large costs": (random(5, 4) * 1000,),
        "one object and one query": (random(1, 1),),
    }


assign = Exercise(
    my_assign,
    _costs,
    {
        "each object took its cheapest query; one query may then serve several objects": (
            lambda cost: cost.argmin(0)
        ),
        "the cheapest pair was taken first each time; a lower total exists": (
            assign_cheapest_pair_first
        ),
        "the objects chose in turn; a lower total exists": assign_in_order,
        "the queries are in scipy's order; that of object 0 comes first": (
            lambda cost: linear_sum_assignment(cost)[0]
        ),
        "these are the objects; return the queries": lambda cost: linear_sum_assignment(cost)[1],
        "the total was maximised; these are costs": lambda cost: my_assign(-cost),
    },
)


def _logits() -> Cases:
    sizes: dict[str, tuple] = {  # shape, share of objects, num_boxes
        "a single logit": ((1, 1), 1.0, 1),
        "two images of one query and two classes": ((2, 1, 2), 0.5, 3),
        "images, queries and classes": ((3, 11, 5), 0.1, 23),
        "one axis": ((7,), 0.5, 4),
        "two axes": ((13, 2), 0.3, 3),
        "four axes": ((2, 3, 5, 7), 0.2, 50),
        "no objects": ((2, 9, 4), 0.0, 1),
        "objects only": ((5, 3), 1.0, 15),
        "num_boxes is not whole, as a mean over processes": ((4, 6, 3), 0.2, 2.5),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, share, num_boxes) in sizes.items():
        logits = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
        is_object = torch.rand(*shape, generator=generator) < share
        # Moderate ones: 1 - prob of a large logit has few digits left in fp32.
        cases[name] = logits.clamp(-5, 5), is_object, num_boxes
    return cases


focal_loss = Exercise(
    my_focal_loss,
    _logits,
    {
        "alpha is on the wrong side: 0.25 belongs to the objects": focal_loss_with(alpha=0.75),
        "gamma is missing: easy predictions must count less": focal_loss_with(gamma=0),
        "gamma is 1; it should be 2": focal_loss_with(gamma=1),
        "alpha is missing: 0.25 for objects, 0.75 for the rest": lambda logits, o, n: (
            2 * focal_loss_with(alpha=0.5)(logits, o, n)
        ),
        "the minus sign is missing": lambda logits, o, n: -focal_loss_with()(logits, o, n),
        "prob and 1 - prob are swapped in the factors: a confident prediction must count less": (
            focal_loss_with(mirrored=True)
        ),
        "alpha and gamma are both missing: this is plain cross entropy": lambda logits, o, n: (
            2 * focal_loss_with(alpha=0.5, gamma=0)(logits, o, n)
        ),
        "the sum was divided by the number of positives; divide by num_boxes": (
            lambda logits, o, n: focal_loss_with()(logits, o, int(o.sum()))
        ),
        "the mean over all entries was taken; divide the sum by num_boxes": (
            lambda logits, o, n: focal_loss_with(divide=False)(logits, o, n) / logits.numel()
        ),
        "the sum was not divided by num_boxes": focal_loss_with(divide=False),
        "only the objects were counted; the rest must learn to predict background": (
            lambda logits, o, n: focal_loss_with()(
                torch.where(o, logits, -math.inf).clamp(min=-1e4), o, n
            )
        ),
    },
)
