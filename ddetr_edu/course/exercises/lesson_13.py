"""The exercises of lesson 13 about the matching: how much it changes, and the mask of denoising.

That about the logs of four training runs is in `lesson_13_runs`.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.losses.denoising import Denoising
from ddetr_edu.losses.instability import instability as instability_of_the_library
from ddetr_edu.models.queries import add_extra


def my_instability(queries):
    """queries (E, T) of T objects, matched E times, -1 for none -> shares that changed (E - 1,)"""
    changed = queries[1:] != queries[:-1]  # (E - 1, T)
    return changed.double().mean(dim=1)


def my_denoising_mask(n_queries, counts, n_groups):
    """(Lq, [objects of each image], groups) -> mask (N, Lq + E, Lq + E), True = blocked"""
    size = max(counts)  # of a group, so E = n_groups * size
    own = torch.full((n_queries,), -1)  # the model's own queries are group -1
    group = torch.cat([own, torch.arange(n_groups).repeat_interleave(size)])  # (Lq + E,)
    blocked = (group != group[:, None]) & (group != -1)  # all may attend to group -1
    mask = blocked.repeat(len(counts), 1, 1)
    object_index = torch.arange(n_groups * size) % size
    for n, count in enumerate(counts):
        mask[n, :, n_queries:] |= object_index >= count  # padding
    return mask


def changed_by(is_changed: Callable) -> Callable:
    """Shares of changes by a rule of one's own.

    Args:
        is_changed: A function (before (E - 1, T), after (E - 1, T)) -> (E - 1, T) bool.

    Returns:
        A function (queries) -> (E - 1,).
    """
    return lambda queries: is_changed(queries[:-1], queries[1:]).double().mean(1)


def _new_queries(queries: Tensor) -> Tensor:
    """The share of the queries that no object had the time before: a swap of two is no change."""
    before, after = queries[:-1], queries[1:]
    return (after[:, :, None] != before[:, None]).all(-1).double().mean(1)


def _new_in_the_set(queries: Tensor) -> Tensor:
    """The number of different queries that are new, for each object."""
    sets = [set(row.tolist()) for row in queries]
    new = [len(after - before) for before, after in itertools.pairwise(sets)]
    return torch.tensor(new, dtype=torch.float64) / queries.shape[1]


def _of_those_with_a_query(queries: Tensor) -> Tensor:
    """The share of the objects that have a query both times."""
    both = (queries[:-1] >= 0) & (queries[1:] >= 0)
    return ((queries[1:] != queries[:-1]) & both).sum(1) / both.sum(1)


def _matchings() -> Cases:
    random = torch.Generator().manual_seed(0)
    matchings = {
        "four objects, three times": [[7, 2, 4, 9], [7, 4, 2, 9], [7, 4, 2, 0]],
        "nothing changes": [[3, 0]] * 5,
        "two objects swap their queries": [[8, 1, 5, 6, 3], [8, 6, 5, 1, 3]],
        "everything changes": [[0, 1, 2], [1, 2, 0], [3, 4, 5], [4, 5, 3]],
        "one object": [[4], [4], [2], [2], [2], [6], [2]],
        "back to the first query": [[1, 7, 5, 0, 2, 8], [3, 7, 4, 0, 2, 8], [1, 7, 5, 0, 2, 8]],
        "objects without a query": [
            [-1, 5, 3, 0, -1, 2, 8],
            [-1, 5, -1, 0, -1, 2, 8],
            [3, 5, -1, 0, -1, 2, 8],
            [3, 5, -1, -1, -1, -1, 2],
            [3, 5, -1, -1, -1, -1, 2],
            [3, 5, 8, 0, 1, 4, 2],
        ],
        "many changes": torch.randint(4, (9, 8), generator=random).tolist(),
    }
    return {name: (torch.tensor(queries),) for name, queries in matchings.items()}


instability = Exercise(
    my_instability,
    _matchings,
    {
        "this is the share of the objects that kept their query": changed_by(
            lambda before, after: before == after
        ),
        "these are numbers of objects; divide them by the number of objects": (
            lambda queries: my_instability(queries) * queries.shape[1]
        ),
        "the numbers of changes were divided by the number of times, not of objects": (
            lambda queries: my_instability(queries) * queries.shape[1] / len(queries)
        ),
        "each matching was compared with the first one, not with the one before it": (
            lambda queries: (queries[1:] != queries[:1]).double().mean(1)
        ),
        "each matching was compared with the last one, not with the one before it": (
            lambda queries: (queries[:-1] != queries[-1:]).double().mean(1)
        ),
        "only queries that are new were counted; two objects that swap theirs change both": (
            _new_queries
        ),
        "queries were compared as sets, in which a swap of two cannot be seen": _new_in_the_set,
        "changes from and to -1 were left out; losing the query and getting one are changes": (
            changed_by(lambda before, after: (before != after) & (before >= 0) & (after >= 0))
        ),
        "objects without a query were left out; the share is one of all objects": (
            _of_those_with_a_query
        ),
        "losing the query, from a number to -1, was left out; it is a change": changed_by(
            lambda before, after: (before != after) & (after >= 0)
        ),
        "getting a query, from -1 to a number, was left out; it is a change": changed_by(
            lambda before, after: (before != after) & (before >= 0)
        ),
        "an object that has no query both times was counted; it has not changed": changed_by(
            lambda before, after: (before != after) | (after < 0)
        ),
        "an object has a share here; a share is one of objects, for each time": (
            lambda queries: (queries[1:] != queries[:-1]).double().mean(0)
        ),
        "all times were averaged; return a share for each time but the first": (
            lambda queries: my_instability(queries).mean()
        ),
        "the result has an entry for the first time, too, which has no time before it": (
            lambda queries: my_instability(torch.cat([queries[:1], queries]))
        ),
    },
    library=(instability_of_the_library,),
)


def mask_by(is_blocked: Callable, interleaved: bool = False) -> Callable:
    """Masks by a rule of one's own.

    Args:
        is_blocked: A function (row, column) -> bool (Lq + E, Lq + E), each a dictionary of
            broadcastable tensors: "own" and "padding" (bool), "group" and "object" (int), and
            "index".
        interleaved: Whether the copies of an object follow each other, instead of the groups.

    Returns:
        A function (n_queries, counts, n_groups) -> mask.
    """

    def mask(n_queries, counts, n_groups):
        size = max(counts)
        group, object_ = torch.meshgrid(torch.arange(n_groups), torch.arange(size), indexing="ij")
        if interleaved:
            group, object_ = group.T, object_.T
        own = torch.full((n_queries,), -1)
        group, object_ = torch.cat([own, group.flatten()]), torch.cat([own, object_.flatten()])
        index = torch.arange(len(group))
        of_images = []
        for count in counts:
            facts = {
                "own": group < 0,
                "padding": object_ >= count,
                "group": group,
                "object": object_,
                "index": index,
            }
            row = {name: values[:, None] for name, values in facts.items()}
            column = {name: values[None] for name, values in facts.items()}
            blocked = is_blocked(row, column)
            of_images.append(blocked.expand(len(group), len(group)))
        return torch.stack(of_images)

    return mask


def _right(row: dict, column: dict) -> Tensor:
    return ~column["own"] & ((row["group"] != column["group"]) | column["padding"])


def _own_last(n_queries, counts, n_groups):
    """The denoising queries come first."""
    mask = my_denoising_mask(n_queries, counts, n_groups)
    return mask.roll((-n_queries, -n_queries), (1, 2))


def _groups_of_own_size(n_queries, counts, n_groups):
    """Each image has groups of as many places as it has objects."""
    mask = torch.ones_like(my_denoising_mask(n_queries, counts, n_groups))
    mask[:, :, :n_queries] = False
    for n, count in enumerate(counts):
        for start in range(n_queries, n_queries + n_groups * count, max(1, count)):
            mask[n, start : start + count, start : start + count] = False
    return mask


def _padding_at_the_end(n_queries, counts, n_groups):
    """All padding of an image follows the copies of its objects."""
    mask = my_denoising_mask(n_queries, [max(counts)] * len(counts), n_groups)
    for n, count in enumerate(counts):
        mask[n, :, n_queries + n_groups * count :] = True
    return mask


def _objects() -> Cases:
    return {
        "one image, one group": (5, [3], 1),
        "one image, two groups": (4, [3], 2),
        "two images, one has padding": (6, [4, 1], 3),
        "one own query": (1, [2, 5], 3),
        "an image without objects": (7, [2, 0, 1], 4),
        "an object in each image": (8, [1, 1, 1], 4),
        "no padding": (9, [2, 2, 2, 2], 3),
        "many groups": (2, [3], 7),
        "the largest image comes last": (3, [1, 2, 6], 2),
    }


denoising_mask = Exercise(
    my_denoising_mask,
    _objects,
    {
        "True and False are the wrong way round: True is blocked": mask_by(
            lambda row, column: ~_right(row, column)
        ),
        "the model's own queries attend to the denoising ones; they would read the answers": (
            mask_by(lambda row, column: _right(row, column) & ~row["own"])
        ),
        "rows and columns are swapped: the query of the row attends to that of the column": (
            lambda *arguments: my_denoising_mask(*arguments).transpose(1, 2)
        ),
        "the groups attend to each other; two copies of an object know more than one": mask_by(
            lambda row, column: ~column["own"] & (row["own"] | column["padding"])
        ),
        "the denoising queries do not attend to the model's own; they may": mask_by(
            lambda row, column: _right(row, column) | (column["own"] & ~row["own"])
        ),
        "the padding is not blocked": mask_by(
            lambda row, column: ~column["own"] & (row["group"] != column["group"])
        ),
        "the rows of the padding are blocked, not its columns: nobody may attend to it": mask_by(
            lambda row, column: ~column["own"] & (row["group"] != column["group"]) | row["padding"]
        ),
        "both the rows and the columns of the padding are blocked; only nobody may attend to it": (
            mask_by(lambda row, column: _right(row, column) | row["padding"])
        ),
        "padding does not attend to its own group; it may, as if it stood for an object": mask_by(
            lambda row, column: _right(row, column) | (row["padding"] & ~column["own"])
        ),
        "the copies of an object follow each other; a group follows another, each with all objects"
        "": mask_by(_right, interleaved=True),
        "a denoising query attends only to itself; it may attend to all of its group": mask_by(
            lambda row, column: (
                _right(row, column) | ~column["own"] & (row["index"] != column["index"])
            )
        ),
        "a denoising query attends to the copies of its object in all groups, not to its group": (
            mask_by(
                lambda row, column: (
                    ~column["own"] & ((row["object"] != column["object"]) | column["padding"])
                )
            )
        ),
        "a padding query attends to itself; its whole column is blocked": mask_by(
            lambda row, column: _right(row, column) & (row["index"] != column["index"])
        ),
        "the denoising queries come first; they follow the model's own": _own_last,
        "the groups of an image are as long as it has objects; they must be as long as those of the"
        " fullest image": _groups_of_own_size,
        "the padding is at the end of the row; each group has padding of its own": (
            _padding_at_the_end
        ),
    },
    library=(Denoising, add_extra),
)
