"""What a run begins with: data, detector, sampler, device."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.transforms.v2 import Transform

from ddetr_edu import distributed
from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.transfer import adopt_parameters
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.loading import InfiniteBatchSampler
from ddetr_edu.data.shapes import Shapes, held_out_scenes
from ddetr_edu.data.statistics import describe_excess_objects
from ddetr_edu.data.transforms import light_augmentation, official_augmentation
from ddetr_edu.detector import Detector
from ddetr_edu.losses.denoising import Denoising
from ddetr_edu.losses.matcher import LossWeights
from ddetr_edu.models.config import DETR_PRESETS, PRESETS, DeformableDETRConfig, DETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.training.backbone_options import choose_backbone, initialise_backbone, is_pretrained
from ddetr_edu.training.config import RECIPES, FilledOptimConfig, TrainConfig
from ddetr_edu.training.logging import describe_image_size, log0

GENERATED_IMAGES = 1_000_000_000  # more scenes than any run can use up
GENERATED_EPOCH = 1024  # scenes that are grouped by aspect ratio at a time
AUGMENTATIONS: dict[str, Callable[[], Transform]] = {
    "light": light_augmentation,
    "official": official_augmentation,
}


def open_datasets(config: TrainConfig) -> tuple:
    """The training set and the validation set of a run.

    Overfitting means no augmentation, and evaluation on the very same images.

    Args:
        config: The settings of the run.

    Returns:
        Two data sets of `ddetr_edu.data`.

    Raises:
        DataError: For a data set that cannot be used.
        ValueError: If there is no image to train on.
    """
    if config.data == "shapes":
        scenes = Shapes(config.overfit or GENERATED_IMAGES, seed=config.seed)
        return scenes, scenes if config.overfit else held_out_scenes()
    if config.overfit:
        images = CocoDetection(config.data, "train", strict=config.strict).first(config.overfit)
        return images, images
    augmentation = AUGMENTATIONS[config.augmentation or "light"]
    training_set = CocoDetection(config.data, "train", augmentation(), config.strict)
    if not len(training_set):
        raise ValueError(f"the train split of {config.data} has no image to train on")
    return training_set, CocoDetection(config.data, "val", strict=config.strict)


def build_detector(
    config: TrainConfig, categories: dict[int, str], checkpoint: Path | None = None
) -> Detector:
    """The detector to train: new, or with the parameters of config.start_from.

    Args:
        config: The settings of the run.
        categories: {label: name} of the training set.
        checkpoint: Of the run to resume. It determines the architecture, and its parameters will
            replace those of the detector, so that nothing else is read or downloaded.

    Returns:
        A detector in training mode, on the CPU.

    Raises:
        CheckpointError: If config.start_from cannot be read.
        ValueError: For an unknown preset, or options that the model does not have.
    """
    source, preset = None, config.preset or "tiny"
    architecture: DeformableDETRConfig | DETRConfig
    if checkpoint is not None:
        architecture = load(checkpoint).model.config
    elif config.start_from is not None:
        source = load(config.start_from)
        architecture = source.model.config
    elif preset in PRESETS:
        architecture = DeformableDETRConfig.preset(preset)
    elif preset in DETR_PRESETS:
        architecture = DETRConfig.preset(preset)
    else:
        names = ", ".join([*PRESETS, *DETR_PRESETS])
        raise ValueError(f'preset "{preset}" does not exist; choose one of {names}')
    if checkpoint is None:
        architecture = replace(architecture, **choose_backbone(config, architecture))
    architecture = replace(architecture, num_classes=len(categories))
    model: DeformableDETR | DETR
    if isinstance(architecture, DeformableDETRConfig):
        if config.look_forward is not None:
            if not architecture.box_refine:
                raise ValueError(
                    "--look-forward is about the gradient through box refinement, and this model "
                    "does not refine its boxes; leave it out, or choose a preset that does, such "
                    "as tiny or r50_refine"
                )
            architecture = replace(architecture, look_forward=config.look_forward)
        if config.checkpoint_activations and not architecture.n_encoder_layers:
            raise ValueError(
                "--checkpoint-activations is about encoder layers, but this model has none; leave "
                "it out"
            )
        model = DeformableDETR(architecture)
        model.encoder.checkpoint_activations = config.checkpoint_activations
    elif (
        config.denoising
        or config.look_forward
        or config.checkpoint_activations
        or config.class_loss != "focal"
    ):
        raise ValueError(
            "--denoising, --class-loss varifocal, --look-forward and --checkpoint-activations are "
            "for Deformable DETR, and this is a DETR; leave them out, or choose another preset"
        )
    else:
        model = DETR(architecture)
    if source is not None:
        log0(adopt_parameters(model, categories, source))
        log0(describe_image_size(source.resize, config.image_size))
    if checkpoint is None and source is None:
        initialise_backbone(config, model.backbone)
    denoising = None
    if config.denoising:
        denoising = Denoising(len(categories), architecture.d_model, config.denoising)
    weights = LossWeights(class_loss=config.class_loss) if config.class_loss != "focal" else None
    return Detector(model, categories, config.image_size, weights, denoising)


def check_objects(training_set, validation_set, detector: Detector) -> None:
    """Raise if there is no object to train on; say so if there are more than a detector can find.

    Generated scenes always have objects, and only a few.

    Args:
        training_set: From `open_datasets`.
        validation_set: From `open_datasets`.
        detector: From `build_detector`.

    Raises:
        DataError: If no training image shows an object that is not a crowd.
    """
    if isinstance(training_set, CocoDetection):
        training_set.require_objects()
    queries = {"this one": detector.model.config.n_queries}
    for name, dataset in (("training", training_set), ("validation", validation_set)):
        if not isinstance(dataset, CocoDetection):
            continue
        counts = dict(zip(dataset.image_ids, dataset.object_counts().tolist(), strict=True))
        excess = describe_excess_objects(counts, queries)
        if excess:
            log0(f"objects  {name}: {excess}")
        if not any(counts.values()):
            log0(
                f"objects  {name}: no image has an object, so every AP will be -1, which means "
                "that there is nothing to measure"
            )
        if validation_set is training_set:
            break


def build_sampler(config: TrainConfig, training_set) -> InfiniteBatchSampler:
    """Which images are in which step. Of a set smaller than a batch, the batch is the whole set.

    Args:
        config: The settings of the run.
        training_set: From `open_datasets`.

    Returns:
        The sampler of this process.

    Raises:
        ValueError: If there are fewer images than batches in a step.
    """
    batches_per_step = config.grad_accum_steps * distributed.world_size()
    generated = len(training_set) == GENERATED_IMAGES
    n_images = GENERATED_EPOCH if generated else len(training_set)
    if isinstance(training_set, Shapes):
        size = training_set.size
    else:
        size = training_set.sizes().__getitem__

    def is_landscape(i: int) -> bool:
        height, width = size(i)
        return width > height

    return InfiniteBatchSampler(
        n_images=n_images,
        batch_size=min(config.batch_size, max(n_images // batches_per_step, 1)),
        seed=config.seed,
        grad_accum_steps=config.grad_accum_steps,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        is_landscape=is_landscape,
        generated=generated,
    )


def count_steps(config: TrainConfig, sampler: InfiniteBatchSampler) -> int | None:
    """The number of steps of a run.

    Args:
        config: The settings of the run.
        sampler: Of its training set.

    Returns:
        At least 1; None if the length is given in minutes.

    Raises:
        ValueError: If a backbone that is frozen at first would never be trained.
    """
    steps = config.steps
    if config.epochs is not None:
        steps = max(round(config.epochs * sampler.steps_per_epoch), 1)
    if steps is not None and config.freeze_steps is not None and config.freeze_steps >= steps:
        raise ValueError(
            f"--freeze-steps is {config.freeze_steps}, and the run has {steps} steps, so the "
            "backbone would never be trained; give fewer, or leave it out to say so"
        )
    return steps


def pick_optim(config: TrainConfig) -> FilledOptimConfig:
    """The optimiser's settings, those not given from the recipe that suits the preset.

    Args:
        config: The settings of the run.

    Returns:
        The optimiser's settings, without None.
    """
    papers = DeformableDETRConfig.d_model
    width = {**PRESETS, **DETR_PRESETS}[config.preset or "tiny"].get("d_model", papers)
    small = config.start_from is None and width < papers
    suitable = "fast" if small else "official"
    filled = config.optim.filled(suitable if config.recipe == "auto" else config.recipe)
    if is_pretrained(config) and config.optim.backbone_lr_mult is None:
        return replace(filled, backbone_lr_mult=RECIPES["official"].backbone_lr_mult)
    return filled


def pick_workers(config: TrainConfig) -> int:
    """The number of data loading processes, for each training process.

    Args:
        config: The settings of the run.

    Returns:
        What the config says, or else a number that suits the machine.
    """
    if config.workers is not None:
        return config.workers
    if not torch.cuda.is_available():
        return int((os.cpu_count() or 1) > 2)  # training alone keeps two cores busy
    return max(1, min(8, (os.cpu_count() or 1) // distributed.world_size() - 1))


def pick_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: As torch names devices, or "auto": a GPU if there is one.

    Returns:
        A device that can be computed on.

    Raises:
        ValueError: If the device is unknown or not available.
    """
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
