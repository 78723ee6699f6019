"""What a run prints about itself: at the start, and after its first steps."""

import math
import sys

import numpy as np
import torch
from tqdm.auto import tqdm

from ddetr_edu import distributed
from ddetr_edu.data.loading import InfiniteBatchSampler
from ddetr_edu.detector import Detector
from ddetr_edu.models.autocast import describe_slow_precision
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.optim import BACKBONE, group_of
from ddetr_edu.training.trainer import Trainer

FEW_OBJECTS = 12  # in a step, on average


def log0(text: str) -> None:
    """Print in process 0 only, without disturbing the progress bar.

    Args:
        text: One or more lines.
    """
    if distributed.rank() == 0:
        tqdm.write(text)


def describe_data(name: str, training_set, validation_set, sampler: InfiniteBatchSampler) -> str:
    """The data sets of a run.

    Args:
        name: Of the data.
        training_set: The images to train on.
        validation_set: The images to evaluate on.
        sampler: Of the training set.

    Returns:
        Two lines, such as "data     data/shapes-mini: 80 training images, 20 validation images",
        and a third one if there are few objects in a step.
    """
    if sampler.generated:
        training = "newly generated training images"
    else:
        training = f"{len(training_set)} training images"
    if validation_set is training_set:
        validation = "evaluated on the same images"
    else:
        validation = f"{len(validation_set)} validation images"
    names = list(training_set.categories.values())
    lines = [
        f"data     {name}: {training}, {validation}",
        f"classes  {len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}",
    ]
    if not sampler.generated and validation_set is not training_set:
        lines += describe_few_objects(training_set.object_counts(), sampler.images_per_step)
    return "\n".join(lines)


def describe_few_objects(counts: np.ndarray, images_per_step: int) -> list[str]:
    """Advice for a data set of which a step sees only a few objects.

    Losses are averages over the objects of a step, and clipping (at 0.1) makes nearly all gradients
    equally long. So a step that happens to see one object, or none, changes the parameters as much
    as one that sees many, and far less reliably.

    Args:
        counts: The number of objects in each training image, (images,).
        images_per_step: The number of images in a step.

    Returns:
        One line, or none if a step has objects enough or there are no more images.
    """
    per_step = images_per_step * counts.mean()
    if per_step >= FEW_OBJECTS or 2 * images_per_step > len(counts):
        return []
    without = np.count_nonzero(counts == 0)
    none = f", and {without} of the images have none" if without else ""
    return [
        f"objects  {counts.mean():.2g} in an image, {per_step:.2g} in a step{none}: with so few, a "
        "larger --batch-size may learn faster"
    ]


def describe_model(name: str, detector: Detector) -> str:
    """The model of a run.

    Args:
        name: Of its preset or checkpoint.
        detector: The detector to train.

    Returns:
        One line.
    """
    n_parameters = sum(p.numel() for p in detector.parameters())
    resize = detector.resize
    return (
        f"model    {name}: {n_parameters / 1e6:.2f} million parameters, images of "
        f"{resize.short_side} to {resize.long_side} px"
    )


def describe_groups(trainer: Trainer) -> str:
    """The learning rates of a run: which parameters have which, and which are frozen.

    Args:
        trainer: With the optimiser of the run.

    Returns:
        A line for each group, such as "groups   backbone: 1.27 million parameters, learning rate
        0.0002".
    """
    lrs = {
        id(p): f", learning rate {group['base_lr']:.3g}"
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    steps = trainer.freezing.steps
    for p in trainer.freezing.parameters if steps else []:
        whole_run = steps == math.inf
        lrs[id(p)] = (
            ", frozen" if whole_run else f"{lrs[id(p)]}, frozen for the first {steps} steps"
        )
    counts: dict[str, int] = {}
    for name, p in trainer.detector.named_parameters():
        line = f"{group_of(name)}: {{:.2f}} million parameters{lrs.get(id(p), ', frozen')}"
        counts[line] = counts.get(line, 0) + p.numel()
    ordered = sorted(counts, key=lambda line: not line.startswith(BACKBONE))
    lines = [line.format(counts[line] / 1e6) for line in ordered]
    return "\n".join(f"{'' if n else 'groups':9s}{line}" for n, line in enumerate(lines))


def describe_image_size(before: ResizeConfig, now: ResizeConfig) -> str:
    """The size of images in fine-tuning, which is not taken from the checkpoint.

    Args:
        before: Of the checkpoint.
        now: Of the run.

    Returns:
        One line.
    """
    sides = f"images of {now.short_side} to {now.long_side} px (--image-size)"
    if before == now:
        return f"size     {sides}, as the checkpoint"
    return (
        f"size     {sides}; those of the checkpoint were {before.short_side} to "
        f"{before.long_side} px"
    )


def describe_run(clock: Clock, sampler: InfiniteBatchSampler, batch_size: int) -> str:
    """The length of a run, and the images of each step.

    Args:
        clock: At the start of the run.
        sampler: Of the training set.
        batch_size: That was asked for; a small set has smaller batches.

    Returns:
        One line.
    """
    if clock.max_steps is None:
        length = f"{clock.max_minutes:g} minutes"
    else:
        length = f"{clock.max_steps} steps"
        if not sampler.generated:
            length += f" ({clock.max_steps / sampler.steps_per_epoch:.3g} epochs)"
    batch = f"batch size {sampler.batch_size}"
    if sampler.batch_size < batch_size:
        batch += f" (there are too few images for {batch_size})"
    if sampler.grad_accum_steps > 1:
        batch += f", {sampler.grad_accum_steps} batches accumulated for each step"
    if sampler.world_size > 1:
        batch += f", in each of {sampler.world_size} processes"
    return f"length   {length}, {batch}"


def describe_device(device: torch.device, precision: str, workers: int) -> str:
    """What a run is computed on.

    Args:
        device: Of the model.
        precision: Of the forward pass.
        workers: The number of data loading processes.

    Returns:
        One line; a second one if fp32 would be faster.
    """
    threads = ""
    if device.type == "cpu":
        count = torch.get_num_threads()
        threads = f" with {count} thread{'s' * (count != 1)}"
    loading = f"{workers or 'no'} data loading worker{'s' * (workers != 1)}"
    slow = describe_slow_precision(precision, device)
    line = f"device   {device}{threads}, {precision}, {loading}"
    return line if slow is None else f"{line}\n         {slow}"


def estimate_eta(clock: Clock, seconds_per_step: float, device: torch.device) -> str:
    """The speed and memory of the first steps, and the time to the end.

    Args:
        clock: After the first steps.
        seconds_per_step: Their speed.
        device: Of the model.

    Returns:
        One line.
    """
    memory = peak_memory(device)
    return (
        f"{1 / seconds_per_step:.2g} steps per second, {seconds_per_step:.2f} s per step"
        + (f", {memory / 2**30:.1f} GiB of memory" if memory else "")
        + f", {clock.minutes_left(seconds_per_step):.1f} minutes left (evaluation not counted)"
    )


def peak_memory(device: torch.device) -> int | None:
    """The most memory that this process has used so far, on its GPU if it has one.

    Args:
        device: Of the model.

    Returns:
        Bytes, or None where the operating system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # Windows has none
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
