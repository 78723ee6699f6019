"""The figures of lesson 07 return the numbers they drew."""

import numpy as np
import pytest
import torch

from ddetr_edu.models.position import sine_position
from ddetr_edu.viz import plot_level_shares, plot_position_similarity


def test_similarity_is_the_cosine_of_the_angle():
    embedding = sine_position(torch.zeros(1, 5, 7, dtype=torch.bool), d_model=8)[0]
    tokens = [(1, 2), (4, 6), (0, 3)]
    figure, drawn = plot_position_similarity({"a": embedding, "b": 3 * embedding}, tokens, "title")
    assert drawn["a"].shape == (3, 5, 7)
    np.testing.assert_allclose(drawn["a"], drawn["b"], atol=1e-6)  # length does not matter
    for k, (row, column) in enumerate(tokens):
        assert drawn["a"][k, row, column] == pytest.approx(1, abs=1e-6)
        cosine = torch.nn.functional.cosine_similarity(
            embedding[:, row, column], embedding[:, 2, 5], dim=0
        )
        assert drawn["a"][k, 2, 5] == pytest.approx(float(cosine), abs=1e-6)
    panels = figure.axes[:6]
    assert [panel.get_title() for panel in panels[3:5]] == [
        "b\ntoken in row 1, column 2",
        "b\ntoken in row 4, column 6",
    ]
    crosses = [panel.lines[0].get_xydata()[0].tolist() for panel in panels[:3]]
    assert crosses == [[2, 1], [6, 4], [3, 0]]  # x before y
    with pytest.raises(ValueError, match="pick an image of the batch first"):
        plot_position_similarity({"a": embedding[None]}, tokens)
    with pytest.raises(ValueError, match="row 5, column 0 of a map of 5 rows and 7 columns"):
        plot_position_similarity({"a": embedding}, [(5, 0)])


def test_level_shares_are_means_over_ranges_of_size():
    sides = np.array([5.0, 16, 40, 12, 90, 100])
    shares = np.array([[1.0, 0], [0.5, 0.5], [0, 1], [0, 1], [0.25, 0.75], [0.75, 0.25]])
    figure, drawn = plot_level_shares(sides, {"left": shares, "right": shares[:, ::-1]}, (16, 32))
    np.testing.assert_array_equal(drawn["counts"], [2, 1, 3])  # 16 belongs to the second
    np.testing.assert_allclose(drawn["left"], [[0.5, 0.5], [0.5, 0.5], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(drawn["right"], drawn["left"][:, ::-1])
    left, right = figure.axes
    tops = [bar.get_y() + bar.get_height() for bar in left.patches]
    np.testing.assert_allclose(tops, [*drawn["left"][:, 0], 1, 1, 1])  # level 1 on top of level 0
    labels = [text.get_text() for text in right.get_xticklabels()]
    assert labels == ["< 16", "16-32", "≥ 32"]
    _, drawn = plot_level_shares(sides, {"left": shares}, (200, 300))
    np.testing.assert_array_equal(drawn["counts"], [6])  # ranges without an object are left out
    with pytest.raises(ValueError, match="at least one object"):
        plot_level_shares([], {"left": shares[:0]}, (16,))
    with pytest.raises(ValueError, match='the shares of "left"'):
        plot_level_shares(sides, {"left": shares[1:]}, (16,))
