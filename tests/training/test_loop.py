"""The training loop: what it leaves behind, and how it ends when something goes wrong."""

import json
import math
import shutil

import pytest
import torch

import ddetr_edu.training.loop as loop
from ddetr_edu.data import CocoDetection, DataError
from ddetr_edu.detector import PictureSize
from ddetr_edu.training import TrainConfig, load, train
from ddetr_edu.training.evaluate import METRICS
from ddetr_edu.training.optim import OptimConfig, build_optimizer

SIZE = PictureSize(64, 96)


@pytest.fixture
def config(shapes_folder, tmp_path):
    """config(**changes): three steps on the small data set."""

    def make(**changes):
        return TrainConfig(**{
            **dict(data=str(shapes_folder), out=tmp_path / "run", steps=3, batch=2, size=SIZE,
                   device="cpu"),
            **changes,
        })  # fmt: skip

    return make


def log_of(config):
    return [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_it_promises(config, capsys):
    config = config(steps=11, eval_every=4)
    metrics = train(config)
    assert tuple(metrics) == METRICS
    names = ["checkpoint.pt", "config.json", "curves.png", "metrics.jsonl"]
    assert sorted(p.name for p in config.out.iterdir()) == names
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")

    log = log_of(config)
    losses = [line for line in log if "loss" in line]
    assert [line["step"] for line in losses] == [1, 10]
    for line in losses:
        assert {"step", "minutes", "loss", "loss_label", "loss_l1", "loss_giou", "rate",
                "gradient_norm"} == set(line)  # fmt: skip
        parts = line["loss_label"] + line["loss_l1"] + line["loss_giou"]
        assert 0 < parts < line["loss"]  # which counts the earlier layers, too
    evaluations = [line for line in log if "AP" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 11]
    assert evaluations[-1]["AP"] == pytest.approx(metrics["AP"], abs=1e-6)

    saved = json.loads((config.out / "config.json").read_text())
    assert saved["steps"] == 11 and saved["size"] == {"short_side": 64, "long_side": 96}
    assert saved["optim"]["lr"] == config.optim.lr and saved["out"] == str(config.out)

    detector = load(config.out / "checkpoint.pt")
    assert detector.size == SIZE and detector.categories[1] == "circle"
    printed = capsys.readouterr().out
    assert "5 pictures to learn from, 3 to evaluate on" in printed
    assert "Average Precision" in printed and "done after 11 steps" in printed


def weights_of(config):
    train(config)
    return load(config.out / "checkpoint.pt").model.state_dict()


def test_the_same_seed_gives_the_same_weights(config, tmp_path):
    first = weights_of(config())
    again = weights_of(config(out=tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = weights_of(config(out=tmp_path / "other", seed=1))
    assert not torch.equal(first["level_embedding"], other["level_embedding"])


def test_evaluating_in_between_does_not_change_the_training(config, tmp_path):
    first = weights_of(config())
    again = weights_of(config(out=tmp_path / "again", eval_every=1))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_every_trainable_weight_moves(config, build):
    config = config(optim=OptimConfig(warmup_steps=1))
    torch.manual_seed(config.seed)
    before = loop.build_detector(config, {n: str(n) for n in range(1, 7)}).model
    after = weights_of(config)
    still = {n for n, p in before.named_parameters() if torch.equal(p, after[n])}
    assert still == set()


def test_options_of_the_model_and_of_training_arrive(config):
    names = {n: str(n) for n in range(1, 4)}
    usual = loop.build_detector(config(), names)
    assert usual.denoising is None and usual.model.config.look_forward == "once"
    detector = loop.build_detector(config(denoising=3, look_forward="twice"), names)
    assert detector.denoising.groups == 3 and detector.model.config.look_forward == "twice"
    assert detector.model.state_dict().keys() == usual.model.state_dict().keys()
    optimizer = build_optimizer(detector, OptimConfig())
    learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(id(p) in learning for p in detector.denoising.parameters())


def test_a_nan_loss_names_the_pictures_and_keeps_the_last_checkpoint(config, monkeypatch):
    config = config(steps=9, eval_every=2)
    seen = []
    real = loop.Detector.forward

    def poisoned(self, images, targets=None):
        losses = real(self, images, targets) if targets is not None else real(self, images)
        if targets is not None:
            seen.append(len(images))
            if len(seen) == 3:
                losses["loss_l1"] = losses["loss_l1"] * math.nan
        return losses

    ids = []
    step = loop.training_step

    def spy(detector, optimizer, images, targets, clock, optim):
        ids.append([target["image_id"] for target in targets])
        spy.before = {n: p.clone() for n, p in detector.named_parameters()}
        spy.detector = detector
        return step(detector, optimizer, images, targets, clock, optim)

    monkeypatch.setattr(loop.Detector, "forward", poisoned)
    monkeypatch.setattr(loop, "training_step", spy)
    with pytest.raises(loop.NonFiniteLoss, match="at step 3 the loss is nan") as raised:
        train(config)
    assert f"ids {ids[2][0]}, {ids[2][1]};" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(p, spy.before[n]) for n, p in spy.detector.named_parameters())
    kept = torch.load(config.out / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 2
    load(config.out / "checkpoint.pt")


def test_ctrl_c_saves_what_has_been_learned(config, monkeypatch, capsys):
    config = config(steps=50)
    step = loop.training_step

    def interrupted(detector, optimizer, images, targets, clock, optim):
        if clock.step == 3:
            raise KeyboardInterrupt
        return step(detector, optimizer, images, targets, clock, optim)

    monkeypatch.setattr(loop, "training_step", interrupted)
    try:
        metrics = train(config)
    except KeyboardInterrupt:  # would end the whole test run
        pytest.fail("the interrupt was not caught")
    assert tuple(metrics) == METRICS
    assert load(config.out / "checkpoint.pt")
    assert (config.out / "curves.png").exists()
    assert "stopped by the keyboard after 3 steps" in capsys.readouterr().out


def test_two_pictures_are_learned(shapes_folder):
    """Fifty steps on the same two pictures take the loss to less than half."""
    config = TrainConfig(data=str(shapes_folder), overfit=2, steps=50, size=SIZE, batch=2)
    torch.manual_seed(0)
    dataset, same = loop.open_datasets(config)
    assert dataset is same and len(dataset) == 2
    detector = loop.build_detector(config, dataset.categories).train()
    optim = OptimConfig(warmup_steps=5)
    optimizer = build_optimizer(detector, optim)
    clock = loop.Clock(None, config.steps)
    losses = []
    pictures = loop.batches(dataset, config)
    while clock.progress < 1:
        clock.step += 1
        losses.append(
            loop.training_step(detector, optimizer, *next(pictures), clock, optim)["loss"]
        )
    assert len(losses) == 50
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_gradients_are_clipped_and_the_rate_follows_the_clock(config, build, shapes_folder):
    dataset = CocoDetection(shapes_folder, "train")
    detector = build(categories=dataset.categories).train()
    optim = OptimConfig(warmup_steps=10, clip=0.01)
    optimizer = build_optimizer(detector, optim)
    clock = loop.Clock(None, 100)
    clock.step = 4
    images, targets = zip(*(dataset[i] for i in range(2)), strict=True)
    line = loop.training_step(detector, optimizer, list(images), list(targets), clock, optim)
    norm = torch.stack([p.grad.norm() for p in detector.parameters()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3) and line["gradient_norm"] > 1
    assert line["rate"] == pytest.approx(0.8 * (0.01 + 0.99 * (1 + math.cos(0.04 * math.pi)) / 2))


def test_a_step_forgets_the_gradients_of_the_step_before(build, shapes_folder):
    dataset = CocoDetection(shapes_folder, "train")
    images, targets = zip(*(dataset[i] for i in range(2)), strict=True)
    norms = []
    for stale in (None, 1000.0):
        detector = build(categories=dataset.categories).train()
        for parameter in detector.parameters():
            parameter.grad = None if stale is None else torch.full_like(parameter, stale)
        optim, clock = OptimConfig(), loop.Clock(None, 9)
        optimizer = build_optimizer(detector, optim)
        line = loop.training_step(detector, optimizer, list(images), list(targets), clock, optim)
        norms.append(line["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


# Data -------------------------------------------------------------------------------------------


def ids_of(pictures, count):
    return [tuple(t["image_id"] for t in next(pictures)[1]) for _ in range(count)]


def test_each_pass_takes_every_picture_in_a_new_order(config):
    config = config(batch=1)
    dataset = CocoDetection(config.data, "train")
    passes = [ids_of(pictures, 5) for pictures in [loop.batches(dataset, config)] for _ in range(3)]
    assert all(sorted(i for (i,) in one) == dataset.image_ids for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    assert ids_of(loop.batches(dataset, config), 5) == passes[0]


def test_batches_are_full_and_no_larger_than_the_set(config):
    dataset = CocoDetection(config().data, "train")
    assert {len(b) for b in ids_of(loop.batches(dataset, config(batch=3)), 4)} == {3}
    assert {len(b) for b in ids_of(loop.batches(dataset, config(batch=99)), 2)} == {5}


def test_generated_scenes_never_repeat_and_differ_from_those_evaluated_on(config):
    training, validation = loop.open_datasets(config(data="shapes"))
    assert len(training) == loop.ENDLESS and len(validation) == 200
    assert training.seed != validation.seed
    assert ids_of(loop.batches(training, config(data="shapes")), 2) == [(1, 2), (3, 4)]


def test_training_mirrors_pictures_and_learning_by_heart_does_not(config):
    training, validation = loop.open_datasets(config())
    assert training.transforms is not None and validation.transforms is None
    assert training.folder.name == "train" and validation.folder.name == "val"
    by_heart, same = loop.open_datasets(config(overfit=3))
    assert same is by_heart and by_heart.transforms is None and len(by_heart) == 3
    scenes, same = loop.open_datasets(config(data="shapes", overfit=3))
    assert same is scenes and len(scenes) == 3


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(), "give --minutes or --steps"),
        (dict(minutes=1, steps=2), "and not both"),
        (dict(steps=0), "--steps is 0"),
        (dict(minutes=-1), "--minutes is -1"),
        (dict(steps=1, batch=0), "--batch is 0"),
        (dict(steps=1, overfit=0), "--overfit is 0"),
        (dict(steps=1, eval_every=0), "--eval-every is 0"),
        (dict(steps=1, denoising=-1), "--denoising is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_the_clock_stands_still_while_paused(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    clock = loop.Clock(minutes=10, steps=None)
    now[0] += 120
    with clock.paused():
        now[0] += 5000
    now[0] += 180
    assert clock.minutes == pytest.approx(5) and clock.progress == pytest.approx(0.5)
    now[0] += 6000
    assert clock.progress == 1
    steps = loop.Clock(minutes=None, steps=8)
    steps.step = 2
    assert steps.progress == 0.25


def test_validation_pictures_of_another_kind_are_noticed_before_training(
    config, shapes_folder, tmp_path, monkeypatch
):
    shutil.copytree(shapes_folder, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_val.json"
    data = json.loads(file.read_text())
    data["categories"].append({"id": 77, "name": "comb"})
    file.write_text(json.dumps(data))
    monkeypatch.setattr(loop, "training_step", lambda *a: pytest.fail("it trained"))
    with pytest.raises(ValueError, match=r"category 77 \(comb\)"):
        train(config(data=str(tmp_path / "data")))


def test_a_missing_data_set_is_named_and_nothing_is_written(config, tmp_path):
    config = config(data=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere is not a COCO data set"):
        train(config)
    assert not config.out.exists()


def test_more_pictures_to_overfit_than_there_are(config):
    with pytest.raises(DataError, match="5 pictures with an object, so the first 9"):
        train(config(overfit=9))


def test_a_device_that_is_not_there_is_named(config):
    for name in ("abacus", "cuda:99"):
        with pytest.raises(ValueError, match=f'device "{name}" cannot be used') as refused:
            train(config(device=name))
        assert "\n" not in str(refused.value)
    assert loop.pick_device("cpu").type == "cpu"


def test_imagenet_weights_need_a_resnet(config):
    with pytest.raises(ValueError, match="preset tiny has none"):
        train(config(imagenet=True))


def test_imagenet_weights_are_loaded_where_asked_for(config, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "ddetr_edu.detector.backbone.ResNetBackbone.load_imagenet", lambda self: loaded.append(1)
    )
    monkeypatch.setitem(
        loop.DeformableDETRConfig.preset.__globals__["PRESETS"], "r18",
        dict(backbone="resnet18", d_model=32, n_heads=2, n_encoder_layers=0, n_decoder_layers=1,
             d_ffn=8, n_queries=3),
    )  # fmt: skip
    detector = loop.build_detector(config(preset="r18", imagenet=True), {4: "a"})
    assert loaded == [1] and detector.model.config.num_classes == 1
    loop.build_detector(config(preset="r18"), {4: "a"})
    assert loaded == [1]
