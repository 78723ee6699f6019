"""Denoising: its queries, their attention mask, and that inference does not depend on it."""

import pytest
import torch

from ddetr_edu.detector import Detector
from ddetr_edu.losses.denoising import Denoising, denoising_losses, noised_boxes, noised_labels
from ddetr_edu.losses.matcher import LossWeights
from ddetr_edu.models.queries import ExtraQueries, add_extra

COUNTS = (3, 0, 2)
MASK = torch.zeros(3, 64, 96, dtype=torch.bool)
WEIGHTS = LossWeights(label=1.7, l1=3.1, giou=0.9)


@pytest.fixture
def targets():
    g = torch.Generator().manual_seed(5)
    return [
        {
            "labels": torch.randint(3, (count,), generator=g),
            "boxes": 0.2 + 0.3 * torch.rand(count, 4, generator=g),
        }
        for count in COUNTS
    ]


def make(groups=2, **noise):
    torch.manual_seed(1)
    return Denoising(num_classes=3, d_model=64, groups=groups, **noise)


# Noise ------------------------------------------------------------------------------------------


def test_without_noise_every_group_holds_the_objects_in_their_order(targets):
    denoising = make(box_noise=0, label_noise=0)
    noised = denoising(targets)
    content, _, boxes = noised.extra.queries
    one_group = [[True] * count + [False] * (3 - count) for count in COUNTS]
    assert noised.valid.tolist() == [real * 2 for real in one_group]
    labels = [labels for t in targets for labels in t["labels"].tolist() * 2]
    assert noised.labels.tolist() == labels
    torch.testing.assert_close(
        content[noised.valid], denoising.label_embedding.weight[noised.labels]
    )
    assert torch.equal(boxes[noised.valid], noised.boxes)
    assert torch.equal(noised.boxes[:6], targets[0]["boxes"].repeat(2, 1))
    assert torch.equal(noised.boxes[6:], targets[2]["boxes"].repeat(2, 1))


def test_boxes_move_as_far_as_the_noise_allows_and_no_further():
    boxes = torch.tensor([0.4, 0.6, 0.2, 0.1]).expand(5000, 4)
    moved = noised_boxes(boxes, 0.3, torch.Generator().manual_seed(0)) - boxes
    reach = torch.tensor([0.03, 0.015, 0.06, 0.03])  # centres move half as far as sides change
    assert (moved.abs() <= reach + 1e-6).all()
    for side in (moved.amax(0), -moved.amin(0)):
        assert (side > 0.99 * reach).all()
    assert (moved.mean(0).abs() < 0.05 * reach).all()
    corner = torch.tensor([0.02, 0.99, 0.9, 0.8]).expand(500, 4)
    moved = noised_boxes(corner, 1.0, torch.Generator().manual_seed(0))
    assert moved.min() == 0 and moved.max() == 1


def test_the_fraction_of_replaced_labels():
    labels = torch.full((7, 1000), 2)
    found = noised_labels(labels, 0.3, 5, torch.Generator().manual_seed(0))
    counts = torch.bincount(found.flatten(), minlength=5) / 7000
    expected = torch.tensor([0.06, 0.06, 0.76, 0.06, 0.06])  # a random label may be the right one
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.015)


def test_the_same_generator_gives_the_same_noise(targets):
    denoising = make()
    first, again, other = (
        denoising(targets, torch.Generator().manual_seed(seed)).extra.queries.reference_points
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(7)
    first = denoising(targets).extra.queries
    torch.manual_seed(7)
    assert torch.equal(denoising(targets).extra.queries.content, first.content)


@pytest.mark.parametrize(
    "counts, groups",
    [((3, 0), 5), ((40, 2), 5), ((41, 2), 4), ((2, 100), 2), ((101,), 1), ((700, 7), 1), ((0,), 5)],
)
def test_many_objects_get_fewer_groups_but_at_least_one(counts, groups):
    targets = [{"labels": torch.zeros(n).long(), "boxes": torch.rand(n, 4)} for n in counts]
    noised = make(groups=5)(targets)
    assert noised.groups == groups and noised.extra.attn_mask.shape[1] == groups * max(counts)
    assert len(noised.labels) == len(noised.boxes) == groups * sum(counts)
    assert groups * max(counts) <= max(200, max(counts))


@torch.no_grad()
def test_the_loss_of_each_object_is_averaged_over_the_groups_that_it_has(predict, targets):
    """So that a batch with fewer groups counts as much as one with more."""
    predictions = []
    for max_queries in (200, 6, 1):  # five groups, two, one
        noised = make(5, box_noise=0, label_noise=0, max_queries=max_queries)(targets)
        losses = denoising_losses(predict(noised.extra).extra, noised, WEIGHTS, num_boxes=7)
        predictions.append((noised.groups, losses["loss_l1_denoising"]))
    assert [groups for groups, _ in predictions] == [5, 2, 1]
    torch.testing.assert_close(predictions[0][1], predictions[2][1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predictions[1][1], predictions[2][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(groups=0), "groups is 0"),
        (dict(max_queries=0), "max_queries is 0"),
        (dict(box_noise=1.5), "box_noise is 1.5"),
        (dict(label_noise=-0.1), "label_noise is -0.1"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make(**values)


# Attention mask ---------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one stage", "two stages"])
def model(build, request):
    """A small model with noise on its parameters, so that its self-attention has an effect."""
    model = build(two_stage=request.param).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture
def predict(model):
    """predict(extra): the predictions of the model for three fixed images."""
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    return lambda extra=None: model(images, MASK, extra)


def change(extra: ExtraQueries, where) -> ExtraQueries:
    """The same extra queries, except that some have another content."""
    content = extra.queries.content.clone()
    content[where] += 10
    return extra._replace(queries=extra.queries._replace(content=content))


def differ(a, b):
    """Which queries have other predictions after any of the layers, (N, Lq) bool."""
    layers = zip([a, *a.aux], [b, *b.aux], strict=True)
    return torch.stack([(x.logits - y.logits).abs().amax(-1) for x, y in layers]).amax(0) > 1e-4


@torch.no_grad()
def test_the_models_own_queries_do_not_depend_on_the_extra_ones(predict, targets):
    extra = make()(targets).extra
    without, with_extra = predict(), predict(extra)
    other = predict(change(extra, (slice(None), slice(None))))
    assert without.extra is None and with_extra.extra.logits.shape == (3, 6, 3)
    assert len(with_extra.aux) == len(with_extra.extra.aux) == len(without.aux)
    assert with_extra.logits.shape == without.logits.shape == (3, 19, 3)
    assert not differ(without, with_extra).any() and not differ(with_extra, other).any()


@torch.no_grad()
def test_queries_attend_to_their_own_group_and_no_other(predict, targets):
    extra = make()(targets).extra  # two groups of three
    before = predict(extra)
    after = predict(change(extra, (0, 1)))  # an object of image 0, group 0
    changed = differ(before.extra, after.extra).tolist()
    assert changed == [[True] * 3 + [False] * 3, [False] * 6, [False] * 6]


@torch.no_grad()
def test_no_query_attends_to_the_padding(predict, targets):
    extra = make()(targets).extra
    before, after = predict(extra), predict(change(extra, (2, 5)))  # image 2 has two objects
    changed = differ(before.extra, after.extra)
    changed[2, 5] = False  # itself
    assert not changed.any()


@torch.no_grad()
def test_extra_queries_attend_to_the_models_own(model, predict, targets):
    extra = make()(targets).extra
    before = predict(extra)
    if model.config.two_stage:
        model.queries.to_queries.bias += torch.randn(128)
    else:
        model.queries.embedding.weight[:, 64:] += torch.randn(64)
    assert differ(before.extra, predict(extra).extra)[:, 0].all()


@pytest.mark.parametrize("mistake", ["no mask", "groups not separated", "padding not masked"])
@torch.no_grad()
def test_these_tests_would_notice(predict, targets, mistake, monkeypatch):
    extra = make()(targets).extra
    if mistake == "no mask":
        monkeypatch.setattr(
            "ddetr_edu.models.deformable_detr.add_extra",
            lambda own, extra: (add_extra(own, extra)[0], None),
        )
        assert differ(predict(extra), predict(change(extra, (0, 1)))).any()
        return
    where = (0, 1) if mistake == "groups not separated" else (2, 5)
    extra = extra._replace(attn_mask=torch.zeros_like(extra.attn_mask))
    changed = differ(predict(extra).extra, predict(change(extra, where)).extra)
    assert changed[where[0]].all()


@torch.no_grad()
def test_extra_queries_start_like_the_models_own(model, predict, targets):
    """From a box in two stages; in one stage, where queries start at points, from its centre."""
    noised = make()(targets)
    references = []
    model.decoder.register_forward_pre_hook(
        lambda _, args: references.append(args[0].reference_points)
    )
    predict(noised.extra)
    size = 4 if model.config.two_stage else 2
    expected = noised.extra.queries.reference_points[..., :size]
    assert torch.equal(references[0][:, 19:], expected) and references[0].shape == (3, 25, size)


# Losses -----------------------------------------------------------------------------------------


def test_correct_reconstructions_have_almost_no_loss_and_swapped_ones_do(predict, targets):
    noised = make(box_noise=0, label_noise=0)(targets)
    found = predict(noised.extra).extra
    found.aux = []
    with torch.no_grad():
        found.logits.fill_(-20)
        found.logits[noised.valid, noised.labels] = 20
        found.boxes[noised.valid] = noised.boxes
    assert sum(denoising_losses(found, noised, WEIGHTS).values()) < 1e-4
    with torch.no_grad():  # the predictions for the padding do not matter
        found.logits[~noised.valid], found.boxes[~noised.valid] = 30.0, 0.1
    assert sum(denoising_losses(found, noised, WEIGHTS).values()) < 1e-4
    with torch.no_grad():
        found.boxes[0, [0, 1]] = found.boxes[0, [1, 0]]
    assert sum(denoising_losses(found, noised, WEIGHTS).values()) > 0.1


@torch.no_grad()
def test_losses_are_named_weighted_and_divided_by_the_noised_objects(predict, targets):
    noised = make()(targets)
    found = predict(noised.extra).extra
    losses = denoising_losses(found, noised, WEIGHTS)
    kinds = {"loss_label_denoising", "loss_l1_denoising", "loss_giou_denoising"}
    assert set(losses) == kinds | {f"{name}_layer0" for name in kinds}
    assert len(noised.labels) == 2 * sum(COUNTS)
    l1 = (found.boxes[noised.valid] - noised.boxes).abs().sum() / 10
    torch.testing.assert_close(losses["loss_l1_denoising"], WEIGHTS.l1 * l1)
    l1 = (found.aux[0].boxes[noised.valid] - noised.boxes).abs().sum() / 10
    torch.testing.assert_close(losses["loss_l1_denoising_layer0"], WEIGHTS.l1 * l1)


@torch.no_grad()
def test_losses_are_divided_by_the_number_of_boxes_passed_in(predict, targets):
    noised = make()(targets)
    found = predict(noised.extra).extra
    own = denoising_losses(found, noised, WEIGHTS)
    assert own == denoising_losses(found, noised, WEIGHTS, num_boxes=sum(COUNTS))
    tripled = denoising_losses(found, noised, WEIGHTS, num_boxes=3 * sum(COUNTS))
    for name, value in own.items():
        torch.testing.assert_close(tripled[name], value / 3)


# In the detector --------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one stage", "two stages"])
def detectors(build, request):
    """A detector with denoising and one without, with the same model."""
    plain = build(two_stage=request.param)
    return Detector(plain.model, plain.categories, plain.resize, denoising=make()), plain


IMAGES = [
    torch.rand(3, h, w, generator=torch.Generator().manual_seed(h)) for h, w in ((53, 97), (89, 61))
]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 20, 50, 40], [0, 0, 97, 53]]), "labels": torch.tensor([90, 3])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


@torch.no_grad()
def test_detections_are_the_same_with_and_without(detectors):
    found, expected = (detector.eval()(IMAGES) for detector in detectors)
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_training_adds_losses_that_reach_every_parameter(detectors):
    with_denoising, plain = detectors
    losses, expected = with_denoising.train()(IMAGES, TARGETS), plain.train()(IMAGES, TARGETS)
    assert {name for name in losses if "denoising" not in name} == set(expected)
    for name, value in expected.items():  # including batch norms in training mode
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-4)
    sum(value for name, value in losses.items() if "denoising" in name).backward()
    assert all(p.grad.any() for p in with_denoising.denoising.parameters())
    assert with_denoising.model.decoder.layers[0].self_attn.in_proj_weight.grad.any()


def test_a_batch_without_any_object_trains(detectors):
    with_denoising, _ = detectors
    losses = with_denoising.train()(IMAGES, [TARGETS[1]] * 2)
    assert losses["loss_l1_denoising"] == losses["loss_label_denoising"] == 0
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(
        torch.isfinite(p.grad).all() for p in with_denoising.parameters() if p.grad is not None
    )
