"""What a run begins with: data, detector, schedule, device."""

import os
from dataclasses import replace

import torch

from ddetr_edu.data import (
    CocoDetection,
    Shapes,
    held_out_scenes,
    light_augmentation,
    official_augmentation,
)
from ddetr_edu.detector import (
    DETR,
    DETR_PRESETS,
    PRESETS,
    DeformableDETR,
    DeformableDETRConfig,
    DETRConfig,
)
from ddetr_edu.training import distributed
from ddetr_edu.training.batches import Schedule
from ddetr_edu.training.checkpoint import load
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.denoising import Denoising
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.optim import OptimConfig
from ddetr_edu.training.report import say
from ddetr_edu.training.transfer import adopt_weights

ENDLESS = 1_000_000_000  # generated scenes, more than any run can use up
PASS = 1024  # of them are put into batches by shape at a time


def open_datasets(config: TrainConfig) -> tuple:
    """The training and the validation set that a run asks for.

    Learning by heart means no augmentation, and validation on the very same pictures.
    """
    if config.data == "shapes":
        training_set = Shapes(config.overfit or ENDLESS, seed=config.seed)
        validation_set = training_set if config.overfit else held_out_scenes()
        return training_set, validation_set
    if config.overfit:
        training_set = CocoDetection(config.data, "train").first(config.overfit)
        return training_set, training_set
    augmentations = {"light": light_augmentation, "official": official_augmentation}
    training_set = CocoDetection(config.data, "train", augmentations[config.augmentation]())
    if not len(training_set):
        raise ValueError(f"the train split of {config.data} has no picture to learn from")
    return training_set, CocoDetection(config.data, "val")


def build_detector(config: TrainConfig, categories: dict[int, str]) -> Detector:
    """A detector for these categories: fresh, or with the weights of config.start_from."""
    source, preset = None, config.preset or "tiny"
    if config.start_from is not None:
        source = load(config.start_from)
        known = source.model.config
    elif preset in PRESETS:
        known = DeformableDETRConfig.preset(preset)
    elif preset in DETR_PRESETS:
        known = DETRConfig.preset(preset)
    else:
        names = ", ".join([*PRESETS, *DETR_PRESETS])
        raise ValueError(f'preset "{preset}" does not exist; choose one of {names}')
    known = replace(known, num_classes=len(categories))
    if isinstance(known, DeformableDETRConfig):
        if config.look_forward is not None:
            known = replace(known, look_forward=config.look_forward)
        model = DeformableDETR(known)
        model.encoder.checkpoint_activations = config.checkpoint_activations
    elif config.denoising or config.look_forward or config.checkpoint_activations:
        raise ValueError(
            "--denoising, --look-forward and --checkpoint-activations are for Deformable DETR, and "
            "this is a DETR; leave them out, or choose another preset"
        )
    else:
        model = DETR(known)
    if source is not None:
        say(adopt_weights(model, categories, source))
    if config.imagenet:
        if not hasattr(model.backbone, "load_imagenet"):
            raise ValueError(
                f"--imagenet needs a ResNet, and the preset {config.preset or 'tiny'} has none; "
                "leave it out, or choose a preset with a ResNet such as r50"
            )
        model.backbone.load_imagenet()
    denoising = None
    if config.denoising:
        denoising = Denoising(known.num_classes, model.config.d_model, config.denoising)
    return Detector(model, categories, config.size, denoising=denoising)


def build_schedule(config: TrainConfig, training_set) -> Schedule:
    """Which pictures come when. A set smaller than a batch is taken whole."""
    everybody = config.accumulate * distributed.world_size()
    endless = len(training_set) == ENDLESS
    n_pictures = PASS if endless else len(training_set)
    if isinstance(training_set, Shapes):
        sizes = training_set.size
    else:
        sizes = training_set.sizes().__getitem__
    return Schedule(
        n_pictures=n_pictures,
        batch=min(config.batch, max(n_pictures // everybody, 1)),
        seed=config.seed,
        accumulate=config.accumulate,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        wide=lambda i: sizes(i)[1] > sizes(i)[0],
        endless=endless,
    )


def count_steps(config: TrainConfig, schedule: Schedule) -> int | None:
    """The steps of the run; None if its length is given in minutes."""
    if config.epochs is None:
        return config.steps
    return max(round(config.epochs * schedule.steps_per_pass), 1)


def pick_optim(config: TrainConfig) -> OptimConfig:
    """The optimiser's settings, those not given from the recipe that suits the preset."""
    small = config.start_from is None and "tiny" in (config.preset or "tiny")
    automatic = "fast" if small else "official"
    return config.optim.filled(automatic if config.recipe == "auto" else config.recipe)


def pick_workers(config: TrainConfig) -> int:
    """How many processes prepare batches, for each process that trains."""
    if config.workers is not None:
        return config.workers
    if not torch.cuda.is_available():
        return int((os.cpu_count() or 1) > 2)  # two cores are busy with training already
    return max(1, min(8, (os.cpu_count() or 1) // distributed.world_size() - 1))


def pick_device(name: str) -> torch.device:
    """The device of that name. Raises: ValueError if it is unknown or not there."""
    if name == "auto":
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # torchrun gives each process its own
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device, for one, holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f'the device "{name}" cannot be used ({reason}); --device cpu always works'
        ) from None
    return device
