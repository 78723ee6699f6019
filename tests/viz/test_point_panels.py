"""Panels of sampling points: all points are drawn, and only what is near if that is asked for."""

import numpy as np
import pytest
import torch

from ddetr_edu.viz import plot_point_panels


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(0)
    locations = torch.rand(2, 3, 4, 2, generator=generator)
    return {"A": (locations, torch.rand(2, 3, 4, generator=generator))}


def test_locations_become_pixels_of_the_image(points):
    locations, weights = points["A"]
    image = np.zeros((50, 80, 3), np.uint8)
    figure, drawn = plot_point_panels(image, (0.5, 0.2), {"A": (locations, weights)})
    np.testing.assert_allclose(drawn["A"], locations.reshape(-1, 2) * torch.tensor([80, 50]))
    (panel,) = figure.axes
    assert sorted(panel.get_xlim()) == pytest.approx([0, 80], abs=0.5)


def test_reach_is_a_window_around_the_reference_point(points):
    image = np.zeros((50, 80, 3), np.uint8)
    panels = {"A": points["A"], "B": points["A"]}
    figure, _ = plot_point_panels(image, torch.tensor([0.5, 0.2, 0.1, 0.3]), panels, reach=6)
    for panel in figure.axes:
        assert panel.get_xlim() == pytest.approx((34, 46))
        assert panel.get_ylim() == pytest.approx((16, 4)), "y points down"
