"""How much the matching changes: the share of objects that get another query, and how easily.

A query that is matched with another object than before is pulled towards another box, and what it
has learned about the former one is of little use. Lesson 13 is about this module.
"""

import numpy as np
import torch
from torch import Tensor


def queries_of_objects(indices: list[tuple[Tensor, Tensor]], counts: list[int]) -> Tensor:
    """The query of each object, the images one after another.

    Args:
        indices: For each image (queries, objects), from `match`.
        counts: The number of objects of each image.

    Returns:
        (T,) for the T objects of all images, on the CPU; -1 for an object without a query.
    """
    of_images = []
    for (queries, objects), count in zip(indices, counts, strict=True):
        of_image = torch.full((count,), -1)
        of_image[objects.cpu()] = queries.cpu()
        of_images.append(of_image)
    return torch.cat(of_images)


def instability(queries: Tensor) -> Tensor:
    """The share of the objects that have another query than the time before.

    Source: DN-DETR (arXiv 2203.01305), section 3, which counts changes instead of their share.

    Args:
        queries: (E, T), the queries of the same T objects, matched E times; -1 for none.

    Returns:
        (E - 1,), from 0 to 1.
    """
    return (queries[1:] != queries[:-1]).double().mean(dim=1)


def matching_margins(cost: Tensor) -> Tensor:
    """How much more a matching costs at least if an object may not have its query.

    An object whose margin is small changes its query as soon as costs change a little.

    Args:
        cost: (Q, T) with more queries than objects.

    Returns:
        (T,), 0 or more.

    Raises:
        ValueError: If there is no query left over.
    """
    from scipy.optimize import linear_sum_assignment  # as in matcher.py

    n_queries, n_objects = cost.shape
    if n_queries <= n_objects:
        raise ValueError(
            f"{n_queries} queries for {n_objects} objects: without a query left over, an object "
            "that may not have its own cannot always get another"
        )
    costs = cost.detach().cpu().double().numpy()
    queries, objects = linear_sum_assignment(costs)
    lowest = costs[queries, objects].sum()
    margins = torch.zeros(n_objects, dtype=torch.float64)
    for query, object_ in zip(queries, objects, strict=True):
        without = costs.copy()
        without[query, object_] = np.inf
        margins[object_] = without[linear_sum_assignment(without)].sum() - lowest
    return margins
