"""A run's folder: what is kept, what a resumed run may change, and a full disk."""

import errno
import json
import multiprocessing
import shutil
import sys
import types
from dataclasses import asdict

import pytest
import torch

import ddetr_edu.training.run as run_module
from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.checkpoints.safe_load import CheckpointError
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.models.backbone import ResNetBackbone
from ddetr_edu.models.config import PRESETS, ResizeConfig
from ddetr_edu.training import loop
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import OptimConfig
from ddetr_edu.training.loop import train
from ddetr_edu.training.run import Run, lines_until
from ddetr_edu.training.settings import check_same_categories, check_same_settings, flatten_settings
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
    run.close()
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]
    clock = at(0)
    again = Run(run.folder, {"seed": 1}, keep_checkpoints=2)
    assert again.resume(trainer, clock) and clock.step == 5


def test_an_earlier_run_is_never_lost(run, trainer, tmp_path):
    """Not even the log of a run without a checkpoint, nor a run whose newest checkpoint is gone."""
    run.begin()
    run.write({"step": 1, "loss": 2.5})
    run.begin()
    assert "2.5" in (run.folder / "run-1" / "metrics.jsonl").read_text()
    run.save(trainer, at(3))
    run.log_evaluation(trainer, at(3), {"AP": 0.1, "AP50": 0.2})
    run.checkpoint.unlink()
    (run.folder / "tensorboard").mkdir()
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "run-7").mkdir()  # numbers are never used again
    run.begin()
    kept = {path.name for path in (run.folder / "run-8").iterdir()}
    assert kept == {"best.pt", "metrics.jsonl", "config.json", "curves.png", "tensorboard"}
    left = {path.name for path in run.folder.iterdir()} - {".lock"}
    assert left == {"run-1", "run-7", "run-8", "notes.txt", "metrics.jsonl", "config.json"}


def test_an_empty_log_is_no_run_to_keep(run):
    run.begin()
    run.begin()
    assert not list(run.folder.glob("run-*"))


def test_two_processes_cannot_write_to_one_folder(run, trainer):
    """The second run of two terminals would take the files away from under the first."""

    def begin_elsewhere():
        try:
            Run(run.folder, {}).begin()
        except ValueError as error:
            return str(error)
        return "it began"

    def ask():
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        other = context.Process(target=lambda: queue.put(begin_elsewhere()))
        other.start()
        answer = queue.get(timeout=60)
        other.join()
        return answer

    run.begin()
    run.save(trainer, at(3))
    assert "another run is writing to" in ask()
    assert step_of(run.checkpoint) == 3 and not list(run.folder.glob("run-*"))
    run.close()
    assert not list(run.folder.glob(".*")) and ask() == "it began"


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
    again.close()
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


def test_another_number_of_processes_is_not_called_an_option():
    with pytest.raises(ValueError, match=r"the number of processes \(torchrun .* was 2 and is now"):
        check_same_settings({"processes": 2}, {"processes": 1})


@pytest.fixture
def own_data(shapes_folder, tmp_path):
    """A copy of the small data set, and edit(text, text) for the annotations of both splits."""
    shutil.copytree(shapes_folder, tmp_path / "data")

    def edit(change):
        for split in ("train", "val"):
            file = tmp_path / "data" / "annotations" / f"instances_{split}.json"
            content = json.loads(file.read_text())
            change(content)
            file.write_text(json.dumps(content))

    return str(tmp_path / "data"), edit


def swap(content):
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def add(content):
    content["categories"].append({"id": 9, "name": "comb"})


def rename(content):
    content["categories"][0]["name"] = "disc"


@pytest.mark.parametrize(
    "change, named",
    [
        (swap, r"the category 1 \(square\), .*: its category 1 is circle;"),
        (add, r"the category 9 \(comb\), which this detector was not trained for;"),
        (rename, r"the category 1 \(disc\), .*: its category 1 is circle;"),
    ],
)
def test_a_run_refuses_to_resume_on_other_categories(config, own_data, change, named):
    data, edit = own_data
    train(config(data=data, steps=2))
    before = config().out.joinpath("checkpoint.pt").read_bytes()
    edit(change)
    with pytest.raises(ValueError, match=named) as refused:
        train(config(data=data, steps=2, resume=True))
    assert "\n" not in str(refused.value) and "--start-from" in str(refused.value)
    assert config().out.joinpath("checkpoint.pt").read_bytes() == before


def test_missing_categories_and_another_order_are_refused_too(tmp_path):
    with pytest.raises(ValueError, match="the data set no longer has b, c; restore"):
        check_same_categories({1: "a", 2: "b", 3: "c"}, {1: "a"}, tmp_path)
    with pytest.raises(ValueError, match="the data set has another order; restore"):
        check_same_categories({2: "b", 1: "a"}, {1: "a", 2: "b"}, tmp_path)
    check_same_categories({1: "a"}, {1: "a"}, tmp_path)


def test_a_run_resumes_on_another_number_of_images_and_says_so(config, own_data, capsys):
    data, edit = own_data
    train(config(data=data))
    edit(lambda content: content["images"].append({**content["images"][0], "id": 99}))
    train(config(data=data, resume=True))
    assert "the training set had 5 images and now has 6" in capsys.readouterr().out


def test_a_fine_tuning_resumes_without_the_checkpoint_it_started_from(
    config, build, tmp_path, monkeypatch
):
    start = tmp_path / "start.pt"
    names = CocoDetection(config().data, "train").categories
    save(start, build(categories={7: names[1], 8: "comb"}))
    settings = dict(start_from=start, steps=3, save_every=1)
    train(config(out=tmp_path / "whole", **settings))
    real = loop.train_step

    def killed(trainer, batches, step, progress):
        if step == 3:
            raise RuntimeError("the power fails")
        return real(trainer, batches, step, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed)
        with pytest.raises(RuntimeError, match="power"):
            train(config(**settings))
    start.unlink()
    train(config(resume=True, **settings))
    whole, resumed = (load(tmp_path / name / "checkpoint.pt") for name in ("whole", "run"))
    assert whole.categories == resumed.categories == names
    whole, resumed = (detector.model.state_dict() for detector in (whole, resumed))
    torch.testing.assert_close(whole, resumed, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="no checkpoint at .*start.pt"):
        train(config(out=tmp_path / "new", resume=True, **settings))


def test_a_resumed_run_downloads_nothing(config, monkeypatch):
    small = dict(d_model=32, n_heads=2, n_encoder_layers=0, n_decoder_layers=1, d_ffn=8)
    monkeypatch.setitem(PRESETS, "r18", dict(backbone="resnet18", n_queries=3, **small))
    monkeypatch.setattr(ResNetBackbone, "load_imagenet", lambda self: None)
    settings = dict(preset="r18", imagenet=True, steps=1)
    train(config(**settings))
    monkeypatch.setattr(ResNetBackbone, "load_imagenet", lambda self: pytest.fail("a download"))
    train(config(resume=True, **settings))


def test_a_run_that_cannot_be_resumed_says_that_it_begins(config, capsys):
    train(config(steps=1, resume=True))
    assert "has no checkpoint to resume from: this run starts at step 1" in capsys.readouterr().out


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
    run.write({"step": 4, "loss": 0.5, "matched_queries": [3, 1]})  # no list
    assert written == [tmp_path / "tensorboard", ("step", 4, 4), ("loss", 0.5, 4)]
    run.begin()  # after the files of the run before have been moved
    assert written[3:] == [tmp_path / "tensorboard"]


def test_without_tensorboard_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard") as refused:
        Run(tmp_path, {}, tensorboard=True)
    assert "\n" not in str(refused.value)
