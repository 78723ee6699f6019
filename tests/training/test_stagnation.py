"""The warning that nothing is learned: when it comes, what it says, and when it does not come."""

import pytest
import torch

from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.evaluation.coco_metrics import score
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training import loop, stagnation
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.loop import train
from ddetr_edu.training.prepare import pick_optim
from ddetr_edu.training.stagnation import LearningWatch, likely_causes

NOTHING = {"AP50": 0.0}


@pytest.fixture
def dataset(shapes_folder):
    return CocoDetection(shapes_folder, "train")


def watch_of(**settings):
    config = TrainConfig(**{**dict(data="x", steps=9999), **settings})
    return LearningWatch(config, pick_optim(config))


def results_of(dataset, boxes, scores):
    """boxes(image, n) as shares of its width and height, and scores(image, n), for 12 queries."""
    sizes = {
        i: (image["width"], image["height"]) for i, image in dataset.ground_truth().imgs.items()
    }
    results = []
    for image, (width, height) in sizes.items():
        for n in range(12):
            x, y, w, h = boxes(image, n)
            bbox = [x * width, y * height, w * width, h * height]
            results.append(
                {"image_id": image, "category_id": 1, "bbox": bbox, "score": scores(image, n)}
            )
    return score(results, dataset)


def same_place(image, n):
    return 0.05 * n, 0.07 * n, 0.2, 0.1


def own_place(image, n):
    shift = torch.rand(2, generator=torch.Generator().manual_seed(100 * image + n)) * 0.7
    return *shift.tolist(), 0.2, 0.1


def of_own(image, n):
    return 0.5 - 0.03 * n - 0.02 * image


def constant(image, n):
    return 0.1 - 0.001 * n


def test_the_same_boxes_for_every_image_are_noticed_once(dataset):
    watch, coco = watch_of(), results_of(dataset, same_place, of_own)
    line = watch.check(500, NOTHING, coco)
    assert line.startswith("warning  all 5 images get the same boxes, whatever they show: nothing")
    assert "\n" not in line and "(1) " in line
    assert watch.check(1000, NOTHING, coco) is None


@pytest.mark.parametrize("shift, warns", [(0.004, True), (0.05, False)])
def test_the_same_boxes_may_differ_by_a_pixel_and_be_in_any_order(dataset, shift, warns):
    def boxes(image, n):
        x, y, w, h = same_place((n + image) % 5, (n + image) % 5)
        return x + shift * (image % 2), y, w, h

    line = watch_of().check(500, NOTHING, results_of(dataset, boxes, of_own))
    assert (line is not None) == warns


def test_scores_that_never_move_are_noticed(dataset):
    watch, coco = watch_of(), results_of(dataset, own_place, constant)
    assert watch.check(500, NOTHING, coco) is None  # there is nothing to compare with
    assert watch.check(501, NOTHING, coco) is None  # the run ends right after an evaluation
    line = watch.check(1000, NOTHING, coco)
    assert line.startswith(
        "warning  the best score of every image is still what it was at step 500"
    )
    assert watch.check(1500, NOTHING, coco) is None


def test_one_image_whose_score_moves_is_enough(dataset):
    watch = watch_of()
    watch.check(500, NOTHING, results_of(dataset, own_place, constant))
    last = dataset.image_ids[-1]
    moved = results_of(dataset, own_place, lambda i, n: constant(i, n) + 0.02 * (i == last))
    assert watch.check(1000, NOTHING, moved) is None


@pytest.mark.parametrize(
    "step, ap50",
    [(199, 0.0), (500, 0.06), (500, -1.0)],  # too early; something is found; nothing to find
)
def test_it_does_not_warn_without_a_reason(dataset, step, ap50):
    watch, coco = watch_of(), results_of(dataset, same_place, constant)
    for _ in range(2):
        assert watch.check(step, {"AP50": ap50}, coco) is None


def test_a_single_image_and_no_detection_at_all_are_no_reason(dataset):
    one = dataset.first(1)
    assert watch_of().check(500, NOTHING, results_of(one, same_place, constant)) is None
    assert watch_of().check(500, NOTHING, score([], dataset)) is None


# The causes ---------------------------------------------------------------------------------------

FORMAT = "boxes in another format than"


@pytest.mark.parametrize(
    "settings, step, beginnings",
    [
        (dict(), 5000, ["a learning rate that is too high here (--optim.lr is 0.002)", FORMAT]),
        (dict(), 500, ["too few steps so far (500)", "a learning rate that is too high", FORMAT]),
        (dict(data="shapes"), 5000, ["a learning rate that is too high here"]),
        (
            dict(optim=OptimConfig(lr=0.1)),
            5000,
            [
                "too high a learning rate (--optim.lr is 0.1, and usual for this model is 0.002)",
                FORMAT,
            ],
        ),
        (
            dict(recipe="official"),
            5000,
            ["too low a learning rate (--optim.lr is 0.0002, and", FORMAT],
        ),
        (
            dict(start_from="c.pt", freeze="backbone", freeze_steps=400),
            300,
            ["a backbone that does not suit", "a learning rate that is too high here", FORMAT],
        ),
        (
            dict(start_from="c.pt", freeze="backbone", freeze_steps=400),
            500,
            ["a learning rate that is too high here (--optim.lr is 0.0002)", FORMAT],
        ),
        (
            dict(preset="lite", backbone_weights="b.safetensors"),
            500,
            [
                "too few steps",
                "another normalisation of images than that of b.safetensors",
                "a learning",
            ],
        ),
    ],
)
def test_the_likeliest_cause_comes_first(settings, step, beginnings):
    config = TrainConfig(**{**dict(data="x", steps=9999), **settings})
    causes = likely_causes(config, pick_optim(config), step)
    for cause, beginning in zip(causes, beginnings, strict=True):
        assert cause.startswith(beginning)


# In a run -----------------------------------------------------------------------------------------


def test_a_run_warns_once_goes_on_and_detects_no_more_than_before(config, monkeypatch, capsys):
    """Without a learning rate to speak of, boxes stay where they are at first."""
    evaluations, real = [], loop.detect
    monkeypatch.setattr(loop, "detect", lambda *a: evaluations.append(1) or real(*a))
    monkeypatch.setattr(stagnation, "MIN_STEPS", 2)
    settings = dict(eval_every=1, optim=OptimConfig(lr=1e-9), image_size=ResizeConfig(64, 96))
    assert "AP" in train(config(**settings))
    printed = capsys.readouterr().out
    assert len(evaluations) == 3  # after steps 1, 2 and 3
    (line,) = [line for line in printed.splitlines() if line.startswith("warning")]
    assert "all 3 images get the same boxes" in line
    assert "(1) too low a learning rate (--optim.lr is 1e-09, and usual" in line
    assert printed.index("step 2: ") < printed.index("warning  ") < printed.index("step 3: ")
    assert "done after 3 steps" in printed


def test_a_short_run_is_not_told_that_it_learned_nothing(config, capsys):
    train(config(eval_every=1))
    assert "warning" not in capsys.readouterr().out
