"""Lesson 09: what its text relies on, its exercises in other styles, and its trap."""

import itertools
import math

import numpy as np
import pytest
import torch
from mutants import mutants_of
from scipy.optimize import linear_sum_assignment
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

import ddetr_edu as dd
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises.lesson_09_trap import judge_trap
from ddetr_edu.course.greedy_matching import (
    assign_cheapest_pair_first,
    assign_in_order,
    greedy_ratio,
    greedy_totals,
    total_cost,
)
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.losses.criterion import detection_losses, layer_losses
from ddetr_edu.losses.matcher import LossWeights, match, matching_cost
from ddetr_edu.models.deformable_detr import Predictions
from ddetr_edu.models.preprocessing import to_floats

WEIGHTS = LossWeights()


@pytest.fixture(scope="module")
def scenes():
    """What the shipped model predicts for scenes of 8, 1 and more objects, and the targets."""
    detector = dd.load(shipped_checkpoint()).eval()
    seen = []
    for index in (10, 2, 0, 1, 4):
        image, target = held_out_scenes()[index]
        with torch.no_grad():
            predictions = detector.run_model([to_floats(image)])
        seen.append((predictions, detector.prepare_target(target, tuple(image.shape[1:]))))
    return seen


# The exercises.


def test_the_solutions_agree_with_the_library():
    for one, other in checks.giou.cases().values():
        expected = generalized_box_iou(one, other).diagonal()
        torch.testing.assert_close(checks.giou.solution(one, other), expected)
    for arguments in checks.matching_cost.cases().values():
        expected = matching_cost(*arguments, WEIGHTS)
        torch.testing.assert_close(checks.matching_cost.solution(*arguments), expected)
    for logits, boxes, labels, target_boxes in checks.matching_cost.cases().values():
        if len(labels) <= len(logits):
            target = {"labels": labels, "boxes": target_boxes.float()}  # match computes in fp32
            ((queries, objects),) = match(logits[None], boxes[None], [target], WEIGHTS)
            cost = checks.matching_cost.solution(logits, boxes, labels, target_boxes)
            assert queries[objects.argsort()].tolist() == checks.assign.solution(cost).tolist()


def test_the_focal_loss_is_that_of_a_layer():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 7, 4, generator=generator)
    boxes = torch.full((1, 7, 4), 0.5)
    target = {"labels": torch.tensor([3, 1]), "boxes": boxes[0, :2]}
    pairs = [(torch.tensor([5, 2]), torch.tensor([0, 1]))]
    is_object = torch.zeros(1, 7, 4, dtype=torch.bool)
    is_object[0, [5, 2], [3, 1]] = True
    losses = layer_losses(logits, boxes, [target], pairs, WEIGHTS, 2, 1)
    expected = 2 * checks.focal_loss.solution(logits, is_object, 2)
    torch.testing.assert_close(losses["label"], expected)


def test_right_answers_in_other_styles():
    def giou_by_loops(one, other):
        result = []
        for (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(one.tolist(), other.tolist(), strict=True):
            width, height = min(x2, u2) - max(x1, u1), min(y2, v2) - max(y1, v1)
            both = width * height if width > 0 and height > 0 else 0
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - both
            hull = (max(x2, u2) - min(x1, u1)) * (max(y2, v2) - min(y1, v1))
            result.append(both / union + union / hull - 1)
        return result

    def cost_by_loops(logits, boxes, labels, target_boxes):
        result = np.zeros((len(boxes), len(labels)))
        for q, t in np.ndindex(*result.shape):
            logit = logits[q, labels[t]].item()
            prob = 1 / (1 + math.exp(-logit))
            pos = -0.25 * (1 - prob) ** 2 * math.log(prob)
            neg = -0.75 * prob**2 * math.log(1 - prob)
            result[q, t] = 2 * (pos - neg) + 5 * (boxes[q] - target_boxes[t]).abs().sum()
            corners = [
                torch.cat([b[:2] - b[2:] / 2, b[:2] + b[2:] / 2])[None]
                for b in (boxes[q], target_boxes[t])
            ]
            result[q, t] -= 2 * giou_by_loops(*corners)[0]
        return result

    def assign_as_a_list(cost):
        queries, objects = linear_sum_assignment(cost.numpy())
        by_object = dict(zip(objects, queries, strict=True))
        return [by_object[t] for t in range(cost.shape[1])]

    def focal_by_one_formula(logits, is_object, num_boxes):
        sign = 2.0 * is_object - 1
        right = (sign * logits).sigmoid()
        return (-(0.5 - 0.25 * sign) * (1 - right) ** 2 * right.log()).sum() / num_boxes

    for exercise, answer in [
        (checks.giou, giou_by_loops),
        (checks.giou, lambda one, other: generalized_box_iou(one, other).diagonal()),
        (checks.matching_cost, cost_by_loops),
        (
            checks.matching_cost,
            lambda *a: matching_cost(
                *(x.float() if x.is_floating_point() else x for x in a), WEIGHTS
            ),
        ),
        (checks.assign, assign_as_a_list),
        (checks.focal_loss, focal_by_one_formula),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# The trap.


def by_trying_all(queries, objects):
    """The lowest total of all assignments on a line."""
    return min(
        sum(abs(q - o) for q, o in zip(order, objects, strict=True))
        for order in itertools.permutations(queries)
    )


def greedy_by_sorting(queries, objects):
    """The total of the greedy assignment, for distances that all differ."""
    pairs = sorted((abs(q - o), i, j) for i, q in enumerate(queries) for j, o in enumerate(objects))
    free_queries, free_objects, total = set(range(len(queries))), set(range(len(objects))), 0.0
    for distance, i, j in pairs:
        if i in free_queries and j in free_objects:
            free_queries.remove(i)
            free_objects.remove(j)
            total += distance
    return total


def test_greedy_and_lowest_totals():
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 6):
        queries, objects = generator.random((2, n)).tolist()
        greedy, lowest = greedy_totals(queries, objects)
        assert greedy == pytest.approx(greedy_by_sorting(queries, objects))
        assert lowest == pytest.approx(by_trying_all(queries, objects))
        assert greedy_ratio(queries, objects) == pytest.approx(greedy / lowest)
    assert greedy_ratio([0, 4], [1, 9]) == 1
    assert greedy_ratio([3, 5], [5, 3]) == 1  # both totals are zero
    assert greedy_ratio([0, 2], [1, 3]) == 1  # a tie counts in favour of greedy
    assert greedy_ratio([0, 1.9], [1, 2.9]) == pytest.approx((0.9 + 2.9) / 2)


def test_greedy_assignments_on_a_table():
    cost = torch.tensor([[1.0, 2], [2, 9], [8, 8]])
    assert assign_cheapest_pair_first(cost).tolist() == [0, 2]
    assert assign_in_order(cost).tolist() == [0, 2]
    assert total_cost(cost, torch.tensor([1, 0])) == 4
    assert cost[0].tolist() == [1, 2], "the costs are left as they are"


@pytest.mark.parametrize(("copies", "ratio"), [(1, 2), (2, 3.5), (3, 5.75), (4, 9.125)])
def test_the_trap_gets_worse_as_the_text_says(copies, ratio):
    queries, objects = [0.0], [1.0]
    for _ in range(copies):
        shift = 2 * objects[-1] - 1e-9
        queries, objects = (p + [x + shift for x in p] for p in (queries, objects))
    assert greedy_ratio(queries, objects) == pytest.approx(ratio, abs=1e-6)
    assert ratio == 2 * 1.5**copies - 1


def test_other_traps_are_accepted():
    def mirrored_and_shuffled(times):
        queries, objects = checks.greedy_trap.solution(times)
        return [-x / 7 for x in reversed(queries)], torch.tensor(objects) / -7

    def wider_gap(times):
        queries, objects = [0.0], [1.0]
        for _ in range(5):
            if greedy_ratio(queries, objects) >= times:
                return np.array(queries), np.array(objects)
            shift = 1.998 * objects[-1]
            queries, objects = (p + [x + shift for x in p] for p in (queries, objects))

    for answer in (mirrored_and_shuffled, wider_gap):
        result = checks.greedy_trap.check(answer)
        assert result.passed, result.message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda times: None, "returned None: is a `return` missing?"),
        (lambda times: [0, 1, 2], "length 3; a tuple of 2 was expected: queries, objects"),
        (lambda times: ([0, 1], [2]), "the shapes are (2,) and (1,)"),
        (lambda times: ([], []), "the shapes are (0,) and (0,)"),
        (lambda times: ([0, math.nan], [1, 2]), "not all positions are finite"),
        (lambda times: (range(500), range(500)), "there are 500 queries; a few dozen"),
        (lambda times: ([0, 4], [1, 9]), "1.000 times as much, and not 1.5 times"),
        (lambda times: ([0, 4], [1, 9]), "the cheapest pair first leads to the best matching"),
        (lambda times: ([0, 2], [1, 3]), "pairs that are equally far apart, it would be enough"),
        (lambda times: ([0, 1.999], [1, 2.999]), "with two queries and two objects it stays below"),
        (lambda times: ([0, 1], [2, 4]), "so every matching costs the same"),
        (lambda times: ([0, 4], [4, 0]), "both totals are 0"),
        (lambda times: ("ab", [4, 0]), "the string 'ab' for queries"),
    ],
)
def test_what_is_no_trap_is_told_so(answer, expected):
    passed, message, _ = checks.greedy_trap.check(answer)
    assert not passed
    assert expected in message


def test_mutants_of_the_trap_that_pass_are_traps():
    accepted = [
        m for m in mutants_of(checks.greedy_trap.solution) if checks.greedy_trap.accepts(m.function)
    ]
    for mutant in accepted:
        for (times,) in checks.greedy_trap.cases().values():
            queries, objects = mutant.function(times)
            lowest = np.abs(np.sort(queries) - np.sort(objects)).sum()  # the best one on a line
            assert greedy_by_sorting(queries, objects) >= times * lowest * (1 - 1e-9), mutant.line
    assert judge_trap(torch.zeros(2), torch.ones(2), 1) == ""


# What the text relies on.


def test_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2], [2, 2, 4, 4]])
    expected = torch.tensor([1, 1 / 3, -1 / 3, -1 / 2])
    torch.testing.assert_close(generalized_box_iou(boxes[:1], boxes)[0], expected)
    assert round((3 / 1 + 5 / 7) / 2, 2) == 1.86


def test_the_loss_is_the_cost_of_the_matching_and_a_constant(scenes):
    predictions, target = scenes[0]
    logits, boxes = predictions.logits, predictions.boxes
    cost = matching_cost(logits[0], boxes[0], *target.values(), WEIGHTS)
    objects = torch.arange(cost.shape[1])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for _ in range(5):
        queries = torch.randperm(len(cost), generator=generator)[: len(objects)]
        losses = layer_losses(logits, boxes, [target], [(queries, objects)], WEIGHTS, 1, 1)
        differences.append(sum(losses.values()).item() - total_cost(cost, queries))
    assert np.ptp(differences) < 1e-3
    assert differences[0] > 10


def test_a_duplicate_costs_class_loss_and_nothing_else(scenes):
    predictions, target = scenes[0]
    logits, boxes = predictions.logits.clone(), predictions.boxes.clone()
    before = detection_losses(Predictions(logits, boxes), [target])
    ((queries, _),) = match(logits, boxes, [target], WEIGHTS)
    unmatched = next(q for q in range(60) if q not in queries)
    logits[0, unmatched], boxes[0, unmatched] = logits[0, queries[0]], boxes[0, queries[0]]
    after = detection_losses(Predictions(logits, boxes), [target])
    assert after["loss_label"] > before["loss_label"] + 0.01
    for name in ("loss_l1", "loss_giou"):
        torch.testing.assert_close(after[name], before[name])


def test_on_the_trained_model_greedy_matching_is_the_best_one(scenes):
    for predictions, target in scenes:
        logits, boxes = predictions.logits, predictions.boxes
        cost = matching_cost(logits[0], boxes[0], *target.values(), WEIGHTS)
        best = total_cost(cost, checks.assign.solution(cost))
        greedy = total_cost(cost, assign_cheapest_pair_first(cost))
        assert greedy == pytest.approx(best, abs=1e-4)


def test_the_mean_number_of_objects_makes_processes_agree_with_one_batch(scenes):
    def slopes(pairs, num_boxes=None):
        shift = torch.zeros(6, requires_grad=True)
        logits = torch.cat([predictions.logits for predictions, _ in pairs]) + shift
        boxes = torch.cat([predictions.boxes for predictions, _ in pairs])
        targets = [target for _, target in pairs]
        losses = detection_losses(Predictions(logits, boxes), targets, num_boxes=num_boxes)
        return torch.autograd.grad(losses["loss_label"], shift)[0]

    eight, one = scenes[:2]
    assert len(eight[1]["labels"]) == 8 and len(one[1]["labels"]) == 1
    together = slopes([one, eight])
    mean = (slopes([one], 4.5) + slopes([eight], 4.5)) / 2
    torch.testing.assert_close(mean, together)
    own = (slopes([one]) + slopes([eight])) / 2
    assert (own - together).abs().max() > 0.1 * together.abs().max()


def test_the_prior_makes_the_first_loss_small():
    losses = []
    for prob in (0.5, 0.01):
        logits = torch.full((300, 91), prob).logit()
        is_object = torch.zeros(300, 91)
        is_object[range(7), range(7)] = 1
        losses.append(sigmoid_focal_loss(logits, is_object, 0.25, 2, reduction="sum").item())
    assert 400 < losses[0] / losses[1] < 500
