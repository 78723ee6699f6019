"""The figure about rival queries draws their scores as given."""

import numpy as np

from ddetr_edu.viz import plot_score_by_layer


def test_each_query_has_a_line_from_its_proposal_to_the_last_layer():
    scores = {"with": [[0.7, 0.3], [0.6, 0.5], [0.8, 0.2]], "without": np.full((4, 3), 0.5)}
    figure, drawn = plot_score_by_layer(scores)
    np.testing.assert_allclose(drawn["with"], scores["with"])
    first, second = figure.axes
    lines = [line for line in first.lines if line.get_marker() == "o"]
    assert len(lines) == 2
    np.testing.assert_allclose(lines[1].get_ydata(), [0.3, 0.5, 0.2])
    assert list(lines[0].get_xdata()) == ["proposal", "0", "1"]
    assert first.get_title() == "with: 1 of 2 above 0.5"
    assert second.get_title() == "without: 3 of 3 above 0.5"
