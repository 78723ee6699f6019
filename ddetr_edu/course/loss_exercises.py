"""The exercises of lesson 09: the assignment of queries to objects, and the focal loss."""

import math

import torch
from scipy.optimize import linear_sum_assignment

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.mistakes import assign_cheapest_pair_first, assign_in_order, focal_loss_with


def _cost(seed: int) -> tuple:
    # Few queries for many objects, so that several objects compete for their cheapest query.
    n_queries, n_objects = ((7, 5), (11, 7), (5, 5), (13, 3), (6, 4))[seed]
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(n_queries, n_objects, generator=generator, dtype=torch.float64)
    cost[seed % n_queries] -= 0.8  # one query is the cheapest for every object
    return (cost,)


assign = Exercise(
    solutions.assign,
    _cost,
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
        "the total was maximised; these are costs": lambda cost: solutions.assign(-cost),
    },
)


def _logits(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 11, 5, generator=generator, dtype=torch.float64) * 2
    is_object = torch.rand(3, 11, 5, generator=generator) < 0.1
    return logits, is_object, int(is_object.sum()) + seed + 2


focal_loss = Exercise(
    solutions.focal_loss,
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
