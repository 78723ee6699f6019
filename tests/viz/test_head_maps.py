"""The figures of tokens, maps, samples and output show the numbers that they were given."""

import numpy as np
import pytest
import torch
from matplotlib.image import AxesImage

from ddetr_edu import viz

N, LQ, M, P = 2, 3, 5, 4
SHAPES = [(7, 6), (2, 3)]
S = sum(h * w for h, w in SHAPES)


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    value = rng.random((N, S, M, 3))
    locations = rng.uniform(-0.2, 1.2, (N, LQ, M, len(SHAPES), P, 2))
    samples = rng.random((N, LQ, M, len(SHAPES), P, 3))
    return value, SHAPES, locations, samples, rng.random((N, LQ, M * 3))


def test_every_image_and_head_has_a_map_on_every_level(tensors):
    value, _, locations, samples, output = tensors
    figure, drawn = viz.plot_head_maps(*tensors)
    starts = (0, 42)
    for n, m, level in np.ndindex(N, M, len(SHAPES)):
        k, (height, width) = n * M + m, SHAPES[level]
        for row, column in np.ndindex(height, width):
            token = value[n, starts[level] + row * width + column, m]
            np.testing.assert_array_equal(drawn["maps"][level][k, row, column], token)
        for q, p in np.ndindex(LQ, P):
            np.testing.assert_array_equal(
                drawn["samples"][level][k, q, p], samples[n, q, m, level, p]
            )
            np.testing.assert_allclose(
                drawn["points"][level][k, q, p], locations[n, q, m, level, p] * (width, height)
            )
    for n, q, m in np.ndindex(N, LQ, M):
        colour = output[n, q, 3 * m : 3 * m + 3]
        np.testing.assert_array_equal(drawn["columns"][n, q, m], colour)


def test_what_is_returned_is_on_the_page(tensors):
    figure, drawn = viz.plot_head_maps(*tensors)
    shown = [np.asarray(image.get_array()) for axis in figure.axes for image in axis.images]
    expected = [*drawn["tokens"], *drawn["columns"]]
    for level in range(len(SHAPES)):
        expected += [*drawn["maps"][level], *drawn["samples"][level]]
    assert len(shown) == len(expected) == 2 * N + 2 * N * M * len(SHAPES)
    for colours in expected:
        assert any(s.shape == colours.shape and np.allclose(s, colours) for s in shown)
    titles = "\n".join(axis.get_title() for axis in figure.axes)
    for shape in ((N, S, M * 3), (N * M, 3, 7, 6), (N * M, 3, LQ, P), (N, LQ, M * 3)):
        assert str(shape) in titles


def test_what_does_not_fit_is_refused(tensors):
    value, shapes, *others = tensors
    with pytest.raises(ValueError, match="2 channels; it takes 3"):
        viz.plot_head_maps(value[..., :2], shapes, *others)
    with pytest.raises(ValueError, match="48 tokens"):
        viz.plot_head_maps(value, [(7, 6)], *others)


def test_rows_of_maps_have_their_names():
    rows = {
        "first": torch.rand(2, 3, 5, 3),
        "second": np.random.default_rng(0).random((4, 6, 2, 3)),
    }
    figure, drawn = viz.plot_maps(rows)
    assert [strip.get_suptitle() for strip in figure.subfigs] == ["first", "second"]
    images = [axis.images[0] for axis in figure.axes]
    assert all(isinstance(image, AxesImage) for image in images)
    assert [image.get_array().shape for image in images] == [(3, 5, 3)] * 2 + [(6, 2, 3)] * 4
    np.testing.assert_array_equal(drawn["first"], rows["first"])
