"""The training loop: what it writes, and how it ends when something goes wrong."""

import json
import math
import multiprocessing
import re
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torchvision.transforms import v2

from ddetr_edu.checkpoints.io import load
from ddetr_edu.data.annotations import DataError
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.evaluation.coco_metrics import METRICS
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training import clock as clock_module
from ddetr_edu.training import loop, prepare
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.loop import train
from ddetr_edu.training.optim import build_optimizer
from ddetr_edu.training.signals import stop_requests
from ddetr_edu.training.trainer import NonFiniteLoss, Trainer

SIZE = ResizeConfig(64, 96)


def log_of(config):
    return [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_all_its_files(config, capsys):
    config = config(steps=11, eval_every=4)
    metrics = train(config)
    assert tuple(metrics) == METRICS
    names = [
        "best.pt",
        "checkpoint-0000008.pt",
        "checkpoint.pt",
        "config.json",
        "curves.png",
        "metrics.jsonl",
    ]
    assert sorted(p.name for p in config.out.iterdir()) == names
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")

    log = log_of(config)
    losses = [line for line in log if "loss" in line]
    assert [line["step"] for line in losses] == [1, 10]
    for line in losses:
        assert {
            "step",
            "minutes",
            "loss",
            "loss_label",
            "loss_l1",
            "loss_giou",
            "lr",
            "gradient_norm",
        } == set(line)
        parts = line["loss_label"] + line["loss_l1"] + line["loss_giou"]
        assert 0 < parts < line["loss"]  # which includes the earlier layers
    evaluations = [line for line in log if "AP" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 11]
    assert evaluations[-1]["AP"] == pytest.approx(metrics["AP"], abs=1e-6)

    saved = json.loads((config.out / "config.json").read_text())
    assert saved["steps"] == 11 and saved["image_size.short_side"] == 64
    assert saved["image_size.long_side"] == 96
    assert saved["optim.lr"] is None and saved["out"] == str(config.out)

    detector = load(config.out / "checkpoint.pt")
    assert detector.resize == SIZE and detector.categories[1] == "circle"
    printed = capsys.readouterr().out
    assert "5 training images, 3 validation images" in printed
    assert "Average Precision" in printed and "done after 11 steps" in printed


def parameters_of(config):
    train(config)
    return load(config.out / "checkpoint.pt").model.state_dict()


def test_the_same_seed_gives_the_same_parameters(config, tmp_path):
    first = parameters_of(config())
    again = parameters_of(config(out=tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = parameters_of(config(out=tmp_path / "other", seed=1))
    assert not torch.equal(first["level_embedding"], other["level_embedding"])


def test_each_step_draws_different_random_numbers(config, monkeypatch):
    real, drawn = loop.train_step, []

    def spy(trainer, batches, step, progress):
        drawn.append(torch.rand(3).tolist())
        return real(trainer, batches, step, progress)

    monkeypatch.setattr(loop, "train_step", spy)
    train(config())
    train(config(seed=1))
    assert len(drawn) == 6 and len({tuple(numbers) for numbers in drawn}) == 6


def test_evaluating_in_between_does_not_change_the_training(config, tmp_path):
    first = parameters_of(config())
    again = parameters_of(config(out=tmp_path / "again", eval_every=1))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_every_trainable_parameter_changes(config, build):
    config = config(steps=4, optim=OptimConfig(warmup_steps=1))
    torch.manual_seed(config.seed)
    before = prepare.build_detector(config, {n: str(n) for n in range(1, 7)}).model
    after = parameters_of(config)
    unchanged = {n for n, p in before.named_parameters() if torch.equal(p, after[n])}
    assert unchanged == set()


def test_options_reach_the_model_and_the_training(config):
    names = {n: str(n) for n in range(1, 4)}
    usual = prepare.build_detector(config(), names)
    assert usual.denoising is None and usual.model.config.look_forward == "once"
    detector = prepare.build_detector(config(denoising=3, look_forward="twice"), names)
    assert detector.denoising.groups == 3 and detector.model.config.look_forward == "twice"
    assert detector.model.state_dict().keys() == usual.model.state_dict().keys()
    preset = config(preset="tiny_two_stage")
    assert prepare.build_detector(preset, names).model.config.look_forward == "twice"
    given = replace(preset, look_forward="once")
    assert prepare.build_detector(given, names).model.config.look_forward == "once"
    optimizer = build_optimizer(detector, OptimConfig().filled("fast"))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(id(p) in trained for p in detector.denoising.parameters())


def test_a_nan_loss_names_the_images_and_keeps_the_last_checkpoint(config, monkeypatch):
    config = config(steps=9, eval_every=2)
    real, ids = Trainer.losses, []

    def poisoned(self, images, targets, *counts):
        losses = real(self, images, targets, *counts)
        ids.append([target["image_id"] for target in targets])
        poisoned.trainer = self
        if len(ids) == 3:
            poisoned.before = {n: p.clone() for n, p in self.detector.named_parameters()}
            losses["loss_l1"] = losses["loss_l1"] * math.nan
        return losses

    monkeypatch.setattr(Trainer, "losses", poisoned)
    with pytest.raises(NonFiniteLoss, match="at step 3 the loss is nan") as raised:
        train(config)
    assert f"ids {ids[2][0]}, {ids[2][1]};" in str(raised.value)
    assert "\n" not in str(raised.value)
    after = poisoned.trainer.detector.named_parameters()
    assert all(torch.equal(p, poisoned.before[n]) for n, p in after)
    assert torch.load(config.out / "checkpoint.pt", weights_only=True)["step"] == 2
    load(config.out / "checkpoint.pt")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_stopped_by_a_signal_it_saves_and_says_how_to_resume(config, monkeypatch, name):
    config = config(steps=50)
    real = loop.train_step

    def interrupted(trainer, batches, step, progress):
        if step == 4:
            signal.raise_signal(getattr(signal, name))
        return real(trainer, batches, step, progress)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after 4 steps .* with --resume continues"):
        train(config)
    assert torch.load(config.out / "checkpoint.pt", weights_only=True)["step"] == 4
    assert load(config.out / "checkpoint.pt")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop_requested:
        signal.raise_signal(signal.SIGINT)
        assert stop_requested.is_set()
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it continued")


def test_an_unexpected_error_leaves_no_worker_behind(config, monkeypatch):
    """A worker ignores SIGTERM, so the program would wait for it for ever."""

    def broken(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(RuntimeError, match="a bug") as error:
        train(config(workers=1))
    assert error.tb is not None  # its frames are still alive
    assert multiprocessing.active_children() == []


def test_two_images_are_overfitted(config):
    """Fifty steps on the same two images take the loss to less than half."""
    config = config(overfit=2, steps=50, optim=OptimConfig(warmup_steps=5), eval_every=60)
    train(config)
    losses = [line["loss"] for line in log_of(config) if "loss" in line]
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]


def test_every_earlier_run_is_kept_under_a_number_of_its_own(config, capsys):
    out, checkpoints = config().out, []
    for steps in (1, 2, 3):
        train(config(steps=steps))
        checkpoints.append((out / "checkpoint.pt").read_bytes())
    for number in (1, 2):
        kept = out / f"run-{number}"
        assert (kept / "checkpoint.pt").read_bytes() == checkpoints[number - 1]
        assert json.loads((kept / "config.json").read_text())["steps"] == number
        assert {"best.pt", "metrics.jsonl", "curves.png"} <= {path.name for path in kept.iterdir()}
    assert json.loads((out / "config.json").read_text())["steps"] == 3
    printed = capsys.readouterr().out
    for number in (1, 2):
        assert f"held an earlier run, which is now in {out / f'run-{number}'}" in printed
    assert not list(out.glob("checkpoint-*"))


def test_after_eleven_steps_it_estimates_the_remaining_time(config, capsys):
    train(config(steps=12, optim=OptimConfig(warmup_steps=3)))
    printed = capsys.readouterr().out
    assert re.search(r"\d+\.\d\d s per step, \d+\.\d GiB of memory, \d+\.\d minutes left", printed)
    assert "12 steps (6 epochs), batch size 2" in printed
    assert "cpu with 1 thread, fp32, no data loading workers" in printed


# Data that cannot be learned, or not completely -------------------------------------------------


@pytest.fixture
def own_data(shapes_folder, tmp_path):
    """own_data(split, change): the small data set with changed annotations."""
    shutil.copytree(shapes_folder, tmp_path / "data")

    def change_annotations(split, change):
        file = tmp_path / "data" / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["annotations"] = change(content["annotations"])
        file.write_text(json.dumps(content))
        return str(tmp_path / "data")

    return change_annotations


def test_more_objects_than_queries_are_announced_before_training(
    config, own_data, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "train_step", lambda *a: pytest.fail("it trained"))
    data = own_data("train", lambda entries: [{**entries[0], "id": i} for i in range(1, 15)])
    with pytest.raises(pytest.fail.Exception, match="it trained"):
        train(config(data=data))
    printed = capsys.readouterr().out
    assert "objects  training: image 1 has 14 objects, and a detector finds at most" in printed
    assert "1 with more than 13" in printed and "validation: image" not in printed


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda entries: [{**a, "iscrowd": 1} for a in entries], "boxes are marked as crowds"),
        (lambda entries: [], "no object to train on"),
    ],
)
def test_a_set_without_an_object_is_refused_before_training(config, own_data, change, message):
    with pytest.raises(DataError, match=message):
        train(config(data=own_data("train", change)))
    assert not config().out.exists()


def test_that_there_is_nothing_to_evaluate_is_said_before_training(config, own_data, capsys):
    train(config(data=own_data("val", lambda entries: []), steps=1))
    assert "validation: no image has an object, so every AP will be -1" in capsys.readouterr().out


# Data -------------------------------------------------------------------------------------------


def test_generated_scenes_come_in_order_and_differ_from_the_validation_scenes(config):
    config = config(data="shapes")
    training, validation = prepare.open_datasets(config)
    assert len(training) == prepare.GENERATED_IMAGES and len(validation) == 200
    assert training.seed != validation.seed
    first = next(prepare.build_sampler(config, training).batches_from(3))
    indices = [sample.image for sample in first]
    landscape = {w > h for h, w in map(training.size, indices)}
    assert len(landscape) == 1 and max(indices) < 40 and len(set(indices)) == 2


def test_a_batch_is_no_larger_than_the_set(config):
    dataset = CocoDetection(config().data, "train")
    assert prepare.build_sampler(config(batch_size=99), dataset).batch_size == 5
    assert prepare.build_sampler(config(batch_size=99, grad_accum_steps=2), dataset).batch_size == 2
    with pytest.raises(ValueError, match="a step takes 6 .*--grad-accum-steps 6.* there are 5"):
        prepare.build_sampler(config(batch_size=1, grad_accum_steps=6), dataset)


def test_epochs_are_converted_to_steps(config):
    sampler = prepare.build_sampler(config(), CocoDetection(config().data, "train"))
    assert sampler.steps_per_epoch == 2  # five images, two at a time
    for epochs, steps in ((3, 6), (0.5, 1), (0.1, 1)):
        assert prepare.count_steps(config(epochs=epochs, steps=None), sampler) == steps
    assert prepare.count_steps(config(minutes=1, steps=None), sampler) is None


def test_training_flips_images_and_overfitting_does_not(config):
    training, validation = prepare.open_datasets(config())
    assert isinstance(training.transforms, v2.RandomHorizontalFlip)
    official, _ = prepare.open_datasets(config(augmentation="official"))
    assert "RandomSizeCrop" in str(official.transforms)
    assert validation.transforms is None
    assert training.folder.name == "train" and validation.folder.name == "val"
    few, same = prepare.open_datasets(config(overfit=3))
    assert same is few and few.transforms is None and len(few) == 3
    scenes, same = prepare.open_datasets(config(data="shapes", overfit=3))
    assert same is scenes and len(scenes) == 3


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(), "give --minutes or --steps"),
        (dict(minutes=1, steps=2), "only one of them"),
        (dict(epochs=1), "generated scenes are endless"),
        (dict(epochs=0, data="x"), "--epochs is 0"),
        (dict(steps=1, grad_accum_steps=0), "--grad-accum-steps is 0"),
        (dict(steps=1, save_every=0), "--save-every is 0"),
        (dict(steps=1, workers=-1), "--workers is -1"),
        (dict(steps=1, keep_checkpoints=-2), "--keep-checkpoints is -2"),
        (dict(steps=1, ema=1.0), "--ema is 1.0"),
        (dict(steps=1, seed=10**6), "--seed is 1000000"),
        (dict(steps=0), "--steps is 0"),
        (dict(minutes=-1), "--minutes is -1"),
        (dict(steps=1, batch_size=0), "--batch-size is 0"),
        (dict(steps=1, overfit=0), "--overfit is 0"),
        (dict(steps=1, eval_every=0), "--eval-every is 0"),
        (dict(steps=1, denoising=-1), "--denoising is -1"),
    ],
)
def test_invalid_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_the_clock_stops_while_paused(monkeypatch):
    now, cpu = [1000.0], torch.device("cpu")
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = Clock(max_minutes=10, max_steps=None)
    now[0] += 120
    with clock.paused():
        now[0] += 5000
    now[0] += 180
    clock.tick(cpu)
    assert clock.minutes == pytest.approx(5) and clock.progress == pytest.approx(0.5)
    assert clock.step == 1 and clock.minutes_left(7) == pytest.approx(5)
    now[0] += 6000
    clock.tick(cpu)
    assert clock.progress == 1
    clock.start(step=70, minutes=2)
    now[0] += 60
    clock.tick(cpu)
    assert clock.step == 71 and clock.minutes == pytest.approx(3)
    steps = Clock(max_minutes=None, max_steps=8)
    steps.start(step=2)
    assert steps.progress == 0.25 and steps.minutes_left(30) == 3


def test_unknown_categories_of_validation_images_are_noticed_before_training(
    config, shapes_folder, tmp_path, monkeypatch
):
    shutil.copytree(shapes_folder, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_val.json"
    data = json.loads(file.read_text())
    data["categories"].append({"id": 77, "name": "comb"})
    file.write_text(json.dumps(data))
    monkeypatch.setattr(loop, "train_step", lambda *a: pytest.fail("it trained"))
    with pytest.raises(ValueError, match=r"category 77 \(comb\)"):
        train(config(data=str(tmp_path / "data")))


def test_a_missing_data_set_is_named_and_nothing_is_written(config, tmp_path):
    config = config(data=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere is not a COCO data set"):
        train(config)
    assert not config.out.exists()


def test_more_images_to_overfit_than_there_are_is_refused(config):
    with pytest.raises(DataError, match="5 images with an object, so the first 9"):
        train(config(overfit=9))


def test_a_device_that_is_not_available_is_named(config):
    for name in ("abacus", "cuda:99"):
        with pytest.raises(ValueError, match=f'device "{name}" cannot be used') as refused:
            train(config(device=name))
        assert "\n" not in str(refused.value)
    assert prepare.pick_device("cpu").type == "cpu"


def test_imagenet_parameters_need_a_resnet(config):
    with pytest.raises(ValueError, match="and tiny has none"):
        train(config(imagenet=True))


def test_imagenet_parameters_are_loaded_on_request(config, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "ddetr_edu.models.backbone.ResNetBackbone.load_imagenet", lambda self: loaded.append(1)
    )
    monkeypatch.setitem(
        prepare.PRESETS,
        "r18",
        dict(
            backbone="resnet18",
            d_model=32,
            n_heads=2,
            n_encoder_layers=0,
            n_decoder_layers=1,
            d_ffn=8,
            n_queries=3,
        ),
    )
    detector = prepare.build_detector(config(preset="r18", imagenet=True), {4: "a"})
    assert loaded == [1] and detector.model.config.num_classes == 1
    prepare.build_detector(config(preset="r18"), {4: "a"})
    assert loaded == [1]
