"""Matching against all permutations, and its costs against the formulas written out."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ddetr_edu.losses.matcher as matcher
from ddetr_edu.losses.matcher import DETR_WEIGHTS, LossWeights, class_cost, match, matching_cost

N, LQ, K = 3, 5, 7
UNEVEN = LossWeights(label=1.7, l1=3.1, giou=0.9)


@pytest.fixture
def scene():
    """scene(seed, counts): logits, boxes and targets, with this many objects for each image."""

    def make(seed=0, counts=(2, 0, 3), n_queries=LQ):
        g = torch.Generator().manual_seed(seed)

        def boxes(*shape):
            centre = 0.3 + 0.4 * torch.rand(*shape, 2, generator=g)
            return torch.cat([centre, 0.05 + 0.4 * torch.rand(*shape, 2, generator=g)], -1)

        targets = [
            {"labels": torch.randint(K, (c,), generator=g), "boxes": boxes(c)} for c in counts
        ]
        return (
            2 * torch.randn(len(counts), n_queries, K, generator=g),
            boxes(len(counts), n_queries),
            targets,
        )

    return make


def focal(p, positive, alpha=0.25, gamma=2):
    """The focal loss of one probability, as in its paper."""
    if positive:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def giou(a, b):
    """The generalised IoU of two (cx, cy, w, h) boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    intersection = max(width, 0) * max(height, 0)
    union = aw * ah + bw * bh - intersection
    hull = (max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)) * (
        max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    )
    return intersection / union - (hull - union) / hull


def slow_cost(logits, boxes, target, weights):
    rows = []
    for q in range(len(logits)):
        row = []
        for label, target_box in zip(target["labels"], target["boxes"].tolist(), strict=True):
            p = 1 / (1 + math.exp(-logits[q, label]))
            box = boxes[q].tolist()
            row.append(
                weights.label * (focal(p, True) - focal(p, False))
                + weights.l1 * sum(abs(x - y) for x, y in zip(box, target_box, strict=True))
                - weights.giou * giou(box, target_box)
            )
        rows.append(row)
    return torch.tensor(rows).reshape(len(logits), len(target["labels"]))


def test_the_weights_are_the_official_ones():
    assert LossWeights() == LossWeights(label=2.0, l1=5.0, giou=2.0)


def test_the_class_cost_is_the_positive_minus_the_negative_focal_loss():
    logits = torch.tensor([[-3.0, 0.0, 2.0], [5.0, -1.0, 0.5]])
    labels = torch.tensor([2, 0, 2, 1])
    found = class_cost(logits, labels)
    assert found.shape == (2, 4)
    for q in range(2):
        for t, label in enumerate(labels):
            p = 1 / (1 + math.exp(-logits[q, label]))
            assert found[q, t].item() == pytest.approx(focal(p, True) - focal(p, False), abs=1e-5)


def test_the_class_cost_of_extreme_logits_is_finite_and_in_order():
    cost = class_cost(torch.tensor([[-1e4], [-30.0], [0.0], [30.0], [1e4]]), torch.tensor([0]))
    assert torch.isfinite(cost).all()
    assert (cost.diff(dim=0) < 0).all()  # the higher the logit, the cheaper


@pytest.mark.parametrize("weights", [LossWeights(), UNEVEN])
def test_the_cost_is_the_sum_of_its_three_terms(scene, weights):
    logits, boxes, targets = scene(1)
    for n, target in enumerate(targets):
        found = matching_cost(logits[n], boxes[n], target["labels"], target["boxes"], weights)
        expected = slow_cost(logits[n], boxes[n], target, weights)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(7))
def test_no_permutation_is_cheaper(scene, seed):
    logits, boxes, targets = scene(seed, counts=(2, 4, 5))
    for n, (queries, objects) in enumerate(match(logits, boxes, targets, UNEVEN)):
        cost = slow_cost(logits[n], boxes[n], targets[n], UNEVEN)
        n_objects = cost.shape[1]
        assert sorted(objects.tolist()) == list(range(n_objects))
        assert len(set(queries.tolist())) == n_objects
        cheapest = min(
            itertools.permutations(range(LQ), n_objects),
            key=lambda order: sum(cost[q, t].item() for t, q in enumerate(order)),
        )
        by_object = dict(zip(objects.tolist(), queries.tolist(), strict=True))
        assert tuple(by_object[t] for t in range(n_objects)) == cheapest


def test_each_image_is_matched_as_if_alone(scene):
    logits, boxes, targets = scene(2, counts=(2, 0, 3))
    together = match(logits, boxes, targets, LossWeights())
    for n, indices in enumerate(together):
        (alone,) = match(logits[n : n + 1], boxes[n : n + 1], targets[n : n + 1], LossWeights())
        for a, b in zip(indices, alone, strict=True):
            assert torch.equal(a, b)


def test_pairs_across_images_are_computed_only_where_they_are_few(scene, monkeypatch):
    """The indices are the same; the largest call is that of the image with the most objects."""
    logits, boxes, targets = scene(2, counts=(40, 0, 30, 7), n_queries=50)
    expected = match(logits, boxes, targets, UNEVEN)
    pairs = []

    def counting(logits, boxes, labels, *rest):
        pairs.append(len(logits) * len(labels))
        return matching_cost(logits, boxes, labels, *rest)

    monkeypatch.setattr(matcher, "matching_cost", counting)
    match(logits, boxes, targets, UNEVEN)
    assert pairs == [4 * 50 * 77]  # few enough: one call for all
    pairs.clear()
    for max_pairs, sizes in ((0, [2000, 0, 1500, 350]), (2 * 50 * 77, [4000, 3700])):
        monkeypatch.setattr(matcher, "MAX_PAIRS", max_pairs)
        found = match(logits, boxes, targets, UNEVEN)
        assert pairs == sizes
        pairs.clear()
        for a, b in zip(found, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_no_tensor_holds_more_than_the_pairs_of_one_image(scene):
    logits, boxes, targets = scene(2, counts=(600,) * 4, n_queries=500)
    with LargestTensor() as largest:
        match(logits, boxes, targets, UNEVEN)
    assert largest.numel == 500 * 600 * 2  # x and y of a corner for each pair


def test_an_image_without_objects_matches_nothing(scene):
    for queries, objects in match(*scene(3, counts=(0, 0)), LossWeights()):
        assert queries.shape == objects.shape == (0,)
        assert queries.dtype == objects.dtype == torch.int64


def test_with_more_objects_than_queries_every_query_is_matched(scene):
    logits, boxes, targets = scene(4, counts=(7,), n_queries=3)
    ((queries, objects),) = match(logits, boxes, targets, UNEVEN)
    assert sorted(queries.tolist()) == [0, 1, 2] and len(set(objects.tolist())) == 3
    cost = slow_cost(logits[0], boxes[0], targets[0], UNEVEN)
    total = cost[queries, objects].sum().item()
    cheapest = min(
        sum(cost[q, t].item() for q, t in enumerate(chosen))
        for chosen in itertools.permutations(range(7), 3)
    )
    assert total == pytest.approx(cheapest, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_model_that_has_diverged_is_still_matched(scene, bad):
    logits, boxes, targets = scene(5)
    logits[0, 1] = bad
    boxes[2, 3] = math.nan
    indices = match(logits, boxes, targets, LossWeights())
    assert [len(q) for q, _ in indices] == [2, 0, 3]
    assert 3 not in indices[2][0].tolist()  # no object is assigned to a NaN box


def test_matching_needs_no_gradient(scene):
    logits, boxes, targets = scene(6)
    indices = match(logits.requires_grad_(), boxes.requires_grad_(), targets, LossWeights())
    assert not any(index.requires_grad for pair in indices for index in pair)


@pytest.mark.parametrize("mistake", ["sign", "only positive", "softmax", "GIoU ignored"])
def test_these_tests_would_notice(scene, monkeypatch, mistake):
    right = matcher.class_cost
    wrong = {
        "sign": lambda x, t: -right(x, t),
        "only positive": lambda x, t: (-0.25 * (1 - x.sigmoid()) ** 2 * x.sigmoid().log())[:, t],
        "softmax": lambda x, t: -x.softmax(-1)[:, t],
    }
    if mistake == "GIoU ignored":
        monkeypatch.setattr(matcher, "generalized_box_iou", lambda a, b: torch.zeros(LQ, len(b)))
    else:
        monkeypatch.setattr(matcher, "class_cost", wrong[mistake])
    logits, boxes, targets = scene(1)
    found = matching_cost(logits[0], boxes[0], *targets[0].values(), UNEVEN)
    assert (found - slow_cost(logits[0], boxes[0], targets[0], UNEVEN)).abs().max() > 0.05


# Classes that share a softmax with "no object" --------------------------------------------------


def test_under_a_softmax_the_class_cost_is_minus_the_probability(scene):
    logits, boxes, targets = scene()
    logits, labels = logits[2], targets[2]["labels"]  # the last of K classes is "no object"
    weights = LossWeights(label=1.7, l1=0, giou=0, no_object=0.1)
    found = matching_cost(logits, boxes[2], labels, targets[2]["boxes"], weights)
    for q in range(LQ):
        row = [math.exp(x) for x in logits[q].tolist()]
        for t, label in enumerate(labels.tolist()):
            assert found[q, t].item() == pytest.approx(-1.7 * row[label] / sum(row), rel=1e-4)
    other = matching_cost(logits, boxes[2], labels, targets[2]["boxes"], LossWeights(1.7, 0, 0))
    assert (found - other).abs().min() > 0.01


def test_a_query_that_predicts_no_object_is_matched_last():
    logits = torch.tensor([[[0.0, 0.0, 9.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0]]])
    boxes = torch.full((1, 3, 4), 0.5)
    targets = [{"labels": torch.tensor([1, 0]), "boxes": torch.full((2, 4), 0.5)}]
    ((queries, objects),) = match(logits, boxes, targets, matcher.DETR_WEIGHTS)
    assert dict(zip(queries.tolist(), objects.tolist(), strict=True)) == {1: 0, 2: 1}


# What cannot be matched -------------------------------------------------------------------------


def change(target, **changes):
    return {**target, **changes}


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t[:2], "predictions for 3 images, but 2 targets"),
        (lambda t: [*t, t[0]], "predictions for 3 images, but 4 targets"),
        (
            lambda t: [change(t[0], labels=t[0]["labels"][:1]), *t[1:]],
            r"target 0 has labels of shape \(1,\) and boxes of shape \(2, 4\)",
        ),
        (lambda t: [change(t[0], boxes=t[0]["boxes"][:, :3]), *t[1:]], r"shape \(2, 3\)"),
        (lambda t: [change(t[0], labels=t[0]["labels"].float()), *t[1:]], "torch.float32.*int64"),
        (lambda t: [change(t[0], boxes=t[0]["boxes"].long()), *t[1:]], "boxes of torch.int64"),
        (lambda t: [change(t[0], boxes=t[0]["boxes"].to("meta")), *t[1:]], "boxes on meta"),
        (lambda t: [change(t[0], labels=t[0]["labels"] + K), *t[1:]], "target 0 has .* 0 to 6"),
        (lambda t: [*t[:2], change(t[2], labels=t[2]["labels"] - K)], "target 2 has .* -"),
    ],
)
def test_targets_that_do_not_fit_are_named(scene, edit, message):
    logits, boxes, targets = scene()
    with pytest.raises(ValueError, match=message) as refused:
        match(logits, boxes, edit(targets), LossWeights())
    assert "\n" not in str(refused.value)


def test_no_object_is_no_class_of_a_target(scene):
    logits, boxes, targets = scene()  # as a DETR's: the last of K outputs is "no object"
    targets = [
        change(target, labels=torch.full_like(target["labels"], K - 1)) for target in targets
    ]
    with pytest.raises(ValueError, match="indices run from 0 to 5"):
        match(logits, boxes, targets, DETR_WEIGHTS)
