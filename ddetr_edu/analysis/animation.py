"""One image under every checkpoint of a run, as an animation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from ddetr_edu.analysis.inspector import InspectorSession
from ddetr_edu.analysis.trace import trace
from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.safe_load import CheckpointError, safe_load
from ddetr_edu.detector import check_threshold
from ddetr_edu.models.preprocessing import ImageInput
from ddetr_edu.viz.fonts import category_text
from ddetr_edu.viz.training_animation import Animation, training_animation


def animate_training(
    run: str | Path, image: ImageInput, threshold: float = 0.3
) -> tuple[Animation, list[dict]]:
    """Draw one image under every checkpoint of a run, oldest first, as an animation.

        animation, frames = dd.animate_training("runs/train", "street.jpg")
        animation.save("training.gif")

    Each frame shows the detections of a checkpoint, and the sampling points of one object's query
    in the last decoder layer. The object is the best detection of the newest checkpoint; its
    query, in each checkpoint, is the one whose box overlaps it most.

    Args:
        run: The folder of `ddetr train`, where `--keep-checkpoints` says how many older
            checkpoints are left.
        image: Anything that `load_image` takes.
        threshold: Leave out detections with a lower score; from 0 to 1.

    Returns:
        The animation, and for each frame what `training_animation` was given.

    Raises:
        CheckpointError: If the folder has no checkpoint.
        ValueError: As `trace`.
        TypeError: As `trace`.
    """
    check_threshold(threshold)
    sessions = [
        (step, InspectorSession(trace(load(path), image, layers="decoder*")))
        for path, step in checkpoints(Path(run))
    ]
    _, newest = sessions[-1]
    best = newest.decoder_trace.scores[-1].argmax()
    followed = newest.decoder_trace.boxes[-1, best]
    precision = precision_by_step(Path(run))
    frames = [
        frame_data(step, session, followed, threshold, precision.get(step))
        for step, session in sessions
    ]
    return training_animation(newest.trace.image, frames), frames


def frame_data(
    step: int,
    session: InspectorSession,
    followed: np.ndarray,
    threshold: float,
    precision: float | None,
) -> dict[str, Any]:
    """Gather what one frame of the animation shows.

    Args:
        step: The step of the checkpoint.
        session: The checkpoint's detector at work on the image.
        followed: (4,) (cx, cy, w, h) of the object to follow, fractions of the image.
        threshold: Leave out detections with a lower score.
        precision: The AP at this step, if known.

    Returns:
        A frame, as `training_animation` takes it.
    """
    _, height, width = session.trace.image.shape
    decoder = session.decoder_trace
    scores, classes = decoder.scores[-1], decoder.classes[-1]  # (Lq,) of the last layer
    boxes = box_convert(torch.from_numpy(decoder.boxes[-1]), "cxcywh", "xyxy")  # fractions
    target = box_convert(torch.from_numpy(followed)[None], "cxcywh", "xyxy")
    query = int(box_iou(boxes, target).argmax())
    shown = [int(q) for q in np.argsort(-scores) if scores[q] >= threshold]
    names = [category_text(*item) for item in session.trace.detector.categories.items()]
    in_pixels = boxes.numpy() * [width, height, width, height]
    return {
        "step": step,
        "AP": precision,
        "boxes": in_pixels[shown],
        "texts": [f"{names[classes[q]]} {scores[q]:.2f}" for q in shown],
        "box": in_pixels[query],
        "reference": decoder.references[-1, query],
        "locations": decoder.locations[-1, query],
        "weights": decoder.weights[-1, query],
    }


def checkpoints(run: Path) -> list[tuple[Path, int]]:
    """Find the checkpoints of a run.

    Args:
        run: The folder of `ddetr train`.

    Returns:
        Their files and steps, oldest first; only one file for each step.

    Raises:
        CheckpointError: If there is none, or one that does not hold its step.
    """
    found = {}
    for path in [*run.glob("checkpoint-*.pt"), *run.glob("checkpoint.pt")]:
        content = safe_load(path)
        if not isinstance(content, dict) or not isinstance(content.get("step"), int):
            raise CheckpointError(
                f"{path} does not hold its step; give the folder of a `ddetr train`"
            )
        found[content["step"]] = path
    if not found:
        raise CheckpointError(
            f"{run} holds no checkpoint*.pt; give the --out folder of a `ddetr train`, which with "
            "--keep-checkpoints 20 leaves twenty older checkpoints"
        )
    return [(found[step], step) for step in sorted(found)]


def precision_by_step(run: Path) -> dict[int, float]:
    """Read the log of a run.

    Args:
        run: The folder of `ddetr train`.

    Returns:
        {step: AP} of each evaluation that had an object to measure.
    """
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["step"]: line["AP"] for line in lines if line.get("AP", -1) >= 0}
