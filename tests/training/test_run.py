"""A run's folder: what is kept, what a resumed run may change, and a full disk."""

import errno
import json
import sys
import types
from dataclasses import asdict

import pytest
import torch

import ddetr_edu.training.run as run_module
from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.safe_load import CheckpointError
from ddetr_edu.models.config import PRESETS, ResizeConfig
from ddetr_edu.training import loop
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import OptimConfig
from ddetr_edu.training.loop import train
from ddetr_edu.training.run import Run, check_same_settings, flatten_settings, lines_until
from ddetr_edu.training.trainer import Trainer


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", {"seed": 1}, keep_checkpoints=2)


@pytest.fixture
def trainer(build):
    return Trainer(build(), OptimConfig().filled("fast"))


def at(step):
    clock = Clock(None, 100)
    clock.start(step, minutes=step / 10)
    return clock


def step_of(path):
    return torch.load(path, weights_only=True)["step"]


def test_the_newest_the_ones_before_and_the_best_are_kept(run, trainer):
    run.begin()
    for step, precision in ((3, 0.1), (5, 0.4), (8, 0.2), (20, 0.4)):
        run.save(trainer, at(step))
        run.log_evaluation(trainer, at(step), {"AP": precision, "AP50": precision})
    names = {path.name: step_of(path) for path in run.folder.glob("*.pt")}
    assert names == {
        "checkpoint.pt": 20,
        "checkpoint-0000008.pt": 8,
        "checkpoint-0000005.pt": 5,
        "best.pt": 5,
    }
    load(run.folder / "best.pt")


def test_the_same_step_is_written_once(run, trainer, monkeypatch):
    run.begin()
    run.save(trainer, at(3))
    monkeypatch.setattr(run_module, "save", lambda *a, **k: pytest.fail("written again"))
    run.save(trainer, at(3))


def test_without_hard_links_older_checkpoints_are_copied(run, trainer, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(run_module.os, "link", refuse)
    run.begin()
    for step in (3, 5):
        run.save(trainer, at(step))
    assert step_of(run.folder / "checkpoint-0000003.pt") == 3 and step_of(run.checkpoint) == 5


def test_a_full_disk_loses_no_earlier_checkpoint(run, trainer, monkeypatch):
    run.begin()
    run.save(trainer, at(3))
    run.save(trainer, at(5))
    before = {path.name: path.read_bytes() for path in run.folder.glob("*.pt")}
    real = torch.save

    def full(content, file):
        real({"half": torch.zeros(999)}, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="could not be written: .*No space left") as end:
            run.save(trainer, at(8))
    assert "\n" not in str(end.value)
    after = {path.name: path.read_bytes() for path in run.folder.glob("*.pt")}
    assert before.items() <= after.items()
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]
    clock = at(0)
    again = Run(run.folder, {"seed": 1}, keep_checkpoints=2)
    assert again.resume(trainer, clock) and clock.step == 5


# Resuming ---------------------------------------------------------------------------------------


def test_it_resumes_from_the_newest_checkpoint(run, trainer):
    run.begin()
    run.write({"step": 4, "loss": 1.5})
    run.save(trainer, at(5))
    run.write({"step": 5, "AP": 0.5})
    run.write({"step": 6, "loss": 1.25})
    with run.log.open("a") as log:
        log.write('{"step": 7, "lo')
    (run.folder / ".checkpoint.pt.12").write_text("cut off")
    clock = at(0)
    again = Run(run.folder, {"seed": 1})
    assert again.resume(trainer, clock)
    assert (clock.step, clock.minutes) == (5, 0.5)
    assert again.lines() == [{"step": 4, "loss": 1.5}]  # the evaluation will be repeated
    assert not list(run.folder.glob(".*"))


def test_without_a_checkpoint_there_is_nothing_to_resume(run, trainer):
    assert not run.resume(trainer, at(0))
    run.begin()
    assert not run.resume(trainer, at(0))


def test_a_checkpoint_without_the_state_of_its_training_is_refused(run, trainer):
    run.begin()
    run.save(trainer, at(5))
    run.log_evaluation(trainer, at(5), {"AP": 0.5, "AP50": 0.5})
    (run.folder / "best.pt").replace(run.checkpoint)
    with pytest.raises(CheckpointError, match="holds a detector but not the state"):
        run.resume(trainer, at(0))


def test_lines_of_a_log_that_is_not_there(tmp_path):
    assert lines_until(tmp_path / "metrics.jsonl", 3) == []


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(seed=2), "--seed was 1 and is now 2"),
        (dict(steps=9), "--steps was 4 and is now 9"),
        (dict(optim=OptimConfig(lr=1e-4)), "--optim.lr was None and is now 0.0001"),
        (dict(batch_size=1, precision="bf16"), "--batch-size was 2 .* and --precision was fp32"),
    ],
)
def test_other_settings_are_refused_by_name(config, changes, named):
    first, now = config(seed=1, steps=4), config(**{**dict(seed=1, steps=4), **changes})
    before, now = (flatten_settings(asdict(one)) for one in (first, now))
    with pytest.raises(ValueError, match=named) as refused:
        check_same_settings(before, now)
    assert "\n" not in str(refused.value)


def test_settings_that_change_no_parameter_may_differ(config):
    free = dict(
        workers=1, device="auto", keep_checkpoints=5, save_every=2, eval_every=9, resume=True
    )
    check_same_settings(
        flatten_settings(asdict(config())), flatten_settings(asdict(config(**free)))
    )


def test_a_run_refuses_to_resume_with_other_settings(config):
    train(config(steps=1))
    with pytest.raises(ValueError, match="--steps was 1 and is now 2; give those of the run"):
        train(config(steps=2, resume=True))


@pytest.mark.parametrize("save_every", [1, 2])
def test_stopped_and_resumed_it_ends_like_an_uninterrupted_run(
    config, monkeypatch, tmp_path, capsys, save_every
):
    """With everything that is random, a new epoch, and an evaluation in between."""
    size = ResizeConfig(64, 96, short_sides_in_training=(50, 60, 70))
    settings = dict(
        steps=5,
        eval_every=3,
        save_every=save_every,
        ema=0.9,
        image_size=size,
        augmentation="official",
    )
    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], "dropout": 0.1})
    train(config(out=tmp_path / "whole", **settings))
    real = loop.train_step

    def killed(trainer, batches, step, progress):
        if step == 4:
            raise RuntimeError("the power fails")
        return real(trainer, batches, step, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed)
        with pytest.raises(RuntimeError, match="power"):
            train(config(**settings))
    train(config(resume=True, **settings))
    assert "after step 3" in capsys.readouterr().out
    contents = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "run")
    ]
    for part in ("model", "step"):
        torch.testing.assert_close(contents[0][part], contents[1][part], rtol=0, atol=0)
    whole, resumed = (content["training"]["trainer"] for content in contents)
    torch.testing.assert_close(whole["parameters"], resumed["parameters"], rtol=0, atol=0)
    torch.testing.assert_close(whole["optimizer"], resumed["optimizer"], rtol=0, atol=0)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "minutes"}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "run")
    ]
    assert logs[0] == logs[1]


# TensorBoard ------------------------------------------------------------------------------------


def test_tensorboard_gets_the_numbers_too(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = Run(tmp_path, {}, tensorboard=True)
    run.begin()
    run.write({"step": 4, "loss": 0.5})
    assert written == [tmp_path / "tensorboard", ("step", 4, 4), ("loss", 0.5, 4)]


def test_without_tensorboard_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard") as refused:
        Run(tmp_path, {}, tensorboard=True)
    assert "\n" not in str(refused.value)
