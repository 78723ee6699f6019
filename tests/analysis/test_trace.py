"""`trace`: one line for each figure, of any Deformable DETR; and the gallery of them all."""

import dataclasses

import numpy as np
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu import viz
from ddetr_edu.analysis.gallery import EXHIBITS, write_gallery
from ddetr_edu.checkpoints.huggingface import save_huggingface
from ddetr_edu.models.config import ResizeConfig

SMALL = dict(
    num_classes=3,
    d_model=64,
    n_heads=2,
    n_levels=3,
    n_points=3,
    n_encoder_layers=2,
    n_decoder_layers=3,
    d_ffn=37,
    n_queries=19,
)
IMAGE = torch.rand(3, 59, 83, generator=torch.manual_seed(5))
ALL = (
    "boxes",
    "sampling_points",
    "layers",
    "attention_heatmap",
    "token",
    "offset_rose",
    "level_usage_by_size",
    "box_trajectories",
    "proposals",
    "out_of_bounds",
    "statistics",
)


def build(**changes):
    """A small detector whose parameters are perturbed, so that layers differ."""
    torch.manual_seed(0)
    model = dd.DeformableDETR(dd.DeformableDETRConfig.preset("tiny", **{**SMALL, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return dd.Detector(model, ["cat", "dog", "cow"], ResizeConfig(64, 96)).eval()


@pytest.fixture(scope="module")
def trace():
    return dd.trace(build(two_stage=True), IMAGE, threshold=0.02)


@pytest.mark.parametrize("kind", ["one stage", "refined", "two stages"])
def test_every_figure_in_one_line(kind):
    detector = build(box_refine=kind != "one stage", two_stage=kind == "two stages")
    trace = dd.trace(detector, IMAGE)
    for name in ALL:
        if name == "proposals" and kind != "two stages":
            with pytest.raises(ValueError, match="one stage"):
                trace.proposals()
            continue
        figure, data = getattr(trace, name)()
        assert isinstance(figure, viz.NotebookFigure) and len(data)
        figure.draw_without_rendering()


def test_tracing_changes_no_detection(trace):
    detector = build(two_stage=True)
    detections = detector.predict(IMAGE, threshold=0.0)
    for name, values in detections.items():
        assert torch.equal(values, trace.detections[name])


def test_the_best_detection_is_the_default_and_its_numbers_are_drawn(trace):
    query = int(trace.detections["queries"][0])
    figure, drawn = trace.layers()
    assert len(drawn) == 3 and f"query {query}: " in figure.get_suptitle()
    size = np.array([83, 59])
    for i, panel in enumerate(drawn):
        record = trace.records[2 + i]
        weights = np.sort(record.weights[0, query].ravel())
        np.testing.assert_allclose(panel["weights"], weights)
        heaviest = record.locations[0, query].reshape(-1, 2)[record.weights[0, query].argmax()]
        np.testing.assert_allclose(panel["locations"][-1], heaviest.numpy() * size, rtol=1e-5)
        if i:
            np.testing.assert_allclose(panel["entering"], drawn[i - 1]["leaving"])
    np.testing.assert_allclose(
        drawn[-1]["leaving"].clip(0, [83, 59, 83, 59]), trace.detections["boxes"][0], rtol=1e-4
    )
    # The heatmap has all the weight of the points: 2 heads, 3 layers.
    _, heatmap = trace.attention_heatmap()
    for panel, record in zip(heatmap, trace.records[2:], strict=False):
        total = record.weights[0, query].sum((0, 2))
        np.testing.assert_allclose(panel["inside"] + panel["outside"], total, rtol=1e-5)
    assert sum(heatmap[-1]["inside"] + heatmap[-1]["outside"]) == pytest.approx(6)


@pytest.mark.parametrize("by, count", [("level", 3), ("head", 2)])
def test_sampling_points_are_described_as_they_are_drawn(trace, by, count):
    figure, panels = trace.sampling_points(layer=1, by=by)
    heading, *lines = trace.describe_sampling_points(layer=1, by=by)
    query = int(trace.detections["queries"][0])
    name = ["cat", "dog", "cow"][int(trace.detections["labels"][0])]
    assert heading == f"query {query}, decoder layer 1: {name}, {trace.detections['scores'][0]:.2f}"
    assert heading == figure.get_suptitle()
    assert len(lines) == len(panels) == count
    for number, (line, panel) in enumerate(zip(lines, panels, strict=True)):
        outside = ((panel["locations"] < 0) | (panel["locations"] > [83, 59])).any(1).mean()
        share = panel["weights"].sum() / 2  # of two heads
        assert line == (
            f"{by} {number}: {len(panel['weights'])} points, {share:.0%} of the weight, "
            f"{outside:.0%} outside the image"
        )
    best = {name: values[:5] for name, values in trace.detections.items()}
    other = (set(range(19)) - set(best["queries"].tolist())).pop()
    heading, *_ = dataclasses.replace(trace, detections=best).describe_sampling_points(other)
    assert heading == f"query {other}, decoder layer 2: not among the 100 best detections"


def test_a_token_is_the_one_at_the_position(trace):
    shapes = trace.records[0].spatial_shapes
    rows, columns = shapes[1]
    figure, drawn = trace.token(x=82.9, y=0.0, level=1)
    token = shapes[0][0] * shapes[0][1] + columns - 1
    assert figure.get_suptitle() == f"token {token}: row 0, column {columns - 1} of level 1"
    x1, y1, x2, y2 = drawn[0]["entering"]
    np.testing.assert_allclose([x1, y1, x2, y2], [83 - 83 / columns, 0, 83, 59 / rows], atol=1e-4)
    reference = trace.records[0].reference_points[0, token, 1]
    np.testing.assert_allclose([(x1 + x2) / 166, (y1 + y2) / 118], reference, rtol=1e-5)


def test_all_detections_once_for_each_query(trace):
    trace = dataclasses.replace(trace, threshold=0.0)
    queries = trace.detections["queries"]
    kept = torch.unique(queries)
    _, drawn = trace.box_trajectories()
    assert drawn["centres"].shape == (len(kept), 4, 2) and len(kept) < len(queries)
    _, drawn = trace.level_usage_by_size(trace)
    assert drawn["shares"].shape == (2 * len(kept), 3)
    weights = trace.records[-1].weights[0, kept].sum((1, 3)) / 2
    np.testing.assert_allclose(np.sort(drawn["shares"][::2], 0), np.sort(weights, 0), rtol=1e-5)
    boxes = trace.detections["boxes"]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    best = [int((trace.detections["queries"] == query).nonzero()[0]) for query in kept]
    assert trace.largest() == kept[areas[best].argmax()]
    nothing = dataclasses.replace(trace, threshold=1.1)  # at least the best is shown
    assert nothing.box_trajectories()[1]["centres"].shape[0] == 1


def test_offset_rose_of_a_layer_by_number_and_by_name(trace):
    _, drawn = trace.offset_rose("encoder.layers.1.self_attn")
    np.testing.assert_allclose(drawn["edges"][:4], [0, 1.5, 3, 6])  # pixels: half, all, twice P
    _, last = trace.offset_rose()
    np.testing.assert_allclose(last["edges"][:4], [0, 0.5, 1, 2])  # half box sides
    _, named = trace.offset_rose("decoder.layers.2.cross_attn")
    np.testing.assert_array_equal(last["shares"], named["shares"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: s.layers(19), "query 19 does not exist; the model has 0 to 18"),
        (lambda s: s.layers(-1), "query -1 does not exist"),
        (lambda s: s.sampling_points(layer=3), "layer 3 does not exist; the decoder has 0 to 2"),
        (lambda s: s.level_usage_by_size(layer=-4), "layer -4 does not exist"),
        (lambda s: s.offset_rose("encoder"), '"encoder" is none of encoder.layers.0.self_attn'),
        (lambda s: s.token(83, 1), "no token at x 83, y 1"),
        (lambda s: s.token(level=3), "levels are 0 to 2"),
    ],
)
def test_what_does_not_exist_is_named(trace, call, message):
    with pytest.raises(ValueError, match=message):
        call(trace)


def test_only_the_decoder_may_be_recorded():
    trace = dd.trace(build(), IMAGE, layers="decoder*")
    assert len(trace.records) == 3
    trace.attention_heatmap()
    with pytest.raises(ValueError, match="no attention of the encoder was recorded"):
        trace.token()
    detr = dd.Detector(dd.DETR(dd.DETRConfig.preset("detr_tiny", num_classes=2)), ["a", "b"])
    with pytest.raises(ValueError, match="a DETR, which has no sampling points"):
        dd.trace(detr, IMAGE)


def test_a_converted_hugging_face_model_has_the_same_trace(trace, tmp_path):
    backbone = dict(backbone="resnet18", two_stage=True)
    detector = build(**backbone)
    save_huggingface(tmp_path / "hf", detector)
    loaded = dd.load(tmp_path / "hf")
    loaded.resize = detector.resize
    ours, theirs = dd.trace(detector, IMAGE), dd.trace(loaded, IMAGE)
    for name in ("layers", "attention_heatmap"):
        a, b = getattr(ours, name)()[1], getattr(theirs, name)()[1]
        for panel, same in zip(a, b, strict=True):
            for key in ("weights", "locations", "inside", "outside"):
                if key in panel:
                    np.testing.assert_allclose(panel[key], same[key], atol=1e-4)


def test_the_gallery_explains_every_figure(trace, tmp_path):
    with pytest.raises(ValueError, match="the ground truth of this image is not known"):
        trace.matching()
    target = {"boxes": torch.tensor([[5.0, 6, 40, 50]]), "labels": torch.tensor([1])}
    known = dataclasses.replace(trace, target=target)
    *images, page = write_gallery(tmp_path / "gallery", known, [trace], "A model at work.")
    assert [p.stem for p in images] == [exhibit.name for exhibit in EXHIBITS]
    text = page.read_text()
    assert page == tmp_path / "gallery.md" and "A model at work." in text
    for exhibit, image in zip(EXHIBITS, images, strict=True):
        assert image.read_bytes().startswith(b"\x89PNG")
        assert f"(gallery/{image.name})" in text and exhibit.how_to_read in text
        assert exhibit.how_to_read.endswith(".") and exhibit.call.startswith("trace.")
