"""The figures of single lessons return the numbers they drew, and notebooks can show them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddetr_edu.attention import bilinear_sample, initial_offsets
from ddetr_edu.viz import plot_between_pixels, plot_matching, plot_offsets, plot_weights


def test_offsets_are_drawn_as_given():
    star = initial_offsets(5, 2, 3)[:, 1]
    figure, drawn = plot_offsets(star)
    np.testing.assert_allclose(drawn, star)
    (axis,) = figure.axes
    assert axis.yaxis_inverted()  # y counts downwards, as in an image
    low, high = axis.get_xlim()
    assert low < star.min() and high > star.max()
    with pytest.raises(ValueError, match="pick a query and a level"):
        plot_offsets(initial_offsets(5, 2, 3))


def test_what_is_read_between_pixels_is_what_bilinear_sampling_reads():
    stored = torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=torch.float64)

    def read(x, y):
        x, y = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
        return bilinear_sample(stored[..., None], x, y)

    figure, drawn = plot_between_pixels(stored, read, [(0.5, 0.75)], steps=4)
    between = drawn["read"]
    assert between.shape == (12, 16)
    # Samples are a quarter of a pixel apart, starting half a pixel before the map.
    x = ((torch.arange(16) + 0.5) / 4 - 0.5) / 3
    y = ((torch.arange(12) + 0.5) / 4 - 0.5) / 2
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).double() * 2 - 1
    expected = F.grid_sample(stored[None, None], grid[None], align_corners=False)[0, 0]
    np.testing.assert_allclose(between, expected, atol=1e-6)
    # The axes count from pixel centre to pixel centre: here the point is at pixel (1, 1).
    for axis in figure.axes[:2]:
        np.testing.assert_array_equal(axis.lines[-1].get_xydata(), [[1, 1]])


def test_weights_are_laid_out_head_by_head():
    weights = torch.rand(5, 2, 3, generator=torch.manual_seed(0))
    figure, drawn = plot_weights(weights)
    np.testing.assert_allclose(drawn["weights"][4], weights[4].flatten())
    np.testing.assert_allclose(drawn["sums"], weights.sum((1, 2)), rtol=1e-6)
    assert len(figure.axes[0].get_yticklabels()) == 5
    with pytest.raises(ValueError, match="pick a query"):
        plot_weights(weights[0])


def test_matching_lines_go_from_query_to_object():
    boxes = np.array([[0, 0, 10, 10], [40, 20, 60, 50], [5, 5, 9, 9]], dtype=float)
    objects = np.array([[44, 22, 62, 52], [0, 2, 12, 12]], dtype=float)
    cost = np.arange(6.0).reshape(3, 2)
    image = np.zeros((70, 90, 3), np.uint8)
    _, drawn = plot_matching(image, boxes, objects, cost, queries=[0, 1], objects=[1, 0])
    np.testing.assert_allclose(drawn["lines"], [[[5, 5], [6, 7]], [[50, 35], [53, 37]]])
    np.testing.assert_allclose(drawn["cost"], cost)


def test_a_notebook_shows_the_figure():
    figure, _ = plot_weights(torch.rand(2, 2, 2))
    assert figure._repr_png_()[0].startswith(b"\x89PNG")
