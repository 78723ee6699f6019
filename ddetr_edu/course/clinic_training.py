"""The trainings of the clinic of lesson 12.

Each fine-tunes the model that comes with the library on the same 24 small images, whose categories
have names that it does not know, with a frozen backbone. It is evaluated on 16 other images, whose
annotations are right.

`python -m ddetr_edu.course.clinic_training` trains with each fault and writes
lessons/logs/12_clinic.json, in a few minutes.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.checkpoints.transfer import adopt_parameters
from ddetr_edu.course.clinic import FAULTS, Change, training_images
from ddetr_edu.course.small_scenes import SIZE
from ddetr_edu.course.unchecked_images import NAMES, UncheckedImages
from ddetr_edu.detector import Detector
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.files import shipped_path
from ddetr_edu.models.backbone import MEAN, STD
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.training.config import RECIPES
from ddetr_edu.training.loop import train_step
from ddetr_edu.training.trainer import NonFiniteLoss, Trainer

LOG = "lessons/logs/12_clinic.json"
VAL_SEED, N_VAL_IMAGES = 13, 16
STEPS, EVAL_EVERY, BATCH_SIZE = 48, 8, 4
LR = 1e-3


def starting_detector(change: Change = FAULTS["nothing"]) -> Detector:
    """The model that comes with the library, for categories of other names and small images.

    None of the decoder's class outputs is kept, since it knows none of the names. Those that rank
    the encoder's proposals are, so that the queries begin at objects.

    Args:
        change: A fault, whose pixel values it gets.

    Returns:
        The detector.
    """
    trained = load(shipped_checkpoint())
    # Not 0, the seed of its training: class outputs that it began with would still know something.
    torch.manual_seed(1)
    model = DeformableDETR(trained.model.config)
    adopt_parameters(model, NAMES, trained)
    model.queries.load_state_dict(trained.model.queries.state_dict())
    # To multiply the pixels by k is to divide what is subtracted and what they are divided by.
    # The attributes are those of a backbone that has a normalisation of its own.
    vars(model.backbone)["image_mean"] = tuple(value / change.pixels for value in MEAN)
    vars(model.backbone)["image_std"] = tuple(value / change.pixels for value in STD)
    return Detector(model, NAMES, ResizeConfig(*SIZE, multiple_of=32))


def fine_tune(
    change: Change = FAULTS["nothing"], steps: int = STEPS, eval_every: int = EVAL_EVERY
) -> tuple[Detector, list[dict]]:
    """Fine-tune with a frozen backbone, four images a step.

    Args:
        change: What is wrong with this training.
        steps: How many optimiser steps to make.
        eval_every: Steps between evaluations; another one comes before the first step.

    Returns:
        The trained detector, and the log, whose lines have "step" and either "class" and "box", the
        losses of the last layer (that of boxes is L1 + GIoU), or "AP" of the validation images. It
        ends early, with an AP of 0, if a loss is not finite.
    """
    images, validation = training_images(change), UncheckedImages(VAL_SEED, N_VAL_IMAGES)
    detector = starting_detector(change).train()
    optim = replace(RECIPES["official"], lr=LR * change.lr)
    trainer = Trainer(detector, optim, frozen_steps=math.inf)
    log: list[dict] = []
    for step in range(steps + 1):
        if step > 0:
            first = (step - 1) * BATCH_SIZE
            batch = [images[k % len(images)] for k in range(first, first + BATCH_SIZE)]
            inputs, targets = [image for image, _ in batch], [target for _, target in batch]
            try:
                losses = train_step(trainer, [(inputs, targets)], step, step / steps)
            except NonFiniteLoss:
                log.append({"step": step, "AP": 0.0})
                break
            box = losses["loss_l1"] + losses["loss_giou"]
            log.append({"step": step, "class": losses["loss_label"], "box": box})
        if step % eval_every == 0:
            metrics, _ = evaluate(detector, validation, show_progress=False)
            log.append({"step": step, "AP": metrics["AP"]})
    return detector.eval(), log


def read_log() -> dict[str, list[dict]]:
    """The log of `fine_tune` with each of FAULTS, from the file that comes with the lessons.

    Returns:
        {fault: its log}.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    path = shipped_path(LOG)
    return json.loads(path.read_text())


def main() -> None:
    """Train with each fault and write the log, in the folder of a clone."""
    runs = []
    for name, fault in FAULTS.items():
        _, log = fine_tune(fault)
        lines = ",\n".join(json.dumps(_rounded(line)) for line in log)
        runs.append(f'"{name}": [\n{lines}\n]')
        print(name, *(f"{line['AP']:.2f}" for line in log if "AP" in line), flush=True)
    Path(LOG).write_text("{\n" + ",\n".join(runs) + "\n}\n")


def _rounded(line: dict) -> dict:
    return {key: v if key == "step" else float(f"{v:.4g}") for key, v in line.items()}


if __name__ == "__main__":
    main()
