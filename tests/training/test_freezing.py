"""A frozen backbone stays as it is to the last bit as long as it should, and resumes exactly."""

import math
import re
from dataclasses import replace

import pytest
import torch

from ddetr_edu import distributed
from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.models.backbone import build_backbone
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.training import loop, prepare
from ddetr_edu.training.config import OptimConfig
from ddetr_edu.training.freezing import BackboneFreezing
from ddetr_edu.training.logging import describe_groups
from ddetr_edu.training.loop import train, train_step
from ddetr_edu.training.trainer import Trainer

OPTIM = OptimConfig(warmup_steps=0, weight_decay=0.3, decay_bias_and_norm=True).filled("fast")


@pytest.fixture
def batch(shapes_folder):
    dataset = CocoDetection(shapes_folder, "train")
    images, targets = zip(*(dataset[i] for i in range(4)), strict=True)
    return list(images), list(targets)


@pytest.fixture
def trainer(build, shapes_folder):
    """trainer(**options): a new one, always with the same parameters."""
    categories = CocoDetection(shapes_folder, "train").categories

    def make(**options):
        return Trainer(build(categories=categories).train(), OPTIM, **options)

    return make


@pytest.fixture
def fine_tuning(config, build, shapes_folder, tmp_path):
    """fine_tuning(**changes): of a checkpoint, with the backbone frozen."""
    categories = CocoDetection(shapes_folder, "train").categories
    save(tmp_path / "c.pt", build(seed=9, categories=categories))

    def make(**changes):
        return config(**{"start_from": tmp_path / "c.pt", "freeze": "backbone", **changes})

    return make


def states(module):
    """Parameters, and the statistics of norms, in bits."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }


def test_only_the_backbone_is_frozen_and_only_at_first(trainer, batch):
    mine = trainer(frozen_steps=2)
    model, backbone = mine.detector.model, mine.detector.model.backbone
    before = states(model)
    for step in (1, 2):
        mine.detector.eval().train()  # as an evaluation in between does
        train_step(mine, [batch], step, 0.0)
        assert (
            changed(backbone, {n.removeprefix("backbone."): v for n, v in before.items()}) == set()
        )
        assert all(p.grad is None for p in backbone.parameters())  # none was computed
    others = {name for name, p in model.named_parameters() if not name.startswith("backbone.")}
    assert changed(model, before) == others
    for step in (3, 4):  # the last norm of a block is 0 at first, and its first one has no gradient
        train_step(mine, [batch], step, 0.0)
    assert changed(model, before) == set(before)  # the statistics of norms as well


def test_never_frozen_is_the_same_as_without_the_option(trainer, batch):
    mine, usual = trainer(frozen_steps=0), trainer()
    for each in (mine, usual):
        train_step(each, [batch], 1, 0.0)
    assert changed(mine.detector, states(usual.detector)) == set()
    assert changed(mine.detector.model.backbone, states(trainer().detector.model.backbone))


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_what_is_never_trained_stays_frozen(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    backbone = build_backbone(DeformableDETRConfig(backbone=name)).train()
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    modes = {n: m.training for n, m in backbone.named_modules()}
    freezing = BackboneFreezing(backbone, 5)
    assert [freezing.apply(step) for step in (1, 2, 5, 6, 7)] == [True, False, False, True, False]
    assert 0 < len(trained) < len(list(backbone.parameters()))
    assert {n for n, p in backbone.named_parameters() if p.requires_grad} == trained
    assert {n: m.training for n, m in backbone.named_modules()} == modes
    freezing.apply(3)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.modules())


def test_two_processes_average_the_gradients_of_a_backbone_once_it_is_trained(
    trainer, batch, in_processes
):
    images, targets = batch
    halves = [(images[:2], targets[:2]), (images[2:], targets[2:])]

    def work():
        with distributed.process_group(torch.device("cpu")):
            mine, found = trainer(frozen_steps=1), []
            for step in (1, 2):
                train_step(mine, [halves[distributed.rank()]], step, 0.0)
                parameters = mine.detector.model.backbone.parameters()
                found.append(torch.cat([p.detach().flatten() for p in parameters]).tolist())
            return found

    first, second = in_processes(work)
    assert first == second
    alone = trainer(frozen_steps=1)
    for step, parameters in zip((1, 2), first, strict=True):
        train_step(alone, halves, step, 0.0)
        expected = torch.cat(
            [p.detach().flatten() for p in alone.detector.model.backbone.parameters()]
        )
        assert (step == 2) == (parameters != first[0])
        torch.testing.assert_close(torch.tensor(parameters), expected, rtol=1e-3, atol=1e-4)


def test_for_the_whole_run_the_backbone_is_that_of_the_checkpoint(fine_tuning, capsys):
    config = fine_tuning(eval_every=1)
    train(config)
    source, result = (
        load(path).model for path in (config.start_from, config.out / "checkpoint.pt")
    )
    kept = {name for name in source.state_dict() if name.startswith("backbone.")}
    assert kept and not changed(result, states(source)) & kept
    assert len(changed(result, states(source))) > 50
    printed = capsys.readouterr().out
    assert re.search(r"groups   backbone: \d\.\d\d million parameters, frozen\n", printed)
    assert "from here on" not in printed and "frozen throughout" not in printed


def test_the_log_says_when_it_is_trained(fine_tuning, capsys):
    train(fine_tuning(freeze_steps=2))
    printed = capsys.readouterr().out
    assert printed.count("step 2: from here on the backbone is trained as well") == 1
    assert "learning rate 2e-05, frozen for the first 2 steps\n" in printed
    assert "frozen throughout" not in printed


def test_a_run_in_minutes_says_if_it_was_never_trained(fine_tuning, capsys):
    train(fine_tuning(freeze_steps=10**6, steps=None, minutes=1e-6))
    assert "frozen throughout, since the run ended before step 1000001" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [dict(steps=3, freeze_steps=3), dict(steps=None, epochs=2, freeze_steps=4)]
)
def test_steps_that_would_never_train_it_are_refused_before_training(fine_tuning, changes):
    with pytest.raises(ValueError, match="--freeze-steps is [34], and the run has [34] steps"):
        train(fine_tuning(**changes))
    assert not fine_tuning().out.exists()


@pytest.mark.parametrize("last", [1, 3, 4])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_resumed_before_at_and_after_that_step_it_ends_the_same(
    fine_tuning, monkeypatch, tmp_path, last, ema
):
    config = fine_tuning(steps=6, freeze_steps=3, save_every=1, eval_every=2, ema=ema)
    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    real = loop.train_step

    def power_cut(trainer, batches, step, progress):
        if step == last + 1:
            raise RuntimeError("the power fails")
        return real(trainer, batches, step, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", power_cut)
        with pytest.raises(RuntimeError, match="the power fails"):
            train(config)
    train(replace(config, resume=True))
    one, other = (
        torch.load(out / "checkpoint.pt", weights_only=True) for out in (whole.out, config.out)
    )
    assert_equal(one["model"], other["model"])
    assert_equal(one["training"]["trainer"], other["training"]["trainer"])


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def test_another_freezing_cannot_be_resumed(fine_tuning):
    train(fine_tuning(freeze_steps=1))
    with pytest.raises(ValueError, match="--freeze-steps was 1 and is now 2"):
        train(fine_tuning(freeze_steps=2, resume=True))


# What the log says of the learning rates ----------------------------------------------------------


def groups_of(config, steps):
    detector = prepare.build_detector(config, {1: "a"})
    text = describe_groups(Trainer(detector, prepare.pick_optim(config), frozen_steps=steps))
    lines = [
        re.fullmatch(r"(?:groups   |         )(.*): (.*) million parameters, (.*)", line)
        for line in text.splitlines()
    ]
    return [line.groups() for line in lines], detector


def test_the_groups_have_their_names_sizes_and_learning_rates(config):
    config = config(backbone="resnet18", optim=OptimConfig(lr=3e-3, backbone_lr_mult=0.5))
    groups, detector = groups_of(config, 0)
    sizes = dict.fromkeys(["stem", "backbone", "slow", "rest"], 0)
    for name, p in detector.named_parameters():
        kind = "backbone" if p.requires_grad else "stem"
        if "backbone" not in name:
            slow = "sampling_offsets" in name or "reference_points" in name
            kind = "slow" if slow else "rest"
        sizes[kind] += p.numel() / 1e6
    expected = {
        ("backbone", f"{sizes['stem']:.2f}", "frozen"),
        ("backbone", f"{sizes['backbone']:.2f}", "learning rate 0.0015"),
        ("sampling offsets and reference points", f"{sizes['slow']:.2f}", "learning rate 0.0003"),
        ("transformer and heads", f"{sizes['rest']:.2f}", "learning rate 0.003"),
    }
    assert set(groups) == expected and len(groups) == 4
    groups, _ = groups_of(config, 7)
    (first_frozen,) = {group for group in groups if group not in expected}
    assert (
        first_frozen[0] == "backbone"
        and first_frozen[2] == "learning rate 0.0015, frozen for the first 7 steps"
    )
    groups, _ = groups_of(config, math.inf)
    frozen = f"{sizes['stem'] + sizes['backbone']:.2f}"
    assert ("backbone", frozen, "frozen") in groups and len(groups) == 3
