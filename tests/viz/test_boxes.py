"""Boxes over an image, and the kinds of image that can be drawn on."""

import numpy as np
import PIL.Image
import pytest
import torch

from ddetr_edu.viz import plot_boxes
from ddetr_edu.viz.style import COLOURS, as_image_array

BOXES = [[2.0, 3.0, 20.0, 11.0], [5.0, 0.5, 30.0, 12.0], [7.0, 1.0, 9.0, 2.0]]


def rectangles(figure):
    (axis,) = figure.axes
    return [[*p.get_xy(), p.get_width(), p.get_height()] for p in axis.patches]


def texts(figure):
    (axis,) = figure.axes
    return [text.get_text() for text in axis.texts]


def test_boxes_names_and_scores(image, tmp_path):
    figure, drawn = plot_boxes(
        image,
        torch.tensor(BOXES).requires_grad_(),
        torch.tensor([7, 90, 8]),
        torch.tensor([0.912, 0.5, 0.071]),
        {7: "cat", 90: "toothbrush"},
        title="three",
    )
    assert list(drawn["texts"]) == ["cat 0.91", "toothbrush 0.50", "8 0.07"] == texts(figure)
    np.testing.assert_array_equal(drawn["boxes"], BOXES)
    drawn_boxes = rectangles(figure)
    assert drawn_boxes[::2] == drawn_boxes[1::2]  # a white edge under each colour
    assert drawn_boxes[::2] == [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in BOXES]
    (axis,) = figure.axes
    assert axis.get_xlim() == (0, 31) and axis.get_ylim() == (13, 0)
    assert axis.images[0].get_extent() == [0, 31, 13, 0] and axis.get_title() == "three"
    figure.savefig(tmp_path / "a.png")


def test_boxes_alone_have_no_text(image):
    figure, drawn = plot_boxes(image, BOXES, categories={0: "not this one"})
    assert list(drawn["texts"]) == ["", "", ""]
    _, drawn = plot_boxes(image, BOXES, scores=[0.25, 0.5, 1.0])
    assert list(drawn["texts"]) == ["0.25", "0.50", "1.00"]
    assert len(rectangles(figure)) == 6


def test_the_same_label_has_the_same_colour(image):
    figure, _ = plot_boxes(image, BOXES, [2, 3, 2 + len(COLOURS)])
    colours = [patch.get_edgecolor() for patch in figure.axes[0].patches[1::2]]
    assert colours[0] == colours[2] != colours[1]


@pytest.mark.parametrize("boxes", [[], torch.zeros(0, 4), np.zeros((0, 4))])
def test_without_boxes_the_image_is_drawn(image, boxes):
    figure, drawn = plot_boxes(image, boxes, [], [])
    assert drawn["boxes"].shape == (0, 4) and len(drawn["texts"]) == 0
    assert rectangles(figure) == [] and len(figure.axes[0].images) == 1


@pytest.mark.parametrize(
    "boxes, more, message",
    [
        (np.zeros((2, 5)), {}, r"shape \(2, 5\)"),
        (np.zeros(4), {}, r"shape \(4,\)"),
        (BOXES, dict(labels=[1, 2]), "3 boxes came with 2 labels"),
        (BOXES, dict(scores=[1] * 4), "3 boxes came with 4 scores"),
    ],
)
def test_what_does_not_fit_is_named(image, boxes, more, message):
    with pytest.raises(ValueError, match=message):
        plot_boxes(image, boxes, **more)


def test_every_kind_of_image_becomes_the_same_pixels(image):
    array = (image * 255).astype(np.uint8)
    expected = array / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for same in (array, expected, tensor, tensor / 255.0, PIL.Image.fromarray(array)):
        np.testing.assert_allclose(as_image_array(same), expected, atol=1e-6)
    palette = PIL.Image.fromarray(array).convert("P")
    np.testing.assert_allclose(as_image_array(palette), np.asarray(palette.convert("RGB")) / 255)
    assert as_image_array(PIL.Image.fromarray(array).convert("RGBA")).shape == (13, 31, 3)
    grey = as_image_array(PIL.Image.fromarray(array).convert("L"))
    assert grey.shape == (13, 31, 3) and (grey == grey[..., :1]).all()


@pytest.mark.parametrize("shape", [(5,), (5, 7, 2), (1, 3, 5, 7)])
def test_what_is_not_an_image_is_refused(shape):
    with pytest.raises(ValueError, match="cannot be drawn"):
        as_image_array(np.zeros(shape))
