"""Each option of `ddetr train` changes something, and one that cannot act is refused."""

import hashlib
import json
import math
import re
import shutil
import sys
import types
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.cli.main import main
from ddetr_edu.data.faults import DataError
from ddetr_edu.models.backbone import ResNetBackbone
from ddetr_edu.models.config import DETR_PRESETS, PRESETS, ResizeConfig
from ddetr_edu.models.preprocessing import make_batch
from ddetr_edu.training import prepare
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.contention import chosen_threads
from ddetr_edu.training.loop import train
from ddetr_edu.training.optim import build_optimizer, set_lr
from ddetr_edu.training.settings import flatten_settings

R18 = dict(
    backbone="resnet18",
    d_model=32,
    n_heads=2,
    n_encoder_layers=0,
    n_decoder_layers=1,
    d_ffn=8,
    n_queries=3,
)


@pytest.fixture
def config(config, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny_two_stage", {**PRESETS["tiny"], "two_stage": True})
    monkeypatch.setitem(PRESETS, "r18", R18)
    monkeypatch.setitem(DETR_PRESETS, "detr_r18", R18)
    return config


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


# What a configuration leads to; each of these is one step of `train`, or all of it.


def data_of(config):
    training, validation = prepare.open_datasets(config)
    return len(training), str(training.transforms), len(validation), training[0][1]["boxes"].sum()


def detector_of(config):
    torch.manual_seed(config.seed)
    return prepare.build_detector(config, prepare.open_datasets(config)[0].categories)


def model_of(config):
    detector = detector_of(config)
    encoder = getattr(detector.model, "encoder", None)
    return (
        detector.model.config,
        detector.denoising and detector.denoising.groups,
        getattr(encoder, "checkpoint_activations", None),
        digest(detector.parameters()),
    )


def sizes_of(config):
    images, shapes = [torch.zeros(3, 130, 170), torch.zeros(3, 170, 100)], []
    for seed in range(4):
        torch.manual_seed(seed)
        shapes.append(make_batch(images, detector_of(config).resize, training=True)[0].shape)
    return shapes


def batches_of(config):
    sampler = prepare.build_sampler(config, prepare.open_datasets(config)[0])
    batches = sampler.batches_from(0)
    return [next(batches) for _ in range(4)], sampler.images_per_step


def length_of(config):
    sampler = prepare.build_sampler(config, prepare.open_datasets(config)[0])
    clock = Clock(config.minutes, prepare.count_steps(config, sampler))
    return clock.max_minutes, clock.max_steps


def optimizer_of(config):
    filled = prepare.pick_optim(config)
    optimizer = build_optimizer(detector_of(config), filled)
    groups = [
        (g["lr"], g["weight_decay"], g["betas"], len(g["params"])) for g in optimizer.param_groups
    ]
    lrs = [set_lr(optimizer, step, progress, filled) for step, progress in ((1, 0), (9, 0.9))]
    return groups, lrs


def parameters_of(config):
    train(config)
    return digest(load(config.out / "checkpoint.pt").model.state_dict().values())


def files_of(config):
    train(config)
    files = sorted(path.relative_to(config.out.parent) for path in config.out.rglob("*"))
    return [path.as_posix() for path in files]


def moved_of(config):
    train(replace(config, resume=False))
    before = len(list(config.out.glob("run-*")))
    train(config)
    return len(list(config.out.glob("run-*"))) - before


def log_of(config):
    train(config)
    return [re.sub(r"\d+\.\d+", "", line) for line in (config.out / "metrics.jsonl").open()]


def refusal_of(config):
    """Whether a data set is refused that has a box of no width."""
    folder = config.out.parent / f"faulty-{config.strict}"
    shutil.copytree(config.data, folder)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    try:
        prepare.open_datasets(replace(config, data=folder))
    except DataError:
        return True
    return False


def threads_of(config):
    with chosen_threads(config, torch.device("cpu")) as most:
        return most, torch.get_num_threads()


def optim(**values):
    return dict(optim=OptimConfig(**values))


def size(*sides, **values):
    return dict(image_size=ResizeConfig(*(sides or (64, 96)), **values))


# option: (a setting, another setting of the same option, what must differ)
CHANGES = {
    "data": (dict(), dict(data="shapes"), data_of),
    "preset": (dict(), dict(preset="tiny_two_stage"), model_of),
    "start_from": (dict(), dict(start_from="c.pt"), model_of),
    "look_forward": (dict(), dict(look_forward="twice"), model_of),
    "denoising": (dict(), dict(denoising=2), model_of),
    "class_loss": (dict(), dict(class_loss="varifocal"), parameters_of),
    "out": (dict(), dict(out="elsewhere"), files_of),
    "resume": (dict(), dict(resume=True), moved_of),  # without it, the earlier run is moved
    "minutes": (dict(), dict(minutes=0.1, steps=None), length_of),
    "steps": (dict(), dict(steps=4), length_of),
    "epochs": (dict(), dict(epochs=2, steps=None), length_of),
    "batch_size": (dict(), dict(batch_size=1), batches_of),
    "grad_accum_steps": (dict(), dict(grad_accum_steps=2), batches_of),
    "image_size.short_side": (size(), size(80, 96), sizes_of),
    "image_size.long_side": (size(), size(64, 70), sizes_of),
    "image_size.short_sides_in_training": (
        size(),
        size(short_sides_in_training=(40, 50, 60)),
        sizes_of,
    ),
    "image_size.multiple_of": (size(), size(multiple_of=32), sizes_of),
    "augmentation": (dict(), dict(augmentation="official"), data_of),
    "strict": (dict(), dict(strict=True), refusal_of),
    "overfit": (dict(), dict(overfit=2), data_of),
    "imagenet": (dict(preset="r18"), dict(preset="r18", imagenet=True), model_of),
    "backbone": (dict(preset="r18"), dict(preset="r18", backbone="tiny"), model_of),
    "backbone_weights": (
        dict(preset="r18"),
        dict(preset="r18", backbone_weights="r18.safetensors"),
        model_of,
    ),
    "frozen_norms": (
        dict(backbone="timm/resnet18"),
        dict(backbone="timm/resnet18", frozen_norms=True),
        model_of,
    ),
    "freeze": (dict(start_from="c.pt"), dict(start_from="c.pt", freeze="backbone"), parameters_of),
    "freeze_steps": (
        dict(start_from="c.pt", freeze="backbone"),
        dict(start_from="c.pt", freeze="backbone", freeze_steps=1),
        parameters_of,
    ),
    "seed": (dict(), dict(seed=1), model_of),
    "recipe": (dict(), dict(recipe="official"), optimizer_of),
    "optim.lr": (dict(), optim(lr=1e-3), optimizer_of),
    "optim.backbone_lr_mult": (dict(), optim(backbone_lr_mult=0.5), optimizer_of),
    "optim.beta2": (dict(), optim(beta2=0.9), optimizer_of),
    "optim.weight_decay": (dict(), optim(weight_decay=0.1), optimizer_of),
    "optim.decay_bias_and_norm": (dict(), optim(decay_bias_and_norm=True), optimizer_of),
    "optim.warmup_steps": (dict(), optim(warmup_steps=1), optimizer_of),
    "optim.schedule": (dict(), optim(schedule="step"), optimizer_of),
    "optim.max_grad_norm": (dict(), optim(max_grad_norm=math.inf), parameters_of),
    "ema": (dict(), dict(ema=0.9), parameters_of),
    "device": (dict(), dict(device="cpu:0"), lambda config: prepare.pick_device(config.device)),
    "precision": (dict(), dict(precision="bf16"), parameters_of),
    "checkpoint_activations": (dict(), dict(checkpoint_activations=True), model_of),
    "threads": (dict(), dict(threads=3), threads_of),
    "workers": (dict(), dict(workers=2), prepare.pick_workers),
    "eval_every": (dict(), dict(eval_every=1), log_of),
    "save_every": (dict(), dict(save_every=1), files_of),
    "keep_checkpoints": (dict(save_every=1), dict(save_every=1, keep_checkpoints=0), files_of),
    "log_matches": (dict(), dict(log_matches=1), log_of),
    "tensorboard": (dict(), dict(tensorboard=True), files_of),
}


def test_the_table_has_every_option(config):
    assert set(CHANGES) == set(flatten_settings(asdict(config())))


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_something(config, build, tmp_path, monkeypatch, option):
    if option == "frozen_norms":
        pytest.importorskip("timm")

    class Writer:
        def __init__(self, folder):
            folder.mkdir()

        def add_scalar(self, *_):
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(
        ResNetBackbone, "load_imagenet", lambda self: [p.data.zero_() for p in self.parameters()]
    )
    monkeypatch.chdir(tmp_path)
    save("c.pt", build(seed=9, categories={1: "circle"}))
    save_file(resnet18().state_dict(), "r18.safetensors")
    before, after, outcome = CHANGES[option]
    if "out" in after:
        after = {"out": tmp_path / after["out"]}
    first = outcome(config(**before))
    assert first != outcome(config(**after))


# Options that cannot act --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(data="shapes", strict=True), "--strict has no effect on generated scenes"),
        (dict(data="shapes", augmentation="official"), "--augmentation has no effect here: gen"),
        (dict(data="shapes", augmentation="light"), "--augmentation has no effect here: gen"),
        (dict(data="x", overfit=2, augmentation="official"), "no effect here: overfitting"),
        (dict(data="x", overfit=2, augmentation="light"), "no effect here: overfitting"),
        (dict(data="shapes", overfit=2, augmentation="official"), "no effect here: overfitting"),
        (dict(start_from="c.pt", preset="tiny"), "--start-from and --preset exclude each other"),
        (dict(start_from="c.pt", imagenet=True), "--start-from and --imagenet exclude each other"),
        (dict(start_from="c.pt", backbone="tiny"), "--start-from and --backbone exclude"),
        (
            dict(start_from="c.pt", backbone_weights="a"),
            "and --backbone-weights exclude each other",
        ),
        (dict(imagenet=True, backbone_weights="a"), "--imagenet and --backbone-weights exclude"),
        (dict(freeze="backbone"), "--freeze backbone would keep random parameters"),
        (dict(start_from="c.pt", freeze_steps=1), "--freeze-steps says .* add --freeze backbone"),
        (
            dict(start_from="c.pt", freeze="backbone", frozen_norms=True),
            "--frozen-norms has no effect on a backbone that is frozen for the whole run",
        ),
        (
            dict(imagenet=True, freeze="backbone", **optim(backbone_lr_mult=0.5)),
            "--optim.backbone-lr-mult has no effect on a backbone that is frozen for the whole run",
        ),
    ],
)
def test_options_that_have_no_effect_together_are_refused(values, message):
    with pytest.raises(ValueError, match=message) as refused:
        TrainConfig(steps=1, **values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(imagenet=True), "--imagenet needs a backbone with .*, and tiny has none"),
        (dict(preset="detr_tiny", imagenet=True), "--imagenet needs .* tiny has none"),
        (dict(backbone_weights="a"), "--backbone-weights needs a backbone .* tiny has none"),
        (dict(preset="r18", backbone_weights="a"), "there is no file of parameters at a"),
        (dict(preset="r18", backbone="vgg16"), 'backbone "vgg16" is not known.*timm/'),
        (dict(frozen_norms=True), "--frozen-norms is for backbones of timm .*this one is tiny"),
        (dict(preset="r18", frozen_norms=False), "--frozen-norms .* this one is resnet18"),
        (dict(preset="detr_r18", denoising=2), "--denoising, .* are for Deformable DETR"),
        (dict(preset="detr_r18", look_forward="once"), "--look-forward .* for Deformable DETR"),
        (dict(preset="detr_r18", class_loss="varifocal"), "--class-loss .* for Deformable DETR"),
        (dict(preset="detr_r18", checkpoint_activations=True), "--checkpoint-activations are for"),
        (dict(preset="r18", look_forward="twice"), "--look-forward is about .* refine its boxes"),
        (dict(preset="r18", look_forward="once"), "--look-forward is about .* refine its boxes"),
        (
            dict(preset="r18", checkpoint_activations=True),
            "--checkpoint-activations is about .* has none",
        ),
    ],
)
def test_options_that_the_model_does_not_have_are_refused(config, values, message):
    with pytest.raises(ValueError, match=message) as refused:
        prepare.build_detector(config(**values), {1: "a"})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(minutes=math.inf), "--minutes is inf"),
        (dict(epochs=math.inf, data="x"), "--epochs is inf"),
        (dict(minutes=math.nan), "--minutes is nan"),
        (dict(steps=1, augmentation="heavy"), 'augmentation is "heavy".* light, official'),
        (dict(steps=1, recipe="slow"), 'recipe is "slow".* auto, fast, official'),
        (dict(steps=1, freeze="encoder"), 'freeze is "encoder".* choose one of backbone'),
        (dict(steps=1, imagenet=True, freeze_steps=0), "--freeze-steps is 0"),
        (dict(steps=1, log_matches=0), "--log-matches is 0"),
        (dict(steps=1, precision="int8"), 'precision is "int8".* fp32, bf16, fp16'),
        (dict(steps=1, look_forward="back"), 'look-forward is "back".* once, twice, always'),
    ],
)
def test_numbers_and_words_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(lr=math.inf), "--optim.lr is inf"),
        (dict(lr=math.nan), "--optim.lr is nan"),
        (dict(weight_decay=math.inf), "--optim.weight-decay is inf"),
        (dict(warmup_steps=-1), "--optim.warmup-steps is -1"),
        (dict(max_grad_norm=0), "--optim.max-grad-norm is 0"),
        (dict(decay_bias_and_norm=True, weight_decay=0.0), "no effect with --optim.weight-decay 0"),
        (dict(schedule="linear"), 'schedule is "linear".* cosine, step'),
    ],
)
def test_settings_of_the_optimiser_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**values)


def test_every_option_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    # A line with the option, then lines with its help, which begins with its description.
    lines = [line.strip("│ \n") for line in capsys.readouterr().out.splitlines()]
    without = [a for a, b in zip(lines, lines[1:], strict=False) if b.startswith("(default")]
    assert not [line for line in without if line.startswith("--")]


def test_a_pretrained_backbone_has_a_tenth_of_the_learning_rate(config):
    def multiple(**values):
        return prepare.pick_optim(config(preset="lite", **values)).backbone_lr_mult

    assert multiple() == 1.0  # fast: its transformer is as small as that of tiny
    assert multiple(imagenet=True) == multiple(backbone_weights="a") == 0.1
    assert multiple(imagenet=True, **optim(backbone_lr_mult=0.5)) == 0.5


def test_the_norms_of_a_timm_backbone_are_frozen_if_it_is_pretrained(config, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    path = tmp_path / "a.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)

    def frozen(**values):
        detector = prepare.build_detector(config(**values), {1: "circle"})
        assert detector.model.backbone.frozen_norms == detector.model.config.frozen_norms
        return detector.model.config.frozen_norms

    new = dict(backbone="timm/resnet18")
    assert not frozen(**new) and "norms are trained" in capsys.readouterr().out
    assert frozen(**new, backbone_weights=path)
    assert f"from the parameters of {path}; its norms and first" in capsys.readouterr().out
    assert not frozen(**new, backbone_weights=path, frozen_norms=False)
    assert frozen(**new, frozen_norms=True)
    for norms in (True, False):  # fine-tuning keeps what it was
        source = prepare.build_detector(config(**new, frozen_norms=norms), {1: "circle"})
        save(tmp_path / "c.pt", source)
        assert frozen(start_from=tmp_path / "c.pt") == norms
        assert frozen(start_from=tmp_path / "c.pt", frozen_norms=not norms) != norms


# Options whose effect is limited by the data or the checkpoint are limited audibly ----------------


def test_a_batch_that_is_smaller_than_asked_for_is_announced(config, capsys):
    train(config(batch_size=9, steps=1))
    assert "batch size 5 (there are too few images for 9)" in capsys.readouterr().out


def test_fine_tuning_says_that_it_has_another_image_size(config, build, tmp_path, capsys):
    save(tmp_path / "c.pt", build(categories={1: "circle"}))
    train(config(start_from=tmp_path / "c.pt", image_size=ResizeConfig(48, 96), steps=1))
    printed = capsys.readouterr().out
    assert "images of 48 to 96 px (--image-size); those of the checkpoint were 64 to 96" in printed
