"""Five training runs for lesson 11: four with a fault each, to be told apart by their curves.

    uv run python benchmarks/faulty_runs.py [--steps 500] [--runs right A B C D] [--out FOLDER]

Each is `ddetr train --preset tiny_two_stage` from scratch, on generated scenes that are written to
a folder first, and is evaluated on the same 100 held-out scenes. Writes the log of run A to
lessons/logs/11_A.jsonl, and so on. On two cores a run takes four to five minutes.
"""

import argparse
import json
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ddetr_edu.data.scenes import VAL_SEED_OFFSET
from ddetr_edu.data.shapes import write_shapes
from ddetr_edu.files import atomic_write
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.loop import train

HELD_OUT = 100  # scenes
EVALUATIONS = 10  # of a run


@dataclass(frozen=True)
class Setting:
    """What a run is trained on, and how."""

    n_images: int = 1000
    labels_shuffled: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)  # the usual learning rate is 2e-3


# Whoever is about to do the exercise of lesson 11 should not read on.
SETTINGS = {
    "right": Setting(),
    "A": Setting(labels_shuffled=True),
    "B": Setting(optim=OptimConfig(lr=2e-5)),
    "C": Setting(n_images=8),
    "D": Setting(optim=OptimConfig(lr=2e-2)),
}


def shuffle_labels(annotation_file: Path) -> None:
    """Give the objects of a data set each other's categories; the boxes stay where they are.

    Args:
        annotation_file: In COCO's format; it is written anew.
    """
    content = json.loads(annotation_file.read_text())
    labels = [annotation["category_id"] for annotation in content["annotations"]]
    random.Random(0).shuffle(labels)
    for annotation, label in zip(content["annotations"], labels, strict=True):
        annotation["category_id"] = label
    atomic_write(annotation_file, json.dumps(content).encode())


def run(setting: Setting, steps: int) -> bytes:
    """Train once.

    Args:
        setting: Of the run.
        steps: The length of the run.

    Returns:
        Its log.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shapes(folder / "data", "train", setting.n_images, seed=0)
        write_shapes(folder / "data", "val", HELD_OUT, VAL_SEED_OFFSET)
        if setting.labels_shuffled:
            shuffle_labels(folder / "data" / "annotations" / "instances_train.json")
        config = TrainConfig(
            data=str(folder / "data"),
            preset="tiny_two_stage",
            steps=steps,
            optim=setting.optim,
            eval_every=max(1, steps // EVALUATIONS),
            save_every=steps,
            out=folder / "run",
            device="cpu",
        )
        train(config)
        return (config.out / "metrics.jsonl").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--runs", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("lessons/logs"))
    arguments = parser.parse_args()
    for name in arguments.runs:
        atomic_write(arguments.out / f"11_{name}.jsonl", run(SETTINGS[name], arguments.steps))


if __name__ == "__main__":
    main()
