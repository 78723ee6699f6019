"""Losses against slow loops, and how they are named, normalised and weighted."""

import math

import pytest
import torch

import ddetr_edu.losses.criterion as criterion
from ddetr_edu.losses.criterion import detection_losses, layer_losses
from ddetr_edu.losses.matcher import LossWeights, match
from ddetr_edu.models.deformable_detr import Predictions

N, LQ, K = 3, 5, 7
COUNTS = (2, 0, 3)
NUM_BOXES = sum(COUNTS)
WEIGHTS = LossWeights(label=1.7, l1=3.1, giou=0.9)


def some_boxes(*shape, generator):
    centre = 0.3 + 0.4 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    sides = 0.05 + 0.4 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return torch.cat([centre, sides], -1)


@pytest.fixture
def scene():
    """Logits, boxes, targets and indices of three images with 2, 0 and 3 objects, in fp64."""
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(N, LQ, K, generator=g, dtype=torch.float64)
    boxes = some_boxes(N, LQ, generator=g)
    targets = [
        {"labels": torch.randint(K, (c,), generator=g), "boxes": some_boxes(c, generator=g)}
        for c in COUNTS
    ]
    indices = [([4, 1], [0, 1]), ([], []), ([0, 2, 3], [2, 0, 1])]
    indices = [(torch.tensor(q).long(), torch.tensor(o).long()) for q, o in indices]
    return logits, boxes, targets, indices


def slow(logits, boxes, targets, indices):
    """The three sums without weights or normalisation, number by number."""
    label = l1 = giou = 0.0
    for n in range(len(logits)):
        matched = dict(zip(indices[n][0].tolist(), indices[n][1].tolist(), strict=True))
        for q in range(logits.shape[1]):
            for k in range(logits.shape[2]):
                p = 1 / (1 + math.exp(-logits[n, q, k].item()))
                if q in matched and targets[n]["labels"][matched[q]] == k:
                    label += -0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    label += -0.75 * p**2 * math.log(1 - p)
            if q in matched:
                a, b = boxes[n, q].tolist(), targets[n]["boxes"][matched[q]].tolist()
                l1 += sum(abs(x - y) for x, y in zip(a, b, strict=True))
                low = [max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)]
                high = [min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) for i in (0, 1)]
                intersection = max(high[0] - low[0], 0) * max(high[1] - low[1], 0)
                first = [min(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)]
                last = [max(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) for i in (0, 1)]
                hull = (last[0] - first[0]) * (last[1] - first[1])
                union = a[2] * a[3] + b[2] * b[3] - intersection
                giou += 1 - (intersection / union - (hull - union) / hull)
    return {"label": label, "l1": l1, "giou": giou}


def test_agrees_with_slow_loops(scene):
    found = layer_losses(*scene, WEIGHTS, NUM_BOXES, N)
    expected = slow(*scene)
    assert set(found) == {"label", "l1", "giou"}
    for name, value in found.items():
        assert value.shape == ()
        weighted = getattr(WEIGHTS, name) * expected[name] / NUM_BOXES
        assert value.item() == pytest.approx(weighted, abs=1e-6), name


@pytest.mark.parametrize("name", ["label", "l1", "giou"])
def test_each_weight_scales_its_own_loss(scene, name):
    one = layer_losses(*scene, LossWeights(1, 1, 1), NUM_BOXES, N)
    weights = LossWeights(**{**dict(label=1, l1=1, giou=1), name: 3})
    three = layer_losses(*scene, weights, NUM_BOXES, N)
    for other, value in three.items():
        torch.testing.assert_close(value, one[other] * (3 if other == name else 1))


@pytest.mark.parametrize("num_boxes, divisor", [(0, 1), (1, 1), (0.5, 0.5)])
def test_the_divisor_is_1_without_any_object(scene, num_boxes, divisor):
    logits, boxes, _, _ = scene
    targets = [{"labels": torch.zeros(0).long(), "boxes": torch.zeros(0, 4).double()}] * N
    indices = [(torch.zeros(0).long(), torch.zeros(0).long())] * N
    found = layer_losses(logits, boxes, targets, indices, WEIGHTS, num_boxes, N)
    expected = WEIGHTS.label * slow(logits, boxes, targets, indices)["label"] / divisor
    assert found["label"].item() == pytest.approx(expected, abs=1e-6)
    assert found["l1"].item() == found["giou"].item() == 0


def test_every_loss_is_divided_by_the_number_of_boxes_passed_in(scene):
    own = layer_losses(*scene, WEIGHTS, NUM_BOXES, N)
    tripled = layer_losses(*scene, WEIGHTS, 3 * NUM_BOXES, 7 * N)
    for name, value in own.items():
        torch.testing.assert_close(tripled[name], value / 3)


def test_unmatched_queries_learn_to_predict_background_and_keep_their_boxes(scene):
    logits, boxes, targets, indices = scene
    logits, boxes = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
    sum(layer_losses(logits, boxes, targets, indices, WEIGHTS, NUM_BOXES, N).values()).backward()
    for n, (queries, objects) in enumerate(indices):
        matched = dict(zip(queries.tolist(), objects.tolist(), strict=True))
        for q in range(LQ):
            raised = logits.grad[n, q] < 0  # where a step of gradient descent raises the logit
            if q in matched:
                assert raised.nonzero().flatten().tolist() == [targets[n]["labels"][matched[q]]]
                assert boxes.grad[n, q].any()
            else:
                assert not raised.any() and logits.grad[n, q].all()
                assert not boxes.grad[n, q].any()


def as_float32(scene):
    logits, boxes, targets, _ = scene
    targets = [{"labels": t["labels"], "boxes": t["boxes"].float()} for t in targets]
    return logits.float(), boxes.float(), targets


def test_every_layer_is_matched_anew_and_named(scene):
    logits, boxes, targets = as_float32(scene)
    earlier = [Predictions(logits.roll(k, 1), boxes.roll(2 * k, 1)) for k in (1, 2)]
    found = detection_losses(Predictions(logits, boxes, earlier), targets, WEIGHTS)
    names = [
        f"loss_{kind}{layer}"
        for layer in ("", "_layer0", "_layer1")
        for kind in ("label", "l1", "giou")
    ]
    assert sorted(found) == sorted(names)
    layers = {
        "": (logits, boxes),
        "_layer0": (earlier[0].logits, earlier[0].boxes),
        "_layer1": (earlier[1].logits, earlier[1].boxes),
    }
    for suffix, layer in layers.items():
        indices = match(*layer, targets, WEIGHTS)
        expected = slow(*layer, targets, indices)
        for kind, value in expected.items():
            weighted = getattr(WEIGHTS, kind) * value / NUM_BOXES
            assert found[f"loss_{kind}{suffix}"].item() == pytest.approx(weighted, rel=1e-4)
    assert found["loss_l1"] != found["loss_l1_layer0"] != found["loss_l1_layer1"]


@pytest.mark.parametrize("objects", [COUNTS, (0, 0, 0)])
def test_a_class_agnostic_encoder_learns_class_0_and_others_the_classes(scene, objects):
    logits, boxes, targets = as_float32(scene)
    targets = [
        {k: v[:count] for k, v in t.items()} for t, count in zip(targets, objects, strict=True)
    ]
    tokens = logits.roll(3, 1), boxes.roll(1, 1)
    tokens[1][:, -1] = 1.0  # of a token without a valid box
    found = detection_losses(
        Predictions(logits, boxes, encoder=Predictions(*tokens, class_agnostic=True)),
        targets,
        WEIGHTS,
    )
    by_class = detection_losses(
        Predictions(logits, boxes, encoder=Predictions(*tokens)), targets, WEIGHTS
    )
    without = detection_losses(Predictions(logits, boxes), targets, WEIGHTS)
    assert {name: found[name] for name in without} == without
    class_0 = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets]
    expected = slow(*tokens, class_0, match(*tokens, class_0, WEIGHTS))
    expected_by_class = slow(*tokens, targets, match(*tokens, targets, WEIGHTS))
    for kind, value in expected.items():
        weighted = getattr(WEIGHTS, kind) * value / max(sum(objects), 1)
        assert found[f"loss_{kind}_encoder"].item() == pytest.approx(weighted, rel=1e-4, abs=1e-6)
    for kind, value in expected_by_class.items():
        weighted = getattr(WEIGHTS, kind) * value / max(sum(objects), 1)
        assert by_class[f"loss_{kind}_encoder"].item() == pytest.approx(
            weighted, rel=1e-4, abs=1e-6
        )
    assert sum(objects) == 0 or abs(expected_by_class["label"] - expected["label"]) > 0.1


def test_the_official_weights_are_used_when_none_are_given(scene):
    logits, boxes, targets = as_float32(scene)
    found = detection_losses(Predictions(logits, boxes), targets)
    assert found == detection_losses(
        Predictions(logits, boxes), targets, LossWeights(2.0, 5.0, 2.0)
    )


def test_correct_predictions_have_almost_no_loss(scene):
    _, _, targets = as_float32(scene)
    logits, boxes = torch.full((N, LQ, K), -20.0), torch.full((N, LQ, 4), 0.5)
    for n, target in enumerate(targets):
        for t, label in enumerate(target["labels"]):
            logits[n, LQ - 1 - t, label] = 20.0
            boxes[n, LQ - 1 - t] = target["boxes"][t]
    found = detection_losses(Predictions(logits, boxes), targets)
    assert sum(found.values()).item() < 1e-4


def test_more_objects_than_queries_still_gives_a_loss(scene):
    logits, boxes, targets = as_float32(scene)
    found = detection_losses(Predictions(logits[:, :2], boxes[:, :2]), targets)
    assert all(torch.isfinite(value) for value in found.values())


def test_nan_logits_give_a_nan_loss_and_no_crash(scene):
    logits, boxes, targets = as_float32(scene)
    logits[0, 0, 0] = math.nan
    found = detection_losses(Predictions(logits, boxes), targets)
    assert found["loss_label"].isnan()


def test_half_precision_predictions_give_fp32_losses(scene):
    logits, boxes, targets = as_float32(scene)
    found = detection_losses(Predictions(logits.bfloat16(), boxes.bfloat16()), targets)
    assert all(value.dtype == torch.float32 for value in found.values())


@pytest.mark.parametrize("mistake", ["mean", "matched queries only", "wrong object"])
def test_these_tests_would_notice(scene, monkeypatch, mistake):
    logits, boxes, targets, indices = scene
    expected = slow(*scene)
    focal = criterion.sigmoid_focal_loss
    if mistake == "mean":
        monkeypatch.setattr(
            criterion, "sigmoid_focal_loss", lambda *args, reduction: focal(*args, reduction="mean")
        )
    elif mistake == "matched queries only":
        monkeypatch.setattr(
            criterion,
            "sigmoid_focal_loss",
            lambda x, y, *args, reduction: (
                focal(x, y, *args, reduction="none") * y.amax(-1, keepdim=True)
            ).sum(),
        )
    else:
        indices = [(q, o.flip(0)) for q, o in indices]
    found = layer_losses(logits, boxes, targets, indices, LossWeights(1, 1, 1), NUM_BOXES, N)
    assert any(
        abs(found[k].item() - expected[k] / NUM_BOXES) > 0.01 for k in ("label", "l1", "giou")
    )


# DETR's softmax with "no object" ----------------------------------------------------------------

SOFTMAX = LossWeights(label=1.3, no_object=0.2)


def slow_softmax(logits, targets, indices, no_object):
    """The weighted mean of -log(probability), query by query; the last class is "no object"."""
    total = total_weight = 0.0
    for n in range(len(logits)):
        matched = dict(zip(indices[n][0].tolist(), indices[n][1].tolist(), strict=True))
        for q in range(logits.shape[1]):
            row = [math.exp(x) for x in logits[n, q].tolist()]
            k = targets[n]["labels"][matched[q]].item() if q in matched else len(row) - 1
            weight = 1.0 if q in matched else no_object
            total += -weight * math.log(row[k] / sum(row))
            total_weight += weight
    return total / total_weight


def with_no_object(scene):
    """The scene with one more logit, for "no object"."""
    logits, boxes, targets, indices = scene
    extra = torch.randn(N, LQ, 1, generator=torch.Generator().manual_seed(9), dtype=logits.dtype)
    return torch.cat([logits, extra], -1), boxes, targets, indices


def test_the_softmax_loss_agrees_with_slow_loops_and_box_losses_do_not_change(scene):
    logits, boxes, targets, indices = with_no_object(scene)
    found = layer_losses(logits, boxes, targets, indices, SOFTMAX, NUM_BOXES, N)
    expected = slow_softmax(logits, targets, indices, 0.2)
    assert found["label"].item() == pytest.approx(1.3 * expected, rel=1e-6)
    for name in ("l1", "giou"):
        assert found[name] == layer_losses(*scene, LossWeights(), NUM_BOXES, N)[name]


@pytest.mark.parametrize("mistake", ["no weight", "first class is no object", "mean"])
def test_these_tests_would_notice_about_the_softmax(scene, monkeypatch, mistake):
    logits, boxes, targets, indices = with_no_object(scene)
    expected = slow_softmax(logits, targets, indices, 0.2)
    entropy = criterion.F.cross_entropy
    wrong = {
        "no weight": lambda x, y, w, reduction: entropy(x, y, reduction=reduction),
        "first class is no object": lambda x, y, w, reduction: entropy(
            x.roll(1, 1), y, w, reduction=reduction
        ),
        "mean": lambda x, y, w, reduction: entropy(x, y, w),
    }
    monkeypatch.setattr(criterion.F, "cross_entropy", wrong[mistake])
    found = layer_losses(logits, boxes, targets, indices, SOFTMAX, NUM_BOXES, N)
    assert abs(found["label"].item() / 1.3 - expected) > 0.01


def test_predictions_with_no_object_get_detrs_weights(scene):
    logits, boxes, targets, _ = with_no_object(scene)
    logits, boxes, targets = as_float32((logits, boxes, targets, None))
    earlier = Predictions(logits.roll(1, 1), boxes, no_object=True)
    predictions = Predictions(logits, boxes, [earlier], no_object=True)
    found = detection_losses(predictions, targets)
    assert len(found) == 6
    assert found == detection_losses(predictions, targets, LossWeights(1.0, 5.0, 2.0, 0.1))
    indices = match(logits, boxes, targets, LossWeights(1.0, 5.0, 2.0, 0.1))
    expected = slow_softmax(logits, targets, indices, 0.1)
    assert found["loss_label"].item() == pytest.approx(expected, rel=1e-4)


def test_the_softmax_loss_is_divided_by_the_query_weights_of_all_batches(scene):
    """Two batches with the counts of both give what one batch of both gives."""
    logits, boxes, targets, indices = with_no_object(scene)
    whole = layer_losses(logits, boxes, targets, indices, SOFTMAX, NUM_BOXES, N)
    parts = [
        layer_losses(logits[p], boxes[p], targets[p], indices[p], SOFTMAX, NUM_BOXES, N)
        for p in (slice(0, 1), slice(1, 3))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


@pytest.mark.parametrize("no_object", [True, False])
def test_without_numbers_those_of_the_batch_are_used(scene, no_object):
    logits, boxes, targets, _ = with_no_object(scene) if no_object else scene
    logits, boxes, targets = as_float32((logits, boxes, targets, None))
    tokens = None if no_object else Predictions(logits, boxes, class_agnostic=True)
    predictions = Predictions(
        logits,
        boxes,
        [Predictions(logits.roll(1, 1), boxes, no_object=no_object)],
        encoder=tokens,
        no_object=no_object,
    )
    for some in (targets, targets[1:2] * N):  # the latter without any object
        count = sum(len(target["labels"]) for target in some)
        found = detection_losses(predictions, some)
        assert found == detection_losses(predictions, some, num_boxes=count, num_images=N)
        other = detection_losses(predictions, some, num_boxes=count + 7, num_images=N)
        assert all(other[name] < value for name, value in found.items() if value > 0)


@pytest.mark.parametrize("no_object", [True, False])
def test_weights_of_the_other_kind_of_model_are_refused(scene, no_object):
    logits, boxes, targets = as_float32(scene)
    predictions = Predictions(logits, boxes, no_object=no_object)
    with pytest.raises(ValueError, match="LossWeights.no_object must be set for a DETR"):
        detection_losses(predictions, targets, LossWeights() if no_object else SOFTMAX)
