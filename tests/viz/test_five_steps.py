"""The figure of the five steps draws the pixels around each point, and what is read there."""

import numpy as np
import pytest

from ddetr_edu.course.exercises.lesson_00_colours import attend_to_colours
from ddetr_edu.data.scenes import draw_scene
from ddetr_edu.viz import plot_five_steps


@pytest.fixture(scope="module")
def steps():
    return attend_to_colours(draw_scene(seed=0, index=7).image, (16, 12), row=11, column=6, seed=13)


def test_the_four_pixels_and_the_point_among_them_give_the_colour_that_was_read(steps):
    _, drawn = plot_five_steps(*steps)
    (x, y), around = np.moveaxis(drawn["inside"], -1, 0), drawn["around"]
    assert drawn["inside"].min() >= 0 and drawn["inside"].max() < 1
    across = around[..., 0, :] * (1 - x)[..., None, None] + around[..., 1, :] * x[..., None, None]
    read = across[..., 0, :] * (1 - y)[..., None] + across[..., 1, :] * y[..., None]
    np.testing.assert_allclose(read, steps.samples, atol=1e-5)


def test_each_panel_is_a_step_and_points_are_pixels_of_the_map(steps):
    figure, drawn = plot_five_steps(*steps)
    assert [axis.get_title()[0] for axis in figure.axes] == list("OWLIA")
    centre = np.array([6.5, 11.5])  # of column 6 in row 11
    np.testing.assert_allclose(drawn["points"], centre + steps.offsets.numpy(), atol=1e-5)
    panels = dict(zip("OWLIA", figure.axes, strict=True))
    bars = [bar.get_width() for bar in panels["W"].patches]
    np.testing.assert_allclose(bars, steps.weights.flatten())
    summed = [image.get_array()[0, 0] for image in panels["A"].images[2::3]]
    np.testing.assert_allclose(summed, steps.output, atol=1e-6)


def test_black_is_drawn_outside_the_map():
    white = np.ones((2, 3, 3))
    locations = np.array([[[0.0, 0.5]]])  # half a pixel left of the first column's centre
    arguments = dict(offsets=np.zeros((1, 1, 2)), weights=np.ones((1, 1)), locations=locations)
    colours = dict(samples=np.full((1, 1, 3), 0.5), output=np.full((1, 3), 0.5))
    _, drawn = plot_five_steps(white, (0.5, 0.5), **arguments, **colours)
    assert drawn["around"][0, 0, :, 0].max() == 0 and drawn["around"][0, 0, :, 1].min() == 1


def test_a_map_without_colours_is_refused(steps):
    with pytest.raises(ValueError, match=r"value has shape \(16, 12, 1\)"):
        plot_five_steps(steps.value[..., :1], *steps[1:])
