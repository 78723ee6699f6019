"""The matching of one picture, for both models: the numbers are those that training sees."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert

from ddetr_edu.detector import (
    DETR,
    DeformableDETR,
    DeformableDETRConfig,
    DETRConfig,
    PictureSize,
    make_batch,
)
from ddetr_edu.matched import look_at_matching
from ddetr_edu.training import Detector, LossWeights, detection_losses, layer_losses
from ddetr_edu.training.matching import DETR_WEIGHTS

CATEGORIES = {3: "cat", 7: "dog", 90: "brush"}
SMALL = dict(num_classes=3, d_model=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=3,
             d_ffn=11, n_queries=13)  # fmt: skip
TARGET = {"boxes": torch.tensor([[3.0, 5, 41, 30], [50, 20, 90, 60]]),
          "labels": torch.tensor([90, 3])}  # fmt: skip


@pytest.fixture(params=["tiny", "tiny_two_stage", "detr_tiny"])
def detector(request):
    torch.manual_seed(0)
    if request.param == "detr_tiny":
        model = DETR(DETRConfig.preset("detr_tiny", **SMALL))
    else:
        model = DeformableDETR(DeformableDETRConfig.preset(request.param, **SMALL))
    return Detector(model, CATEGORIES, PictureSize(64, 128))


@pytest.fixture
def picture():
    return torch.rand(3, 71, 103, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_costs_and_assignment_are_those_of_training(detector, picture):
    seen = look_at_matching(detector, picture, TARGET)
    assert not detector.training and seen.names == ["brush", "cat"]
    assert seen.boxes.shape == (3, 13, 4) and seen.cost.shape == (3, 13, 2)
    for cost, queries in zip(seen.cost, seen.queries, strict=True):
        rows, columns = linear_sum_assignment(cost)
        assert dict(zip(columns, rows, strict=True)) == dict(enumerate(queries.tolist()))

    # The losses of training, taken over this assignment, are those that training itself finds.
    predictions = detector.model(*make_batch([picture], detector.size))
    scale = torch.tensor([103, 71, 103, 71])
    target = {"labels": torch.tensor([2, 0]),
              "boxes": box_convert(TARGET["boxes"] / scale, "xyxy", "cxcywh")}  # fmt: skip
    weights = DETR_WEIGHTS if predictions.no_object else LossWeights()
    expected = detection_losses(predictions, [target])
    suffixes = ["_layer0", "_layer1", ""]
    for n, layer in enumerate([*predictions.aux, predictions]):
        in_pixels = box_convert(layer.boxes[0], "cxcywh", "xyxy") * scale
        torch.testing.assert_close(seen.boxes[n], in_pixels)
        pairs = [(seen.queries[n], torch.arange(2))]
        losses = layer_losses(layer.logits, layer.boxes, [target], pairs, weights)
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[f"loss_{name}{suffixes[n]}"])


def test_one_call_each_draws_it(detector, picture):
    seen = look_at_matching(detector, picture, TARGET)
    figure, drawn = seen.lines(layer=1)
    matched = seen.boxes[1][seen.queries[1]]
    centres = torch.stack([matched, TARGET["boxes"]], dim=1).unflatten(-1, (2, 2)).mean(-2)
    lines = {tuple(line[1]): line[0] for line in drawn["lines"]}
    for of_query, of_object in centres.numpy():
        assert lines[tuple(of_object)] == pytest.approx(of_query, abs=1e-4)
    assert "after decoder layer 1" in figure.axes[0].get_title()
    _, drawn = seen.by_layer()
    assert (torch.from_numpy(drawn["queries"]) == seen.queries).all()


def test_more_objects_than_queries_leave_some_without(picture):
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset("tiny", **{**SMALL, "n_queries": 1})
    detector = Detector(DeformableDETR(config), CATEGORIES, PictureSize(64, 128))
    seen = look_at_matching(detector, picture, TARGET)
    assert sorted(seen.queries[0].tolist()) == [-1, 0]
    _, drawn = seen.lines()
    assert drawn["lines"].shape == (1, 2, 2)
    seen.by_layer()


def test_a_target_that_cannot_be_matched_is_refused(detector, picture):
    with pytest.raises(ValueError, match="no object"):
        look_at_matching(detector, picture, {"boxes": [], "labels": []})
    with pytest.raises(ValueError, match="label 5"):
        look_at_matching(detector, picture, {**TARGET, "labels": torch.tensor([5, 3])})
