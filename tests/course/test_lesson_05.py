"""Lesson 05: its exercises in other styles, its planted faults, and what its text relies on."""

import itertools
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ddetr_edu import MSDeformAttn, capture, load
from ddetr_edu.attention import attention_weights
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises.lesson_05_faults import SHAPES, recorded_heads
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.viz import attention_statistics


def entropy_by_loops(weights):
    counts = np.ones(weights.shape[:3])
    for n, q, m in np.ndindex(*weights.shape[:3]):
        for weight in weights[n, q, m].flatten().tolist():
            if weight:
                counts[n, q, m] *= weight**-weight  # the exponential of the sum is a product
    return counts


def softmax_by_hand(scores):
    exp = np.exp(scores.numpy() - scores.numpy().max(axis=(3, 4), keepdims=True))
    return exp / exp.sum(axis=(3, 4), keepdims=True)


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        (checks.attention_weights, softmax_by_hand),
        (checks.attention_weights, attention_weights),
        (checks.attention_weights, lambda s: (s - s.logsumexp((3, 4), keepdim=True)).exp()),
        (checks.attention_weights, lambda s: attention_weights(s.float())),
        (checks.attention_weights, lambda s: s.softmax(-1) * s.logsumexp(-1, True).softmax(-2)),
        (checks.effective_points, entropy_by_loops),
        (checks.effective_points, lambda w: torch.special.entr(w).sum((-2, -1)).exp()),
        (checks.effective_points, lambda w: 2 ** -(w * (w + 1e-12).log2()).sum(-1).sum(-1)),
        (checks.effective_points, lambda w: (-torch.xlogy(w, w).flatten(3).sum(3)).exp().float()),
    ],
)
def test_other_styles_pass(exercise, answer):
    result = exercise.check(answer)
    assert result.passed, result.message


def test_the_numbers_by_hand():
    scores = torch.tensor([[4.0, 1.0], [2.0, 1.0]]).log().view(1, 1, 1, 2, 2)
    weights = attention_weights(scores)
    assert weights.flatten().tolist() == pytest.approx([1 / 2, 1 / 8, 1 / 4, 1 / 8])
    assert checks.effective_points.solution(weights).item() == pytest.approx(2**1.75)
    a = torch.tensor([2.0, 1.0, 1.0]).log().requires_grad_()
    (a.softmax(0) * torch.tensor([4.0, 0.0, 8.0])).sum().backward()
    assert a.grad.tolist() == pytest.approx([0, -1, 1], abs=1e-6)


def test_the_exercise_counts_what_the_statistics_count():
    recorded = recorded_heads().record
    (row,) = attention_statistics([recorded])
    counted = checks.effective_points.solution(recorded.weights)[0]
    np.testing.assert_allclose(row["effective_points_by_query"], counted, rtol=1e-4)


def test_weights_do_not_depend_on_what_is_read_and_zeros_learn():
    generator = torch.Generator().manual_seed(0)
    layer = MSDeformAttn(d_model=15, n_heads=3, n_levels=1, n_points=2, backend="grid_sample")
    torch.nn.init.normal_(layer.attention_weights.weight, generator=generator)
    query, middle = torch.randn(1, 2, 15, generator=generator), torch.full((1, 2, 1, 2), 0.5)
    with torch.no_grad(), capture(layer) as records:
        for image in torch.randn(2, 1, 28, 15, generator=generator):
            layer(query, middle, image, [(4, 7)])
    assert torch.equal(records[0].weights, records[1].weights)
    layer.reset_parameters()
    image, upstream = torch.randn(1, 28, 15, generator=generator), torch.randn(1, 2, 15)
    layer(query, middle, image, [(4, 7)]).backward(upstream)
    assert layer.attention_weights.weight.grad.abs().max() > 1e-4


@pytest.fixture(scope="module")
def heads():
    return recorded_heads()


def symptoms(heads, head: int) -> dict[str, bool]:
    """Which of the words describe a head, by what can be measured."""
    weights, locations = heads.record.weights[0, :, head], heads.record.locations[0, :, head]
    steps = heads.record.offsets[0, :, head]
    size = heads.outputs[0].norm(dim=-1)  # (Lq, M)
    outside = ((locations < 0) | (locations > 1)).any(-1)
    varies = weights.std(0).max() > 1e-3
    shares = weights.sum(-1)  # (Lq, L)
    silent = size[:, head].mean() < 0.01 * size.mean()
    found = {
        "uniform": torch.allclose(weights, torch.full_like(weights, 1 / 12), atol=1e-4),
        "constant": not varies and steps.std(0).max().item() < 1e-3,
        "collapsed": weights.flatten(1)[:, weights[0].argmax()].min().item() > 0.99,
        "outside": bool(outside.all()),
        "dead": bool(silent) and not outside.any(-1).all(),
        "no star": locations.std(2).max().item() < 1e-3,
        "one level": shares.mean(0).max().item() > 0.99,
        "split levels": shares.std(0).max().item() < 1e-4 and shares[0].std().item() < 1e-4,
        "unnormalised": not torch.allclose(shares.sum(-1), torch.ones(20)),
    }
    return {**found, "healthy": not any(found.values())}


BOTH = {3: {"one level"}, 7: {"split levels"}}  # what is true of a head beside its fault


@pytest.mark.parametrize("head", range(8))
def test_a_head_shows_its_fault_and_no_other(heads, head):
    seen = {word for word, fits in symptoms(heads, head).items() if fits}
    assert seen - BOTH.get(head, set()) == {checks.head_faults.solution[f"head {head}"]}
    assert set(symptoms(heads, head)) == set(checks.head_faults.words)


def test_the_figures_of_one_query_are_not_enough(heads):
    """Heads 0, 1 and 5 look alike in them, and so do 3 and 6; all 20 queries tell them apart."""
    weights, locations = heads.record.weights[0], heads.record.locations[0]
    effective = checks.effective_points.solution(heads.record.weights)[0]
    inside = ((locations[0] > 0) & (locations[0] < 1)).all(-1).flatten(1).float().mean(1)
    for head in (0, 1, 5):
        assert 4 < effective[0, head] < 11
        assert inside[head] == 1
        assert (weights[0, head].sum(-1) > 0.03).all()  # on every level
    for head in (3, 6):
        assert weights[0, head].max() > 0.99
    heaviest = weights.flatten(-2).argmax(-1)  # (Lq, M)
    changes = [len(set(heaviest[:, head].tolist())) for head in range(8)]
    assert changes[0] == changes[3] == 1
    assert min(changes[1], changes[5], changes[6]) > 3
    half = 0.5 / SHAPES[-1][0]
    assert (locations[:, 2, ..., 1] < -half).all()  # nothing but zeros is read


def test_a_sharp_start_gets_hardly_any_gradient():
    """What `Why zeros` says: the factor A_p, and nothing at all for one-hot weights."""
    c = torch.randn(12, generator=torch.Generator().manual_seed(0))
    for spread in (0.0, 1.0, 100.0):
        a = (spread * torch.arange(12.0)).requires_grad_()
        (a.softmax(0) * c).sum().backward()
        weights = a.detach().softmax(0)
        torch.testing.assert_close(a.grad, weights * (c - weights @ c), atol=1e-6, rtol=0)
    assert a.grad.abs().max() < 1e-6


def found_with(detector, scenes, weights_of) -> int:
    """Detections with a score above one half."""
    with torch.no_grad(), patch("ddetr_edu.attention.module.attention_weights", weights_of):
        return sum((detector([image / 255])[0]["scores"] > 0.5).sum().item() for image, _ in scenes)


def test_one_point_is_nearly_enough_and_equal_weights_are_not():
    detector, scenes = load(shipped_checkpoint()), [held_out_scenes()[k] for k in range(2)]

    def only_heaviest(scores):
        flat = scores.flatten(-2)
        return torch.nn.functional.one_hot(flat.argmax(-1), 12).float().view_as(scores)

    right = found_with(detector, scenes, attention_weights)
    assert right >= 5
    assert found_with(detector, scenes, only_heaviest) >= right - 2
    assert found_with(detector, scenes, lambda s: torch.full_like(s, 1 / 12)) <= right / 3
    assert found_with(detector, scenes, lambda s: s.softmax(-1) / 3) <= right / 2


def test_a_trained_head_counts_on_about_five_of_its_points():
    detector, scenes = load(shipped_checkpoint()), [held_out_scenes()[k] for k in range(2)]
    with torch.no_grad(), capture(detector.model) as records:
        for image, _ in scenes:
            detector([image / 255])
    rows = attention_statistics(records)
    by_layer = [row["effective_points"].mean() for row in rows]
    assert np.mean(by_layer) == pytest.approx(5.0, abs=0.5)
    parts = [
        np.mean([row["effective_points"].mean() for row in rows if p in row["name"]])
        for p in ("encoder", "decoder")
    ]
    assert parts[0] < parts[1]


def test_which_test_catches_which_version():
    """The table of `Break it`: the example by hand has one head and cannot see heads mixed."""
    one_head = torch.tensor([[4.0, 1.0], [2.0, 1.0]]).log().view(1, 1, 1, 2, 2)
    several = torch.randn(1, 1, 4, 3, 4, generator=torch.Generator().manual_seed(0))
    together = lambda s: s.flatten(2).softmax(-1).view_as(s)  # noqa: E731
    apart = lambda s: s.softmax(-1) / s.shape[-2]  # noqa: E731
    torch.testing.assert_close(together(one_head), attention_weights(one_head))
    assert together(several).sum((-2, -1)).max() < 1
    torch.testing.assert_close(apart(several).sum((-2, -1)), torch.ones(1, 1, 4))
    assert not torch.allclose(apart(one_head), attention_weights(one_head))
    assert math.isclose(apart(several)[0, 0, 0, 0].sum().item(), 1 / 3, rel_tol=1e-5)
    assert all(itertools.chain(*(attention_weights(several) > 0).flatten(1).tolist()))


@pytest.mark.parametrize("two_stage", [False, True])
def test_only_learned_queries_weigh_every_image_alike_in_the_first_decoder_layer(two_stage):
    """`Where are the keys?`: a query that starts from a token has seen its surroundings."""
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset("tiny_two_stage" if two_stage else "tiny")
    model = DeformableDETR(config).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, MSDeformAttn)]
    for layer in layers:
        torch.nn.init.normal_(layer.attention_weights.weight, std=0.3)
    first = layers[config.n_encoder_layers]
    with torch.no_grad(), capture(first) as records:
        for image in torch.randn(2, 1, 3, 64, 96):
            model(image, torch.zeros(1, 64, 96, dtype=torch.bool))
    assert torch.equal(records[0].weights, records[1].weights) != two_stage
