"""How much a matching changes, and how easily: numbers by hand, and by trying all assignments."""

import itertools

import pytest
import torch

from ddetr_edu.losses.instability import instability, matching_margins, queries_of_objects


def test_each_object_gets_its_query_and_others_get_none():
    indices = [
        (torch.tensor([2, 5]), torch.tensor([1, 0])),
        (torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64)),
        (torch.tensor([0, 4]), torch.tensor([2, 0])),  # more objects than queries
    ]
    assert queries_of_objects(indices, [2, 0, 3]).tolist() == [5, 2, 4, -1, 0]


def test_the_share_that_changed():
    queries = torch.tensor([[7, 2, 4, -1], [7, 4, 2, -1], [7, 4, 2, 9], [7, -1, 2, 9]])
    assert instability(queries).tolist() == [0.5, 0.25, 0.25]
    assert instability(queries[:1]).shape == (0,)


@pytest.mark.parametrize("n_queries, n_objects", [(4, 3), (6, 2), (5, 4), (2, 1)])
def test_margins_by_trying_all_assignments(n_queries, n_objects):
    generator = torch.Generator().manual_seed(n_queries)
    cost = torch.randn(n_queries, n_objects, generator=generator, dtype=torch.float64)
    totals = {
        chosen: sum(cost[q, t].item() for t, q in enumerate(chosen))
        for chosen in itertools.permutations(range(n_queries), n_objects)
    }
    best = min(totals, key=totals.get)
    expected = [
        min(total for chosen, total in totals.items() if chosen[t] != best[t]) - totals[best]
        for t in range(n_objects)
    ]
    torch.testing.assert_close(matching_margins(cost), torch.tensor(expected, dtype=torch.float64))


def test_a_margin_can_be_that_of_a_swap():
    cost = torch.tensor([[1.0, 2], [2, 1], [9, 9]])
    assert matching_margins(cost).tolist() == [2, 2]  # both, together


def test_a_query_must_be_left_over():
    with pytest.raises(ValueError, match="3 queries for 3 objects"):
        matching_margins(torch.zeros(3, 3))
