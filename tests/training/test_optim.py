"""Parameter groups and the learning rate."""

import math
from dataclasses import replace

import pytest
import torch

from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.training.config import OptimConfig
from ddetr_edu.training.optim import build_optimizer, set_lr

CONFIG = OptimConfig(lr=3e-3, backbone_lr_mult=1 / 6, beta2=0.97, weight_decay=7e-4).filled("fast")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = DeformableDETRConfig(
        backbone="resnet18",
        d_model=64,
        n_encoder_layers=1,
        n_decoder_layers=2,
        d_ffn=32,
        n_queries=5,
        box_refine=True,
    )
    return torch.nn.ModuleDict({"model": DeformableDETR(config)})  # names as inside a Detector


def group_of_each(optimizer):
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


def test_every_trainable_parameter_once_and_no_frozen_one(model):
    optimizer = build_optimizer(model, CONFIG)
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}
    assert any(not p.requires_grad for p in model.parameters())


def test_learning_rates_by_name(model):
    group = group_of_each(build_optimizer(model, CONFIG))
    counts = {"backbone": 0, "slow": 0, "rest": 0}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind, lr = "rest", 3e-3
        if name.startswith("model.backbone"):
            kind, lr = "backbone", 5e-4
        elif "sampling_offsets" in name or "reference_points" in name:
            kind, lr = "slow", 3e-4
        counts[kind] += 1
        assert group[id(parameter)]["lr"] == pytest.approx(lr), name
        assert group[id(parameter)]["base_lr"] == pytest.approx(lr), name
    assert counts["slow"] == 2 * (1 + 2) + 2  # weight and bias of three attentions, and the points
    assert counts["backbone"] == 15 and counts["rest"] > 50


def test_what_is_not_given_comes_from_the_recipe():
    fast, official = OptimConfig().filled("fast"), OptimConfig().filled("official")
    assert (fast.lr, fast.backbone_lr_mult, fast.beta2, fast.schedule) == (2e-3, 1, 0.99, "cosine")
    assert None not in vars(fast).values() and None not in vars(official).values()
    mixed = OptimConfig(lr=1e-3, decay_bias_and_norm=False, warmup_steps=0).filled("official")
    assert (mixed.lr, mixed.decay_bias_and_norm, mixed.warmup_steps) == (1e-3, False, 0)
    assert (mixed.beta2, mixed.schedule) == (0.999, "step")


def test_the_official_groups(model):
    """Those of main.py: 2e-4, backbone 2e-5, a tenth for the slow ones, weight decay everywhere."""
    group = group_of_each(build_optimizer(model, OptimConfig().filled("official")))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            slow = "sampling_offsets" in name or "reference_points" in name
            lr = 2e-5 if slow or name.startswith("model.backbone") else 2e-4
            assert group[id(parameter)]["lr"] == pytest.approx(lr), name
            assert group[id(parameter)]["weight_decay"] == 1e-4, name
            assert group[id(parameter)]["betas"] == (0.9, 0.999), name


def test_the_official_learning_rate_falls_once_after_40_of_50_epochs(optimizer):
    official = OptimConfig().filled("official")
    steps = 50 * 7  # seven to an epoch
    lrs = [set_lr(optimizer, n, (n - 1) / steps, official) for n in range(1, steps + 1)]
    assert lrs == pytest.approx([2e-4] * (40 * 7) + [2e-5] * (10 * 7))


def test_biases_and_norms_do_not_decay(model):
    group = group_of_each(build_optimizer(model, CONFIG))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 0.0 if parameter.dim() == 1 else 7e-4
            assert group[id(parameter)]["weight_decay"] == expected, name


def test_the_betas_arrive(model):
    optimizer = build_optimizer(model, CONFIG)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.9, 0.97) for group in optimizer.param_groups)


def with_warmup(steps):
    return replace(CONFIG, warmup_steps=steps)


@pytest.fixture
def optimizer(model):
    return build_optimizer(model, CONFIG)


def test_the_learning_rate_warms_up_linearly(optimizer):
    lrs = [set_lr(optimizer, step, 0.0, with_warmup(5)) for step in range(1, 9)]
    assert lrs == pytest.approx([3e-3 * factor for factor in (0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1)])
    assert set_lr(optimizer, 1, 0.0, with_warmup(0)) == 3e-3


def test_the_warm_up_is_over_after_a_twentieth_of_the_run(optimizer):
    assert set_lr(optimizer, 3, 0.025, with_warmup(1000)) == pytest.approx(1.5e-3, rel=0.01)
    late = set_lr(optimizer, 7, 0.05, with_warmup(1000))
    assert late == pytest.approx(set_lr(optimizer, 5000, 0.05, with_warmup(1000)))


@pytest.mark.parametrize(
    "progress, factor",
    [(0.0, 1.0), (0.5, 0.505), (1 / 3, 0.01 + 0.99 * 0.75), (1.0, 0.01), (1.7, 0.01)],
)
def test_the_learning_rate_ends_as_a_cosine_at_a_hundredth(optimizer, progress, factor):
    assert set_lr(optimizer, 1000, progress, with_warmup(5)) == pytest.approx(3e-3 * factor)


def test_every_group_follows_from_its_own_base(optimizer):
    before = [group["base_lr"] for group in optimizer.param_groups]
    for _ in range(2):  # a second call does not compound
        lr = set_lr(optimizer, 2, 0.01, with_warmup(7))
    factor = 2 / 7 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 0.01)))
    assert lr == pytest.approx(3e-3 * factor)
    for group, base in zip(optimizer.param_groups, before, strict=True):
        assert group["lr"] == pytest.approx(base * factor) and group["base_lr"] == base
    assert len(set(before)) == 3
