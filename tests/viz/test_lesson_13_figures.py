"""The figures of lesson 13 draw matchings, masks and logs as given."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_match_history, plot_query_mask, plot_runs


def test_a_query_is_a_colour_and_a_change_is_another_one():
    queries = np.array([[7, 2, -1], [7, 3, -1], [2, 3, 7]])
    figure, drawn = plot_match_history((10, 20, 40), queries)
    np.testing.assert_allclose(drawn["changes"], [1 / 3, 2 / 3])
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[0].get_xydata(), [[1, 1 / 3], [2, 2 / 3]])
    colours = below.images[0].get_array()  # (T, E, 3)
    assert colours.shape == (3, 3, 3)
    kinds = {
        query: {tuple(colours[t, e]) for e, t in np.argwhere(queries == query)}
        for query in (7, 2, 3, -1)
    }
    assert all(len(found) == 1 for found in kinds.values())
    assert len(set.union(*kinds.values())) == 4
    assert [label.get_text() for label in below.get_xticklabels()] == ["10", "20", "40"]


def test_many_steps_have_ticks_at_round_ones():
    figure, _ = plot_match_history(range(20, 1001, 20), np.zeros((50, 3), dtype=int))
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == ["200", "400", "600", "800", "1000"]


def test_neighbouring_queries_have_different_colours():
    _, drawn = plot_match_history((1,), np.arange(60)[None])
    figure, _ = plot_match_history((1,), np.arange(60)[None])
    colours = figure.axes[1].images[0].get_array()[:, 0]
    distances = np.abs(colours[:, None] - colours).sum(-1) + 9 * np.eye(60)
    assert distances.min() > 0.02
    assert drawn["changes"].shape == (0,)


def test_as_many_steps_as_matchings():
    with pytest.raises(ValueError, match="3 matchings came with 2 steps"):
        plot_match_history((1, 2), np.zeros((3, 4)))


def test_allowed_cells_have_the_colour_of_their_column():
    mask = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=bool)
    figure, drawn = plot_query_mask(mask, {"own": 2, "denoising": 1}, padding=[0, 0, 1])
    np.testing.assert_array_equal(drawn["allowed"], ~mask)
    cells = figure.axes[0].images[0].get_array()
    own, extra, blocked = cells[0, 0], cells[2, 2], cells[0, 2]
    np.testing.assert_array_equal(cells[:, :2], np.broadcast_to(own, (3, 2, 3)))
    assert len({tuple(c) for c in (own, extra, blocked)}) == 3
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["own", "denoising"]
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert [(p.get_x(), p.get_width()) for p in hatched] == [(2, 1)]
    with pytest.raises(ValueError, match="the parts have 2 queries, but the mask has 3"):
        plot_query_mask(mask, {"own": 2})


def test_runs_are_drawn_from_their_logs():
    log = [
        {"step": 1, "loss": 9.0, "loss_label": 1.0, "loss_l1": 2.0, "loss_giou": 0.5},
        {"step": 5, "matched_queries": [1]},
        {"step": 10, "matched_queries": [2], "match_changes": 1.0},
        {"step": 10, "AP": 0.25},
    ]
    figure, drawn = plot_runs({"A": log, "B": log[:1]})
    np.testing.assert_allclose(drawn["loss"]["A"], [[1, 3.5]])
    np.testing.assert_allclose(drawn["changes"]["A"], [[10, 1]])
    np.testing.assert_allclose(drawn["AP"]["A"], [[10, 0.25]])
    assert drawn["AP"]["B"].shape == (0, 2)
    assert [line.get_label() for line in figure.axes[0].lines] == ["A", "B"]
