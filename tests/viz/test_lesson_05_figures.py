"""The figures of lesson 05: weights in per cent, effective points, the points of each head."""

import numpy as np
import pytest
import torch

from ddetr_edu.viz import plot_effective_points, plot_head_points, plot_weights
from ddetr_edu.viz.head_points import LARGEST

LQ, M, L, P = 2, 3, 4, 5


def test_weights_are_written_in_per_cent_if_there_is_room():
    weights = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0)).softmax(-1) / 2
    figure, _ = plot_weights(weights)
    written = [int(text.get_text()) for text in figure.axes[0].texts]
    np.testing.assert_array_equal(written, (100 * weights.flatten()).round().int())
    figure, _ = plot_weights(torch.full((2, 4, 8), 1 / 32))
    assert not figure.axes[0].texts


def test_a_head_is_a_row_with_its_mean_and_its_quantiles():
    generator = np.random.default_rng(0)
    effective = {
        "encoder 0": 1 + 11 * generator.random((41, 2)),
        "decoder 1": 1 + 3 * generator.random((7, 3)),
    }
    figure, drawn = plot_effective_points(effective, n_points=12)
    for name, values in effective.items():
        np.testing.assert_allclose(drawn[name], values.mean(0))
    assert drawn["quantiles"].shape == (5, 4)
    np.testing.assert_allclose(
        drawn["quantiles"][2], np.quantile(effective["decoder 1"][:, 0], (0.1, 0.25, 0.75, 0.9))
    )
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["encoder 0, head 0", "head 1", "decoder 1, head 0", "head 1", "head 2"]
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the first row is at the top"
    assert figure.axes[0].get_xlim()[1] > 12


@pytest.mark.parametrize(
    "values, words", [(np.ones(5), r"shape \(5,\)"), (np.full((2, 3), 13.0), "from 13 to 13")]
)
def test_what_is_no_effective_number_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        plot_effective_points({"encoder 0": values}, n_points=12)


def test_each_head_has_a_panel_with_all_of_its_points():
    generator = torch.Generator().manual_seed(0)
    locations = torch.rand(LQ, M, L, P, 2, generator=generator)
    locations[0, 1, 2, 3] = torch.tensor([0.5, -0.4])  # outside: still drawn
    weights = torch.rand(LQ, M, L, P, generator=generator)
    weights[0, 0, 0, 0] = 1
    figure, drawn = plot_head_points(locations, weights, torch.rand(LQ, 2), (6, 9))
    assert len(figure.axes) == M
    for head, axis in enumerate(figure.axes):
        offsets = np.concatenate([c.get_offsets() for c in axis.collections])
        np.testing.assert_allclose(offsets, locations[:, head].reshape(-1, 2), rtol=1e-6)
        bottom, top = axis.get_ylim()
        assert bottom > top, "y points down"
        assert top < -0.4
        assert axis.get_aspect() == pytest.approx(6 / 9)
    assert drawn["areas"].max() == pytest.approx(LARGEST)
    order = drawn["areas"].ravel().argsort()
    assert (weights.flatten()[order].diff() >= 0).all()
    with pytest.raises(ValueError, match="pick an image first"):
        plot_head_points(locations[None], weights[None], torch.rand(LQ, 2), (6, 9))
