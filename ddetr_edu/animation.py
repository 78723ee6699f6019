"""One picture under every checkpoint of a run, as a film."""

import json
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from ddetr_edu.inspector import Exploration
from ddetr_edu.training import load
from ddetr_edu.training.detector import Picture
from ddetr_edu.training.files import CheckpointError, read
from ddetr_edu.viz.animation import Film, film_of_training
from ddetr_edu.viz.inspector import DecoderLook


def animate_training(
    run: str | Path, picture: Picture, threshold: float = 0.3
) -> tuple[Film, list[dict]]:
    """One picture through every checkpoint of a run, oldest first, as a film.

        film, frames = dd.animate_training("runs/train", "street.jpg"); film.save("training.gif")

    Of each checkpoint the detections are drawn that score at least `threshold`, and the sampling
    points of one object's query in the last layer. The object is the best detection of the newest
    checkpoint; its query, in each, is the one whose box fits it best.

    run: the folder of `ddetr train`; `--keep` says how many older checkpoints it leaves there
    Returns: the film, and for each frame what `film_of_training` was given.
    Raises: CheckpointError if the folder has no checkpoint; as `Exploration`.
    """
    looks = []
    for path, step in checkpoints(Path(run)):
        seen = Exploration(load(path), picture)
        looks.append((step, seen, seen.look()))
    _, seen, newest = looks[-1]
    followed = newest.boxes[-1, newest.scores[-1].argmax()]
    precision = precisions(Path(run))
    frames = [
        frame_of(step, seen, look, followed, threshold, precision.get(step))
        for step, seen, look in looks
    ]
    return film_of_training(seen.picture, frames), frames


def frame_of(
    step: int, seen: Exploration, look: DecoderLook, followed: np.ndarray, threshold: float,
    precision: float | None,
) -> dict:  # fmt: skip
    """What one frame of the film shows. followed: (4,) (cx, cy, w, h), fractions"""
    _, height, width = seen.picture.shape
    boxes = box_convert(torch.from_numpy(look.boxes[-1]), "cxcywh", "xyxy")  # (Lq, 4), fractions
    goal = box_convert(torch.from_numpy(followed)[None], "cxcywh", "xyxy")
    query = int(box_iou(boxes, goal).argmax())
    shown = [int(q) for q in np.argsort(-look.scores[-1]) if look.scores[-1, q] >= threshold]
    in_pixels = boxes.numpy() * [width, height, width, height]
    return {
        "step": step,
        "AP": precision,
        "boxes": in_pixels[shown],
        "texts": [f"{seen.names[look.classes[-1, q]]} {look.scores[-1, q]:.2f}" for q in shown],
        "box": in_pixels[query],
        "reference": look.references[-1, query],
        "locations": look.locations[-1, query],
        "weights": look.weights[-1, query],
    }


def checkpoints(run: Path) -> list[tuple[Path, int]]:
    """The checkpoints of a run and their steps, oldest first; of equal steps only one."""
    found = {}
    for path in [*run.glob("checkpoint-*.pt"), *run.glob("checkpoint.pt")]:
        content = read(path)
        if not isinstance(content, dict) or not isinstance(content.get("step"), int):
            raise CheckpointError(
                f"{path} does not say its step; give the folder of a `ddetr train`"
            )
        found[content["step"]] = path
    if not found:
        raise CheckpointError(
            f"{run} holds no checkpoint*.pt; give the --out folder of a `ddetr train`, which with "
            "--keep 20 leaves twenty older checkpoints"
        )
    return [(found[step], step) for step in sorted(found)]


def precisions(run: Path) -> dict[int, float]:
    """The AP of each step at which a run was evaluated, as its log has it."""
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["step"]: line["AP"] for line in lines if "AP" in line}
