"""The matching of one image, for both models: the numbers are those of training."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert

from ddetr_edu.analysis.matching_trace import trace_matching
from ddetr_edu.detector import Detector
from ddetr_edu.losses.criterion import detection_losses, layer_losses
from ddetr_edu.losses.matcher import DETR_WEIGHTS, LossWeights
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.preprocessing import make_batch

CATEGORIES = {3: "cat", 7: "dog", 90: "brush"}
SMALL = dict(
    num_classes=3,
    d_model=32,
    n_heads=2,
    n_encoder_layers=1,
    n_decoder_layers=3,
    d_ffn=11,
    n_queries=13,
)
TARGET = {
    "boxes": torch.tensor([[3.0, 5, 41, 30], [50, 20, 90, 60]]),
    "labels": torch.tensor([90, 3]),
}


@pytest.fixture(params=["tiny", "tiny_two_stage", "detr_tiny"])
def detector(request):
    torch.manual_seed(0)
    if request.param == "detr_tiny":
        model = DETR(DETRConfig.preset("detr_tiny", **SMALL))
    else:
        model = DeformableDETR(DeformableDETRConfig.preset(request.param, **SMALL))
    return Detector(model, CATEGORIES, ResizeConfig(64, 128))


@pytest.fixture
def image():
    return torch.rand(3, 71, 103, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_costs_and_assignment_are_those_of_training(detector, image):
    trace = trace_matching(detector, image, TARGET)
    assert not detector.training and trace.names == ["brush", "cat"]
    assert trace.boxes.shape == (3, 13, 4) and trace.cost.shape == (3, 13, 2)
    for cost, queries in zip(trace.cost, trace.queries, strict=True):
        rows, columns = linear_sum_assignment(cost)
        assert dict(zip(columns, rows, strict=True)) == dict(enumerate(queries.tolist()))

    # The losses over this assignment are those of training.
    predictions = detector.model(*make_batch([image], detector.resize))
    scale = torch.tensor([103, 71, 103, 71])
    target = {
        "labels": torch.tensor([2, 0]),
        "boxes": box_convert(TARGET["boxes"] / scale, "xyxy", "cxcywh"),
    }
    weights = DETR_WEIGHTS if predictions.no_object else LossWeights()
    expected = detection_losses(predictions, [target])
    suffixes = ["_layer0", "_layer1", ""]
    for n, layer in enumerate([*predictions.aux, predictions]):
        in_pixels = box_convert(layer.boxes[0], "cxcywh", "xyxy") * scale
        torch.testing.assert_close(trace.boxes[n], in_pixels)
        pairs = [(trace.queries[n], torch.arange(2))]
        losses = layer_losses(layer.logits, layer.boxes, [target], pairs, weights, 2, 1)
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[f"loss_{name}{suffixes[n]}"])


def test_each_figure_is_one_call(detector, image):
    trace = trace_matching(detector, image, TARGET)
    figure, drawn = trace.lines(layer=1)
    matched = trace.boxes[1][trace.queries[1]]
    centres = torch.stack([matched, TARGET["boxes"]], dim=1).unflatten(-1, (2, 2)).mean(-2)
    lines = {tuple(line[1]): line[0] for line in drawn["lines"]}
    for of_query, of_object in centres.numpy():
        assert lines[tuple(of_object)] == pytest.approx(of_query, abs=1e-4)
    assert "after decoder layer 1" in figure.axes[0].get_title()
    _, drawn = trace.by_layer()
    assert (torch.from_numpy(drawn["queries"]) == trace.queries).all()


def test_more_objects_than_queries_leave_some_without(image):
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset("tiny", **{**SMALL, "n_queries": 1})
    detector = Detector(DeformableDETR(config), CATEGORIES, ResizeConfig(64, 128))
    trace = trace_matching(detector, image, TARGET)
    assert sorted(trace.queries[0].tolist()) == [-1, 0]
    _, drawn = trace.lines()
    assert drawn["lines"].shape == (1, 2, 2)
    trace.by_layer()


def test_a_target_that_cannot_be_matched_is_refused(detector, image):
    with pytest.raises(ValueError, match="no object"):
        trace_matching(detector, image, {"boxes": [], "labels": []})
    with pytest.raises(ValueError, match="label 5"):
        trace_matching(detector, image, {**TARGET, "labels": torch.tensor([5, 3])})
