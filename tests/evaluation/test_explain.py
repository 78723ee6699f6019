"""What metrics cannot show: no object of a size, none at all, more objects than detections."""

import json
import math

import pytest
import torch
from PIL import Image

from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.scenes import CATEGORIES
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.evaluation.categories import describe_difference
from ddetr_edu.evaluation.coco_metrics import evaluate, score, summarize
from ddetr_edu.evaluation.errors import classify_errors
from ddetr_edu.evaluation.explain import describe_ap, explain

SIDE, N = 400, 130


def write(folder, boxes, crowd=0) -> CocoDetection:
    """A data set of one image with these boxes (x, y, w, h)."""
    (folder / "annotations").mkdir()
    (folder / "val").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(folder / "val" / "a.png")
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
        for n, b in enumerate(boxes, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return CocoDetection(folder, "val")


GRID = [[30 * (n % 13), 30 * (n // 13), 20, 20] for n in range(N)]


class Found(torch.nn.Module):
    """Finds all objects of GRID, as many as it is asked for."""

    def __init__(self):
        super().__init__()
        self.model, self.categories = torch.nn.Linear(1, 1), {1: "cell"}

    def forward(self, images, top_k=100):
        boxes = torch.tensor(GRID, dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        found = {"boxes": boxes, "scores": torch.linspace(1, 0.5, N), "labels": torch.ones(N).int()}
        return [{name: values[:top_k] for name, values in found.items()} for _ in images]


def test_more_than_100_objects_of_an_image_can_be_counted(tmp_path):
    dataset = write(tmp_path, GRID)
    metrics, table = evaluate(Found(), dataset, show_progress=False)
    assert metrics["AR100"] == pytest.approx(100 / N) and metrics["AP"] < 0.8
    (small_only, crowded) = explain(metrics, dataset)
    assert "no medium-sized and no large object" in small_only
    assert "1 of 1 images have more than 100 objects, up to 130" in crowded
    assert "--max-detections" in crowded

    metrics, table = evaluate(Found(), dataset, show_progress=False, max_detections=200)
    assert [metrics[name] for name in ("AP", "AP50", "AR100")] == pytest.approx([1] * 3)
    assert metrics["AR10"] == pytest.approx(10 / N, abs=1e-3)
    lines = table.splitlines()
    assert len(lines) == 12 and lines[0].endswith("maxDets=200 ] = 1.000")
    assert lines[0].split("maxDets")[0] == evaluate_line_0(dataset)
    assert len(explain(metrics, dataset, 200)) == 1
    for limit in (9, 0, -1):
        with pytest.raises(ValueError, match=f"max_detections is {limit}"):
            evaluate(Found(), dataset, show_progress=False, max_detections=limit)


def evaluate_line_0(dataset) -> str:
    return evaluate(Found(), dataset, show_progress=False)[1].splitlines()[0].split("maxDets")[0]


def test_a_limit_of_100_gives_the_same_numbers_by_either_way():
    scenes = Shapes(2, seed=3)
    row = {"category_id": 1, "bbox": [3.0, 4, 20, 20], "score": 0.5}
    results = [{"image_id": i, **row} for i in scenes.image_ids]
    one, other = (summarize(score(results, scenes, limit))[0] for limit in (100, 101))
    assert one == other


@pytest.mark.parametrize("boxes, crowd", [([], 0), ([[10, 10, 50, 50]], 1)])
def test_without_an_object_there_is_no_ap_and_that_is_said(tmp_path, boxes, crowd):
    dataset = write(tmp_path, boxes, crowd)
    metrics, _ = evaluate(Found(), dataset, show_progress=False)
    assert metrics["AP"] == -1
    assert "no object" in describe_ap(metrics) and "-1" not in describe_ap(metrics)
    (sentence,) = explain(metrics, dataset)
    assert sentence.startswith("-1.000 stands for no number") and "no object" in sentence


def test_with_an_object_the_line_is_the_number():
    assert describe_ap({"AP": 0.5, "AP50": 0.75}) == "AP 0.500, AP50 0.750"


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["bbox", "score"])
def test_results_that_are_not_finite_are_refused(value, field):
    """pycocotools counts a box of NaN as a match."""
    scenes = Shapes(2, seed=3)
    row = {"image_id": scenes.image_ids[1], "category_id": 1, "bbox": [3.0, 4, 5, 6], "score": 0.5}
    row[field] = [3.0, value, 5, 6] if field == "bbox" else value
    with pytest.raises(ValueError, match=f"a detection of image {scenes.image_ids[1]} has the box"):
        score([row], scenes)


def test_a_model_that_is_all_nan_has_no_ap_but_an_error(build):
    detector = build(categories=CATEGORIES)
    with torch.no_grad():
        for parameter in detector.model.decoder.parameters():
            parameter.fill_(math.nan)
    name = "decoder." + next(name for name, _ in detector.model.decoder.named_parameters())
    with pytest.raises(ValueError, match=rf"the parameter {name} \((\d+) of \1 numbers\)"):
        evaluate(detector, Shapes(2, seed=5), show_progress=False)


@pytest.mark.parametrize("threshold", [2, -1, math.nan])
def test_a_threshold_that_no_score_can_have_is_refused(build, tmp_path, threshold):
    scenes = Shapes(2, seed=5)
    with pytest.raises(ValueError, match="the threshold is"):
        evaluate(build(categories=CATEGORIES), scenes, report=tmp_path / "r", threshold=threshold)
    assert not (tmp_path / "r").exists()
    with pytest.raises(ValueError, match="the threshold is"):
        classify_errors(score([], scenes), threshold)


def test_the_first_category_that_differs_is_named():
    trained = {1: "cat", 2: "dog", 7: "owl"}
    assert describe_difference(trained, {2: "dog", 1: "cat"}) == ""
    swapped = describe_difference(trained, {1: "dog", 2: "cat", 7: "owl"})
    assert swapped == (
        "the data set has the category 1 (dog), which this detector was not trained for: its "
        "category 1 is cat; it knows 3: cat, dog, owl"
    )
    more = describe_difference(trained, {**trained, 9: "cow"})
    assert "category 9 (cow), which this detector was not trained for; it knows 3" in more
