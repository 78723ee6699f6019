"""Denoising: what the extra queries are, who sees whom, and that detecting knows nothing of it."""

import pytest
import torch

from ddetr_edu.detector.queries import ExtraQueries, add_extra
from ddetr_edu.training import Detector, LossWeights
from ddetr_edu.training.denoising import (
    Denoising,
    denoising_losses,
    noised_boxes,
    noised_labels,
)

COUNTS = (3, 0, 2)
MASK = torch.zeros(3, 64, 96, dtype=torch.bool)
WEIGHTS = LossWeights(label=1.7, l1=3.1, giou=0.9)


@pytest.fixture
def targets():
    g = torch.Generator().manual_seed(5)
    return [
        {"labels": torch.randint(3, (count,), generator=g),
         "boxes": 0.2 + 0.3 * torch.rand(count, 4, generator=g)}
        for count in COUNTS
    ]  # fmt: skip


def make(groups=2, **noise):
    torch.manual_seed(1)
    return Denoising(num_classes=3, d_model=64, groups=groups, **noise)


# Noise ------------------------------------------------------------------------------------------


def test_without_noise_every_group_holds_the_objects_in_their_order(targets):
    denoising = make(box_noise=0, label_noise=0)
    noised = denoising(targets)
    content, _, boxes = noised.extra.queries
    slot = [[True] * count + [False] * (3 - count) for count in COUNTS]
    assert noised.real.tolist() == [one * 2 for one in slot]
    labels = [labels for t in targets for labels in t["labels"].tolist() * 2]
    assert noised.labels.tolist() == labels
    torch.testing.assert_close(
        content[noised.real], denoising.label_embedding.weight[noised.labels]
    )
    assert torch.equal(boxes[noised.real], noised.boxes)
    assert torch.equal(noised.boxes[:6], targets[0]["boxes"].repeat(2, 1))
    assert torch.equal(noised.boxes[6:], targets[2]["boxes"].repeat(2, 1))


def test_boxes_move_as_far_as_they_should_and_no_further():
    boxes = torch.tensor([0.4, 0.6, 0.2, 0.1]).expand(5000, 4)
    moved = noised_boxes(boxes, 0.3, torch.Generator().manual_seed(0)) - boxes
    reach = torch.tensor([0.03, 0.015, 0.06, 0.03])  # centres by half of what sides may change
    assert (moved.abs() <= reach + 1e-6).all()
    for side in (moved.amax(0), -moved.amin(0)):
        assert (side > 0.99 * reach).all()
    assert (moved.mean(0).abs() < 0.05 * reach).all()
    corner = torch.tensor([0.02, 0.99, 0.9, 0.8]).expand(500, 4)
    moved = noised_boxes(corner, 1.0, torch.Generator().manual_seed(0))
    assert moved.min() == 0 and moved.max() == 1


def test_as_many_labels_are_drawn_anew_as_asked_for():
    labels = torch.full((7, 1000), 2)
    found = noised_labels(labels, 0.3, 5, torch.Generator().manual_seed(0))
    counts = torch.bincount(found.flatten(), minlength=5) / 7000
    expected = torch.tensor([0.06, 0.06, 0.76, 0.06, 0.06])  # a fifth is drawn as it was
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
    "values, message",
    [
        (dict(groups=0), "groups is 0"),
        (dict(box_noise=1.5), "box_noise is 1.5"),
        (dict(label_noise=-0.1), "label_noise is -0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make(**values)


# Who sees whom ----------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one stage", "two stages"])
def model(build, request):
    """A small model whose queries do listen to each other, and whose boxes depend on it."""
    model = build(two_stage=request.param).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture
def look(model):
    """look(extra): what the model says of three fixed pictures."""
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    return lambda extra=None: model(images, MASK, extra)


def change(extra: ExtraQueries, where) -> ExtraQueries:
    """The same extra queries, except for another content at some of them."""
    content = extra.queries.content.clone()
    content[where] += 10
    return extra._replace(queries=extra.queries._replace(content=content))


def differ(a, b):
    """Which queries get other answers, (N, Lq) bool, after any of the layers."""
    layers = zip([a, *a.aux], [b, *b.aux], strict=True)
    return torch.stack([(x.logits - y.logits).abs().amax(-1) for x, y in layers]).amax(0) > 1e-4


@torch.no_grad()
def test_the_models_own_queries_do_not_notice_the_extra_ones(look, targets):
    extra = make()(targets).extra
    without, beside = look(), look(extra)
    other = look(change(extra, (slice(None), slice(None))))
    assert without.extra is None and beside.extra.logits.shape == (3, 6, 3)
    assert len(beside.aux) == len(beside.extra.aux) == len(without.aux)
    assert beside.logits.shape == without.logits.shape == (3, 19, 3)
    assert not differ(without, beside).any() and not differ(beside, other).any()


@torch.no_grad()
def test_a_group_sees_itself_and_no_other(look, targets):
    extra = make()(targets).extra  # two groups of three
    before = look(extra)
    after = look(change(extra, (0, 1)))  # an object of picture 0, group 0
    seen = differ(before.extra, after.extra).tolist()
    assert seen == [[True] * 3 + [False] * 3, [False] * 6, [False] * 6]


@torch.no_grad()
def test_nobody_sees_the_filling(look, targets):
    extra = make()(targets).extra
    before, after = look(extra), look(change(extra, (2, 5)))  # picture 2 has two objects
    seen = differ(before.extra, after.extra)
    seen[2, 5] = False  # itself
    assert not seen.any()


@torch.no_grad()
def test_extra_queries_see_the_models_own(model, look, targets):
    extra = make()(targets).extra
    before = look(extra)
    if model.config.two_stage:
        model.queries.to_queries.bias += torch.randn(128)
    else:
        model.queries.embedding.weight[:, 64:] += torch.randn(64)
    assert differ(before.extra, look(extra).extra)[:, 0].all()


@pytest.mark.parametrize("mistake", ["all see all", "groups see each other", "filling speaks"])
@torch.no_grad()
def test_these_tests_would_notice(look, targets, mistake, monkeypatch):
    extra = make()(targets).extra
    if mistake == "all see all":
        monkeypatch.setattr(
            "ddetr_edu.detector.model.add_extra",
            lambda own, extra: (add_extra(own, extra)[0], None),
        )
        assert differ(look(extra), look(change(extra, (0, 1)))).any()
        return
    where = (0, 1) if mistake == "groups see each other" else (2, 5)
    extra = extra._replace(unseen=torch.zeros_like(extra.unseen))
    seen = differ(look(extra).extra, look(change(extra, where)).extra)
    assert seen[where[0]].all()


@torch.no_grad()
def test_extra_queries_begin_where_the_models_own_begin(model, look, targets):
    """A box in two stages; in one stage, where queries begin as points, its centre."""
    noised = make()(targets)
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].reference_points))
    look(noised.extra)
    size = 4 if model.config.two_stage else 2
    expected = noised.extra.queries.reference_points[..., :size]
    assert torch.equal(seen[0][:, 19:], expected) and seen[0].shape == (3, 25, size)


# Losses -----------------------------------------------------------------------------------------


def test_right_reconstructions_cost_next_to_nothing_and_swapped_ones_do(look, targets):
    noised = make(box_noise=0, label_noise=0)(targets)
    found = look(noised.extra).extra
    found.aux = []
    with torch.no_grad():
        found.logits.fill_(-20)
        found.logits[noised.real, noised.labels] = 20
        found.boxes[noised.real] = noised.boxes
    assert sum(denoising_losses(found, noised, WEIGHTS).values()) < 1e-4
    with torch.no_grad():  # what is said of the filling does not matter
        found.logits[~noised.real], found.boxes[~noised.real] = 30.0, 0.1
    assert sum(denoising_losses(found, noised, WEIGHTS).values()) < 1e-4
    with torch.no_grad():
        found.boxes[0, [0, 1]] = found.boxes[0, [1, 0]]
    assert sum(denoising_losses(found, noised, WEIGHTS).values()) > 0.1


@torch.no_grad()
def test_losses_are_named_weighed_and_divided_by_the_noised_objects(look, targets):
    noised = make()(targets)
    found = look(noised.extra).extra
    losses = denoising_losses(found, noised, WEIGHTS)
    kinds = {"loss_label_denoising", "loss_l1_denoising", "loss_giou_denoising"}
    assert set(losses) == kinds | {f"{name}_layer0" for name in kinds}
    assert len(noised.labels) == 2 * sum(COUNTS)
    l1 = (found.boxes[noised.real] - noised.boxes).abs().sum() / 10
    torch.testing.assert_close(losses["loss_l1_denoising"], WEIGHTS.l1 * l1)
    l1 = (found.aux[0].boxes[noised.real] - noised.boxes).abs().sum() / 10
    torch.testing.assert_close(losses["loss_l1_denoising_layer0"], WEIGHTS.l1 * l1)


# In the detector --------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one stage", "two stages"])
def pair(build, request):
    """A detector with denoising and one without, of the same weights."""
    plain = build(two_stage=request.param)
    return Detector(plain.model, plain.categories, plain.size, denoising=make()), plain


PICTURES = [torch.rand(3, h, w, generator=torch.Generator().manual_seed(h)) for h, w in
            ((53, 97), (89, 61))]  # fmt: skip
PIXELS = [
    {"boxes": torch.tensor([[10.0, 20, 50, 40], [0, 0, 97, 53]]), "labels": torch.tensor([90, 3])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


@torch.no_grad()
def test_detecting_is_the_same_with_and_without(pair):
    found, expected = (detector.eval()(PICTURES) for detector in pair)
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_training_adds_losses_that_reach_every_weight(pair):
    noisy, plain = pair
    losses, usual = noisy.train()(PICTURES, PIXELS), plain.train()(PICTURES, PIXELS)
    assert {name for name in losses if "denoising" not in name} == set(usual)
    for name, value in usual.items():  # batch norm and all: the same pictures, the same numbers
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-4)
    sum(value for name, value in losses.items() if "denoising" in name).backward()
    assert all(p.grad.any() for p in noisy.denoising.parameters())
    assert noisy.model.decoder.layers[0].self_attn.in_proj_weight.grad.any()


def test_a_batch_without_any_object_trains(pair):
    noisy, _ = pair
    losses = noisy.train()(PICTURES, [PIXELS[1]] * 2)
    assert losses["loss_l1_denoising"] == losses["loss_label_denoising"] == 0
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in noisy.parameters() if p.grad is not None)
