"""COCO evaluation, with detectors whose detections are known."""

import contextlib
import io
import json
import re

import pytest
import torch
from PIL import Image

from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.scenes import CATEGORIES
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.evaluation.coco_metrics import METRICS, by_category, by_size, detect, evaluate, score

H, W = 120, 150


@pytest.fixture
def dataset(tmp_path):
    """Three images, the second without an object; category and image ids with gaps."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    boxes = [
        (5, 3, [10, 20, 60, 40]),
        (5, 90, [80, 70, 40, 45]),
        (23, 3, [30, 10, 50, 90]),
        (23, 7, [100, 50, 35, 60]),
    ]
    for i in (5, 11, 23):
        Image.new("RGB", (W, H), (i, 2 * i, 3 * i)).save(tmp_path / "val" / f"{i}.png")
    (tmp_path / "annotations" / "instances_val.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in (23, 5, 11)
                ],
                "annotations": [
                    {
                        "id": n,
                        "image_id": i,
                        "category_id": c,
                        "bbox": b,
                        "iscrowd": 0,
                        "area": b[2] * b[3],
                    }
                    for n, (i, c, b) in enumerate(boxes)
                ],
                "categories": [
                    {"id": i, "name": name}
                    for i, name in ((90, "toothbrush"), (3, "cat"), (7, "dog"))
                ],
            }
        )
    )
    return CocoDetection(tmp_path, "val")


class Oracle(torch.nn.Module):
    """Detects the ground truth, shifted; it recognises images by their first pixel."""

    def __init__(self, dataset, shift=0.0, relabel=None, categories=None):
        super().__init__()
        self.model = torch.nn.Linear(1, 1)  # for its device
        self.categories = categories or dataset.categories
        self.shift, self.relabel = shift, relabel or {}
        self.modes, self.sizes = [], []
        self.known = {}
        for image, target in (dataset[i] for i in range(len(dataset))):
            self.known[tuple(image[:, 0, 0].tolist())] = target

    def forward(self, images):
        self.modes.append(self.training)
        self.sizes.append(len(images))
        answers = []
        for image in images:
            target = self.known[tuple((image[:, 0, 0] * 255).round().int().tolist())]
            labels = [self.relabel.get(int(label), int(label)) for label in target["labels"]]
            answers.append(
                {
                    "boxes": target["boxes"].as_subclass(torch.Tensor) + self.shift,
                    "scores": torch.linspace(0.9, 0.5, len(labels)),
                    "labels": torch.tensor(labels, dtype=torch.int64),
                }
            )
        return answers


def test_the_ground_truth_has_an_average_precision_of_1(dataset):
    metrics, table = evaluate(Oracle(dataset), dataset, show_progress=False)
    assert tuple(metrics) == METRICS
    assert [metrics[name] for name in ("AP", "AP50", "AP75", "AR100")] == pytest.approx([1] * 4)
    assert metrics["AP_S"] == -1  # nothing to measure
    assert len(table.splitlines()) == 12 and "1.000" in table.splitlines()[0]


def test_each_category_has_its_own_row(dataset):
    coco = score(
        detect(Oracle(dataset, relabel={90: 7, 7: 90}), dataset, show_progress=False), dataset
    )
    numbers = by_category(coco)
    assert list(numbers) == [3, 7, 90]
    assert numbers[3]["AP"] == pytest.approx(1) and numbers[7]["AP"] == numbers[90]["AP"] == 0
    assert numbers[3]["AP_S"] == -1  # there is no small cat
    metrics, table = evaluate(Oracle(dataset, 3), dataset, show_progress=False, per_category=True)
    rows = [row.split() for row in table.split("\n\n")[1].splitlines()]
    assert rows[0] == ["category", "AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"]
    assert {row[0] for row in rows[1:]} == {"cat", "dog", "toothbrush"}
    precision = [float(row[1]) for row in rows[1:]]
    assert precision == sorted(precision, reverse=True) and rows[1][4] == "-"
    assert sum(precision) / 3 == pytest.approx(metrics["AP"], abs=1e-3)


def test_the_numbers_of_the_categories_average_to_those_of_the_table(build):
    scenes = Shapes(3, seed=5)
    oracle = Oracle(scenes, shift=2.0)
    metrics, _ = evaluate(oracle, scenes, show_progress=False)
    rows = by_category(score(detect(oracle, scenes, show_progress=False), scenes)).values()
    for name in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"):
        there = [row[name] for row in rows if row[name] > -1]
        assert metrics[name] == pytest.approx(sum(there) / len(there) if there else -1), name


def test_the_numbers_of_the_sizes_are_those_of_the_table():
    scenes = Shapes(3, seed=5)
    oracle = Oracle(scenes, shift=3.0)
    metrics, _ = evaluate(oracle, scenes, show_progress=False)
    sizes = by_size(score(detect(oracle, scenes, show_progress=False), scenes))
    for name in ("AP", "AP50", "AP75"):
        assert sizes["all"][name] == pytest.approx(metrics[name])
    for name, letter in (("small", "S"), ("medium", "M"), ("large", "L")):
        assert sizes[name]["AP"] == pytest.approx(metrics[f"AP_{letter}"])
    areas = [a["area"] for a in scenes.ground_truth().anns.values()]
    assert sizes["all"]["objects"] == len(areas)
    assert sizes["small"]["objects"] == sum(area <= 32**2 for area in areas)
    assert min(size["AP"] for size in sizes.values()) == -1  # no large object


@pytest.mark.parametrize("case", ["relabelled", "threshold too high"])
def test_a_report_has_figures_and_their_numbers(dataset, tmp_path, case):
    oracle = Oracle(dataset, shift=4, relabel={90: 7} if case == "relabelled" else None)
    out, threshold = tmp_path / "new" / "out", 0.95 if case == "threshold too high" else 0.5
    metrics, text = evaluate(oracle, dataset, show_progress=False, report=out, threshold=threshold)
    figures = ["confusion.png", "errors.png", "precision_recall.png", "sizes.png"]
    assert sorted(file.name for file in out.iterdir()) == sorted([*figures, "numbers.json"])
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["metrics"] == pytest.approx(metrics, abs=1e-5)
    assert [(c["id"], c["name"]) for c in numbers["categories"]] == [
        (3, "cat"),
        (7, "dog"),
        (90, "toothbrush"),
    ]
    curves = numbers["precision_recall"]
    assert sum(curves["AP_by_threshold"]) / 10 == pytest.approx(metrics["AP"], abs=1e-4)
    assert curves["AP_by_threshold"][0] == pytest.approx(metrics["AP50"], abs=1e-4)
    assert len(curves["by_category"]) == 3 and len(curves["by_category"][0]) == 101
    expected = {
        "relabelled": {"correct": 3, "classification": 1},
        "threshold too high": {"missed": 4},
    }[case]
    assert {kind: n for kind, n in numbers["counts"].items() if n} == expected
    assert len(numbers["errors"]) == 4 - expected.get("correct", 0)
    assert sum(map(sum, numbers["confusion"]["counts"])) == 4
    assert f"detections with a score of at least {threshold}" in text and str(out) in text
    assert numbers["confusion"]["names"] == ["cat", "dog", "toothbrush", "background"]
    if case == "relabelled":
        (error,) = numbers["errors"]
        assert (error["image_id"], error["label"], error["true_label"]) == (5, 7, 90)
        assert error["true_box"] == [80, 70, 120, 115] and error["box"] == [84, 74, 124, 119]


def test_a_folder_that_cannot_be_made_is_reported_before_anything_runs(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    oracle = Oracle(dataset)
    with pytest.raises(OSError, match="file"):
        evaluate(oracle, dataset, show_progress=False, report=tmp_path / "file")
    assert oracle.sizes == []


def test_shifted_boxes_score_less_and_far_ones_nothing(dataset):
    scores = [
        evaluate(Oracle(dataset, shift), dataset, show_progress=False)[0]["AP"]
        for shift in (0, 3, 6, 200)
    ]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert scores[-1] == 0


def test_a_wrong_category_counts_as_wrong(dataset):
    swapped = Oracle(dataset, relabel={90: 7, 7: 90})
    metrics, _ = evaluate(swapped, dataset, show_progress=False)
    assert metrics["AP"] == pytest.approx(1 / 3)  # only the cats are right


def test_the_table_goes_with_its_numbers_and_nothing_is_printed(dataset, capsys):
    metrics, table = evaluate(Oracle(dataset, shift=4), dataset, show_progress=False)
    printed = [float(re.search(r"= (-?[\d.]+)$", line)[1]) for line in table.splitlines()]
    assert printed == pytest.approx(list(metrics.values()), abs=6e-4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("batch, sizes", [(1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_batches_do_not_change_the_result(dataset, batch, sizes):
    oracle = Oracle(dataset, shift=4)
    metrics, _ = evaluate(oracle, dataset, batch, show_progress=False)
    assert oracle.sizes == sizes
    assert metrics == evaluate(Oracle(dataset, shift=4), dataset, show_progress=False)[0]


def test_workers_do_not_change_the_result(dataset):
    alone = detect(Oracle(dataset, shift=4), dataset, show_progress=False)
    assert detect(Oracle(dataset, shift=4), dataset, 2, show_progress=False, workers=1) == alone


@pytest.mark.parametrize("training", [False, True])
def test_the_detector_is_left_in_the_mode_it_was_in(dataset, training):
    oracle = Oracle(dataset).train(training)
    evaluate(oracle, dataset, show_progress=False)
    assert oracle.training == training and oracle.modes == [False]
    oracle.known.clear()
    with pytest.raises(KeyError):
        evaluate(oracle, dataset, show_progress=False)
    assert oracle.training == training


def test_results_are_in_cocos_format(dataset):
    found = detect(Oracle(dataset), dataset, show_progress=False)
    assert found[0] == {
        "image_id": 5,
        "category_id": 3,
        "bbox": [10, 20, 60, 40],
        "score": pytest.approx(0.9),
    }
    assert [r["image_id"] for r in found] == [5, 5, 23, 23]


def test_only_the_images_of_a_subset_count(dataset):
    metrics, _ = evaluate(Oracle(dataset), dataset.first(1), show_progress=False)
    assert metrics["AR100"] == pytest.approx(1) and metrics["AP"] == pytest.approx(1)


def test_generated_scenes_can_be_evaluated_on(build):
    metrics, _ = evaluate(build(categories=CATEGORIES), Shapes(2, seed=5), show_progress=False)
    assert 0 <= metrics["AP"] < 0.2


@pytest.mark.parametrize(
    "categories", [{3: "cat", 7: "dog"}, {3: "cat", 7: "dog", 90: "comb"}, {1: "x", 2: "y"}]
)
def test_other_categories_are_refused_before_anything_runs(dataset, categories):
    oracle = Oracle(dataset, categories=categories)
    named = "3 \\(cat\\)" if 1 in categories else "90 \\(toothbrush\\)"
    with pytest.raises(ValueError, match=f"category {named}, .* not trained .*{len(categories)}"):
        evaluate(oracle, dataset, show_progress=False)
    assert oracle.sizes == []


def test_a_detector_may_know_more_than_the_data_set_holds(dataset):
    oracle = Oracle(dataset, categories={**dataset.categories, 91: "comb"})
    assert evaluate(oracle, dataset, show_progress=False)[0]["AP"] == pytest.approx(1)


def test_an_empty_data_set_and_an_empty_batch_are_refused(dataset):
    for batch in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size is {batch}"):
            evaluate(Oracle(dataset), dataset, batch, show_progress=False)
    oracle = Oracle(dataset)
    dataset.image_ids = []
    with pytest.raises(ValueError, match="no image to evaluate on"):
        evaluate(oracle, dataset, show_progress=False)


def test_the_progress_bar_is_optional(dataset):
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        detect(Oracle(dataset), dataset, show_progress=False)
    assert words.getvalue() == ""
