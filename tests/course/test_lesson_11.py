"""Lesson 11: what its text relies on, its exercises in other styles, and its planted faults."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from ddetr_edu.checkpoints.shipped import shipped_log
from ddetr_edu.course import checks
from ddetr_edu.course.exercises import lesson_11_faults as faults
from ddetr_edu.course.learning_curves import RUNS, read_run
from ddetr_edu.course.ten_detections import TEN_DETECTIONS, DetectionsOnPaper, Found
from ddetr_edu.data.loading import collate
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.evaluation.coco_metrics import score, summarize
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.gradient_report import report_gradients
from ddetr_edu.training.loop import train_step
from ddetr_edu.training.optim import OFFSETS, build_optimizer, group_of, set_lr
from ddetr_edu.training.prepare import build_detector, pick_optim
from ddetr_edu.training.trainer import Trainer, moving_average


@pytest.fixture(scope="module")
def config():
    size = ResizeConfig(128, 160, multiple_of=32)
    return TrainConfig(preset="tiny_two_stage", steps=100, overfit=4, image_size=size)


@pytest.fixture(scope="module")
def batch():
    scenes = Shapes(4, seed=0)
    return collate([scenes[i] for i in range(4)])


def new_trainer(config) -> Trainer:
    torch.manual_seed(0)
    return Trainer(build_detector(config, Shapes.categories), pick_optim(config))


# The exercises.


def test_clipping_agrees_with_torch():
    for weight, bias, max_norm in checks.clip.cases().values():
        expected = torch.nn.Parameter(0 * weight), torch.nn.Parameter(0 * bias)
        for parameter, gradient in zip(expected, (weight, bias), strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(expected, max_norm)
        found = checks.clip.solution(weight, bias, max_norm)
        for parameter, gradient in zip(expected, found, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-8)


def test_the_learning_rate_agrees_with_the_library():
    compared = 0
    for step, n_steps, warmup_steps, lr in checks.learning_rate.cases().values():
        if 20 * warmup_steps > n_steps:
            continue  # the library's warm-up takes a twentieth of the run at most
        optim = OptimConfig(lr=lr, warmup_steps=warmup_steps).filled("fast")
        optimizer = build_optimizer(torch.nn.Linear(1, 1), optim)
        found = set_lr(optimizer, step, (step - 1) / n_steps, optim)
        assert found == pytest.approx(
            checks.learning_rate.solution(step, n_steps, warmup_steps, lr)
        )
        compared += 1
    assert compared >= 5


def test_average_precision_agrees_with_pycocotools():
    """The two exercises together, at each threshold, on many random tables."""
    generator = np.random.default_rng(0)
    for n_objects, n_detections in ((1, 3), (3, 8), (6, 10), (7, 30)):
        objects = {n: int(generator.integers(1, 4)) for n in range(1, n_objects + 1)}
        found = []
        for k in range(n_detections):
            near = int(generator.integers(0, n_objects + 1)) or None
            image_id = objects[near] if near else 1
            iou = float(generator.uniform(0.4, 1.0)) if near else 0.0
            found.append(Found(0.99 - 0.01 * k, image_id, near, iou))
        check_against_pycocotools(DetectionsOnPaper(objects, found))
    check_against_pycocotools(TEN_DETECTIONS)


def check_against_pycocotools(paper: DetectionsOnPaper) -> None:
    coco = score(paper.results(), paper)
    for t, threshold in enumerate(coco.params.iouThrs):
        found = average_precision_of(paper, threshold)
        expected = coco.eval["precision"][t, :, 0, 0, -1].mean()
        assert found == pytest.approx(expected, abs=1e-9)


def average_precision_of(paper: DetectionsOnPaper, threshold: float) -> float:
    """As the lesson does it: true positives image by image, in the order of all scores."""
    marks = {
        image_id: iter(checks.true_positives.solution(paper.ious(image_id), threshold))
        for image_id in paper.image_ids
    }
    is_true = torch.tensor([bool(next(marks[found.image_id])) for found in paper.found])
    return checks.average_precision.solution(is_true, len(paper.objects))


def test_right_answers_in_other_styles():
    def clip_with_torch(weight, bias, max_norm):
        parameters = torch.nn.Parameter(0 * weight), torch.nn.Parameter(0 * bias)
        for parameter, gradient in zip(parameters, (weight, bias), strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return tuple(parameter.grad for parameter in parameters)

    def clip_with_numpy(weight, bias, max_norm):
        norm = math.sqrt((weight.numpy() ** 2).sum() + (bias.numpy() ** 2).sum())
        factor = min(1, max_norm / norm) if norm else 1
        return weight.numpy() * factor, (bias * factor).tolist()

    def rate_in_two_factors(step, n_steps, warmup_steps, lr):
        turn = np.pi * (step - 1) / n_steps
        warmup = min(1, step / warmup_steps) if warmup_steps else 1
        return lr * warmup * (0.505 + 0.495 * np.cos(turn))

    def true_by_numpy(ious, threshold):
        left, found = ious.numpy().copy(), []
        for row in range(len(left)):
            best = left[row].max(initial=0)
            found.append(int(best >= threshold))
            if found[-1]:
                left[:, left[row].argmax()] = -1
        return found

    def precision_by_envelope(is_true, n_objects):
        true = np.cumsum(is_true.numpy())
        precision = true / np.arange(1, len(true) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(true / n_objects, np.linspace(0, 1, 101))
        return np.append(envelope, 0)[at].mean()

    def precision_by_torch(is_true, n_objects):
        found = is_true.float().cumsum(0)
        precision, recall = found / torch.arange(1, len(is_true) + 1), found / n_objects
        reached = recall >= torch.linspace(0, 1, 101)[:, None]  # (101, detections)
        if not len(is_true):
            return 0
        return (reached * precision).amax(1).mean()

    for exercise, answer in [
        (checks.clip, clip_with_torch),
        (checks.clip, clip_with_numpy),
        (checks.learning_rate, rate_in_two_factors),
        (checks.true_positives, true_by_numpy),
        (checks.average_precision, precision_by_envelope),
        (checks.average_precision, precision_by_torch),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# What the text relies on.


def test_the_log_of_the_trained_model():
    log = [json.loads(line) for line in shipped_log().read_text().splitlines()]
    losses = [line for line in log if "loss" in line]
    first, last = losses[0]["loss"], losses[-1]["loss"]
    half = next(line for line in losses if line["loss"] <= (first + last) / 2)
    assert (len(losses), half["step"], log[-1]["step"]) == (166, 120, 1650)
    assert half["minutes"] < 1.5 and 17.5 < log[-1]["minutes"] - half["minutes"] < 18
    assert half["loss_giou"] < losses[0]["loss_giou"] / 3  # the boxes roughly fit,
    assert half["loss_label"] > 2 * losses[-1]["loss_label"]  # their classes are not known
    norms = [line["gradient_norm"] for line in losses]
    assert min(norms) > 8 and max(norms) < 54  # clipped to 0.1, every one
    assert np.mean(0.1 / np.array(norms)) == pytest.approx(1 / 260, rel=0.01)
    assert np.mean(norms[-10:]) > 1.5 * np.mean(norms[:10])
    assert log[-1]["AP"] == pytest.approx(0.802, abs=0.001)


def test_a_fortieth_of_the_parameters_is_slow(config):
    detector = build_detector(config, Shapes.categories)
    sizes = {name: parameter.numel() for name, parameter in detector.named_parameters()}
    slow = sum(size for name, size in sizes.items() if group_of(name) == OFFSETS)
    assert (slow, sum(sizes.values())) == (61_920, 2_307_928)


def test_ten_detections_by_hand():
    coco = score(TEN_DETECTIONS.results(), TEN_DETECTIONS)
    by_threshold = coco.eval["precision"][:, :, 0, 0, -1].mean(1)
    expected = [63, 63, 63, 51, 51, 51, 21 + 40 * 3 / 7, 21 + 40 / 7, 21 + 40 / 7, 0]
    np.testing.assert_allclose(101 * by_threshold, expected, atol=1e-9)
    metrics, _ = summarize(coco)
    assert metrics["AP"] == pytest.approx(sum(expected) / 1010)
    for image_id in TEN_DETECTIONS.image_ids:
        rows = [found for found in TEN_DETECTIONS.found if found.image_id == image_id]
        best = TEN_DETECTIONS.ious(image_id).amax(1)
        torch.testing.assert_close(best, torch.tensor([f.iou for f in rows]).to(best))


def test_one_object_found_with_an_iou_of_72_percent():
    one = DetectionsOnPaper({1: 1}, [Found(0.9, 1, 1, 0.72)])
    metrics, _ = summarize(score(one.results(), one))
    assert [metrics[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([0.5, 1.0, 0.0])


def test_what_has_no_gradient_in_the_first_step_has_one_in_the_second(config, batch):
    trainer = new_trainer(config)
    train_step(trainer, [batch], step=1, progress=0.0)
    first = report_gradients(trainer.detector)
    parts = first.by_part()
    assert {part: counts["zero"] for part, counts in parts.items() if counts["zero"]} == {
        "model.level_embedding": 1,
        "model.backbone": 24,
        "model.queries": 4,
        "model.decoder": 12,
    }
    assert len(first.gradients) == 202 and len(first.names("learns")) == 161
    train_step(trainer, [batch], step=2, progress=0.01)
    assert len(report_gradients(trainer.detector).names("learns")) == 202


def test_a_moving_average_of_1_and_3_is_2():
    update, average = moving_average(0.9), torch.tensor(1.0)
    for n in range(200):
        average = update(average, torch.tensor([1.0, 3.0][n % 2]), torch.tensor(n))
    assert average.item() == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize(("clipped", "expected"), [(True, 50), (False, 0.7)])
def test_after_one_long_gradient_adam_hardly_moves_unless_it_was_clipped(clipped, expected):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    positions = []
    for step in range(1, 151):
        parameter.grad = torch.tensor([1000.0 if step == 50 else 1.0])
        if clipped:
            torch.nn.utils.clip_grad_norm_([parameter], 0.1)
        optimizer.step()
        positions.append(parameter.item())
    assert positions[99] - positions[149] == pytest.approx(expected, abs=0.1)


# The planted faults.


def test_only_the_right_words_pass():
    right = dict(faults.RUNS)
    assert checks.run_faults.check(right).passed
    for run, word in itertools.product(right, faults.FAULTS):
        if word != right[run]:
            passed, message, _ = checks.run_faults.check({**right, run: word})
            assert not passed
            assert faults.LOOK[run] in message
            assert f'"{right[run]}"' not in message
            assert faults.FAULTS[right[run]].means not in message


def test_another_run_is_refused():
    with pytest.raises(ValueError, match='no run "E"; choose one of right, A, B, C, D'):
        read_run("E")


@pytest.fixture(scope="module")
def ends():
    """What each run has at its end: the means of the last ten logged losses, and the AP50."""
    numbers = {}
    for run in RUNS:
        log = read_run(run)
        losses = [line for line in log if "loss" in line][-10:]
        numbers[run] = {
            name: np.mean([line[name] for line in losses]) for name in ("loss_label", "loss_giou")
        }
        numbers[run]["AP50"] = [line["AP50"] for line in log if "AP50" in line][-1]
    return numbers


def test_the_logs_are_those_of_whole_runs():
    """benchmarks/faulty_runs.py makes them: 500 steps, an evaluation after every 50."""
    for run in RUNS:
        log = read_run(run)
        assert [line["step"] for line in log if "AP" in line] == list(range(50, 501, 50))
        assert len([line for line in log if "loss" in line]) == 51


def test_each_run_shows_what_the_words_say(ends):
    right = ends["right"]
    assert right["AP50"] > 0.2
    # A, labels shuffled: the boxes are found, their classes are not.
    assert ends["A"]["loss_giou"] < 1.1 * right["loss_giou"]
    assert ends["A"]["loss_label"] > 1.2 * right["loss_label"]
    assert ends["A"]["AP50"] < 0.5 * right["AP50"]
    # B and D, the learning rate: neither loss is as low.
    for run in "BD":
        assert ends[run]["loss_giou"] > 1.5 * right["loss_giou"]
        assert ends[run]["loss_label"] > 1.2 * right["loss_label"]
    # C, too few images: the losses are lower and the AP is, too.
    assert ends["C"]["loss_giou"] < right["loss_giou"]
    assert ends["C"]["loss_label"] < 0.7 * right["loss_label"]
    assert ends["C"]["AP50"] < 0.5 * right["AP50"]


def test_the_logs_decide_between_the_learning_rate_and_shuffled_boxes():
    """The curves of D could be those of shuffled boxes: its highest learning rate could not."""
    highest = {run: max(line.get("lr", 0) for line in read_run(run)) for run in RUNS}
    right = highest["right"]
    expected = {"right": right, "A": right, "B": right / 100, "C": right, "D": 10 * right}
    assert highest == pytest.approx(expected)
    message = checks.run_faults.check({"D": "boxes shuffled"}).message
    assert "the figure does not decide" in message


def test_with_too_low_a_learning_rate_everything_takes_longer():
    """The grey class loss falls by more than 1 in ten steps, and D's as well; B needs a hundred."""
    steps = {}
    for run in ("right", "B", "D"):
        lines = [line for line in read_run(run) if "loss" in line]
        low = lines[0]["loss_label"] - 1.06
        steps[run] = next(line["step"] for line in lines if line["loss_label"] < low)
    assert steps["right"] == steps["D"] == 10
    assert steps["B"] == 100
