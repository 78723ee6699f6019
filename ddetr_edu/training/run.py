"""The folder of a run: its settings, its log and its checkpoints, all of it safe to be cut off."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ddetr_edu.training import distributed
from ddetr_edu.training.checkpoint import save
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.files import CheckpointError, read
from ddetr_edu.training.learner import Learner
from ddetr_edu.viz import plot_curves

# Settings that change how a run is carried out, but not what it computes.
FREE = ("out", "resume", "device", "workers", "checkpoint_activations", "eval_every",
        "save_every", "keep", "tensorboard")  # fmt: skip


class Run:
    """One run's folder. Only process 0 writes to it; in the others the writing methods do nothing.

    checkpoint.pt is the newest checkpoint; with `keep`, so many older ones stay beside it as
    checkpoint-STEP.pt. best.pt is the detector with the highest AP. A checkpoint replaces the one
    before only when it is whole on the disk.

    settings: plain values by name, as `ddetr train` was given them
    """

    def __init__(self, folder: Path, settings: dict, keep: int = 1, tensorboard: bool = False):
        self.folder, self.settings, self.keep = folder, settings, keep
        self.checkpoint, self.log = folder / "checkpoint.pt", folder / "metrics.jsonl"
        self.saved_step = 0  # of checkpoint.pt
        self._writer = open_tensorboard(folder) if tensorboard and not distributed.rank() else None

    def begin(self) -> None:
        """Start with an empty log. What an earlier run left is moved to the folder `previous`."""
        if distributed.rank():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("checkpoint*.pt", "best.pt", "metrics.jsonl", "config.json", "curves.png")
        earlier = [path for name in names for path in self.folder.glob(name)]
        if self.checkpoint in earlier:
            previous = self.folder / "previous"
            shutil.rmtree(previous, ignore_errors=True)
            previous.mkdir()
            for path in earlier:
                path.replace(previous / path.name)
            print(f"{self.folder} holds an earlier run; it is now in {previous}")
        write_text(self.folder / "config.json", json.dumps(self.settings, indent=2))
        write_text(self.log, "")

    def resume(self, learner: Learner, clock: Clock) -> bool:
        """Take learner and clock to the newest checkpoint; False if there is none yet.

        Raises: CheckpointError if the checkpoint cannot be gone on from, ValueError if it was
            trained with other settings.
        """
        if not self.checkpoint.exists():
            return False
        content = read(self.checkpoint)
        if not isinstance(content, dict) or "training" not in content:
            raise CheckpointError(
                f"{self.checkpoint} holds a detector but not the state of its training; "
                "--resume goes on from a checkpoint.pt that `ddetr train` left"
            )
        training = content["training"]
        check_same(training["settings"], self.settings)
        learner.restore(content["model"], training["learner"])
        clock.start(content["step"], training["minutes"])
        self.saved_step = clock.step
        if not distributed.rank():
            write_text(self.log, "".join(lines_until(self.log, clock.step)))
            for unfinished in self.folder.glob(".*.pt.*"):
                unfinished.unlink()
        return True

    def write(self, entry: dict) -> None:
        """Append a line to the log."""
        if distributed.rank():
            return
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in entry.items()}
        with self.log.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        if self._writer:
            for name, value in rounded.items():
                self._writer.add_scalar(name, value, rounded["step"])

    def save(self, learner: Learner, clock: Clock) -> None:
        """Write checkpoint.pt, unless it holds this step already.

        Raises: OSError if it cannot be written; earlier checkpoints are then untouched.
        """
        if distributed.rank() or clock.step == self.saved_step:
            return
        if self.keep and self.checkpoint.exists():
            link(self.checkpoint, self.folder / f"checkpoint-{self.saved_step:07d}.pt")
        training = {
            "settings": self.settings, "minutes": clock.minutes, "learner": learner.state(),
        }  # fmt: skip
        save(self.checkpoint, learner.result, step=clock.step, training=training)
        self.saved_step = clock.step
        older = sorted(self.folder.glob("checkpoint-*.pt"))
        for path in older[: max(len(older) - self.keep, 0)]:
            path.unlink()

    def evaluated(self, learner: Learner, clock: Clock, metrics: dict[str, float]) -> None:
        """Log an evaluation, draw the curves, and keep the detector if it is the best so far."""
        if distributed.rank():
            return
        best = max((line["AP"] for line in self.lines() if "AP" in line), default=-2.0)
        if metrics["AP"] > best:
            save(self.folder / "best.pt", learner.result, step=clock.step)
        self.write({"step": clock.step, "minutes": clock.minutes, **metrics})
        plot_curves(self.log, self.folder / "curves.png")

    def lines(self) -> list[dict]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def lines_until(log: Path, step: int) -> list[str]:
    """The lines of a log that a run which goes on from this step will not write again.

    An evaluation comes after the checkpoint of its step, so that one is written again.
    """
    kept = []
    for line in log.read_text().splitlines(keepends=True) if log.exists() else []:
        with suppress(ValueError):  # the last line may have been cut off
            entry = json.loads(line)
            if entry["step"] < step or (entry["step"] == step and "AP" not in entry):
                kept.append(line)
    return kept


def check_same(before: dict, now: dict) -> None:
    """Raise ValueError, naming them, if settings differ that decide what a run computes."""
    different = [
        f"--{name.replace('_', '-')} was {before.get(name)} and is now {now.get(name)}"
        for name in now.keys() | before.keys()
        if name not in FREE and before.get(name) != now.get(name)
    ]
    if different:
        raise ValueError(
            f"--resume goes on with the same settings, but {' and '.join(sorted(different))}; "
            "give those of the run, or choose another --out for a new one"
        )


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings by their names on the command line, {"optim.lr": ...}, as JSON keeps them."""
    names = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            names |= flat(value, f"{prefix}{name}.")
        else:
            names[prefix + name] = json.loads(json.dumps(value, default=str))
    return names


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one go."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def link(path: Path, name: Path) -> None:
    """A second name for a file; a copy where the file system knows no second names."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)


def open_tensorboard(folder: Path):
    """A writer for TensorBoard. Raises: ValueError, in one sentence, if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs a package that is not installed: pip install tensorboard; or "
            "leave it out, metrics.jsonl and curves.png are written anyway"
        ) from None
    return SummaryWriter(folder / "tensorboard")
