"""DETR and Deformable DETR with random parameters: the same object, each model's own query."""

import pytest
import torch
from torchvision.ops import box_iou

import ddetr_edu as dd
from ddetr_edu.analysis.compare import compare_attention, detection_for
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.detr import attention_maps
from ddetr_edu.models.preprocessing import make_batch

SMALL = dict(num_classes=3, d_model=32, n_heads=2, n_encoder_layers=1, d_ffn=11)


@pytest.fixture(scope="module")
def detectors():
    """Two detectors of different depth, with different numbers of queries."""
    torch.manual_seed(0)
    detr = dd.DETR(dd.DETRConfig.preset("detr_tiny", **SMALL, n_decoder_layers=2, n_queries=13))
    config = dd.DeformableDETRConfig.preset(
        "tiny_two_stage", **SMALL, n_decoder_layers=3, n_queries=11
    )
    size = ResizeConfig(96, 160)
    return [dd.Detector(model, "abc", size) for model in (detr, dd.DeformableDETR(config))]


@pytest.fixture
def image():
    return torch.rand(3, 71, 103, generator=torch.Generator().manual_seed(1))


def test_each_model_shows_the_query_that_detects_the_object(detectors, image):
    detr, deformable = detectors
    box = torch.tensor([20.0, 10, 80, 60])
    figure, data = compare_attention(detr, deformable, image, box.tolist())
    for kind, detector in (("dense", detr), ("deformable", deformable)):
        detections = detector.predict(image, threshold=0.0)
        of_query = detections["queries"] == data[kind]["query"]
        assert any((data[kind]["box"] == b).all() for b in detections["boxes"][of_query])
        overlap = box_iou(box[None], data[kind]["box"][None])
        assert data[kind]["iou"] == pytest.approx(float(overlap))
        assert data[kind]["inside"].shape == (detector.model.config.n_decoder_layers,)
        assert data[kind]["inside"].min() >= 0 and data[kind]["inside"].max() <= 1 + 1e-5
    maps = attention_maps(detr.model, *make_batch([image], detr.resize))
    assert data["dense"]["locations"] == maps[0].shape[-2:].numel()
    assert data["deformable"]["locations"] == 2 * 3 * 4
    drawn = figure.axes[0].images[1].get_array()
    torch.testing.assert_close(
        torch.from_numpy(drawn), maps[0][0, :, data["dense"]["query"]].mean(0)
    )
    with dd.capture(deformable.model.decoder) as records:
        deformable.predict(image)
    x, y = records[1].locations[0, data["deformable"]["query"]].flatten(0, 2).T
    weights = records[1].weights[0, data["deformable"]["query"]].flatten() / 2
    x1, y1, x2, y2 = data["deformable"]["box"]
    hit = (x * 103 >= x1) & (x * 103 <= x2) & (y * 71 >= y1) & (y * 71 <= y2)
    assert data["deformable"]["inside"][1] == pytest.approx(float((weights * hit).sum()), abs=1e-6)


def test_without_a_box_the_best_detection_is_compared(detectors, image):
    _, data = compare_attention(*detectors, image)
    best = detectors[1].predict(image, threshold=0.0)
    assert data["deformable"]["iou"] == pytest.approx(1, abs=1e-5)
    assert data["deformable"]["query"] == int(best["queries"][0])


def test_the_best_of_those_that_overlap_by_half_or_else_the_nearest_is_chosen():
    detections = {
        "boxes": torch.tensor([[50.0, 50, 60, 60], [0, 0, 10, 14], [0, 0, 10, 10]]),
        "scores": torch.tensor([0.9, 0.5, 0.1]),
        "labels": torch.tensor([4, 5, 6]),
        "queries": torch.tensor([7, 8, 9]),
    }
    chosen = detection_for(torch.tensor([0.0, 0, 10, 10]), detections)
    assert (chosen["query"], chosen["label"]) == (8, 5)
    assert chosen["iou"] == pytest.approx(10 / 14)
    assert detection_for(torch.tensor([0.0, 0, 10, 4]), detections)["query"] == 9


def test_two_models_of_a_kind_or_in_the_wrong_order_are_refused(detectors, image):
    detr, deformable = detectors
    for pair in ((deformable, detr), (detr, detr), (deformable, deformable)):
        with pytest.raises(ValueError, match="give a DETR first"):
            compare_attention(*pair, image)
