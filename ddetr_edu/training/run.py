"""The folder of a run: its settings, log and checkpoints, complete whenever the run is stopped."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch

from ddetr_edu import distributed
from ddetr_edu.checkpoints.io import save
from ddetr_edu.checkpoints.safe_load import CheckpointError, safe_load
from ddetr_edu.files import atomic_write
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.lock import FolderLock
from ddetr_edu.training.logging import log0
from ddetr_edu.training.settings import check_same_categories, check_same_settings
from ddetr_edu.training.trainer import Trainer
from ddetr_edu.viz import plot_curves

# What a run writes to its folder.
FILES = ("checkpoint*.pt", "best.pt", "metrics.jsonl", "config.json", "curves.png", "tensorboard")


class Run:
    """The folder of a run. Only process 0 writes to it; in others the writing methods do nothing.

    checkpoint.pt is the newest checkpoint, checkpoint-STEP.pt are older ones, and best.pt is the
    detector with the highest AP. A checkpoint replaces the previous one only when it is completely
    on the disk.

    Args:
        folder: The folder to write.
        settings: Plain values by name, as `ddetr train` was given them.
        keep_checkpoints: The number of older checkpoints to keep.
        tensorboard: Also write TensorBoard files.

    Raises:
        ValueError: If TensorBoard is not installed.
    """

    def __init__(
        self, folder: Path, settings: dict, keep_checkpoints: int = 1, tensorboard: bool = False
    ):
        self.folder, self.settings, self.keep_checkpoints = folder, settings, keep_checkpoints
        self.checkpoint, self.log = folder / "checkpoint.pt", folder / "metrics.jsonl"
        self.saved_step = 0  # of checkpoint.pt
        self._writer_class = find_tensorboard() if tensorboard and not distributed.rank() else None
        self._writer = None
        self._lock: FolderLock | None = None

    def begin(self) -> None:
        """Start with an empty log. An earlier run is moved to a numbered folder of its own.

        Raises:
            ValueError: If another process is training in this folder.
        """
        if distributed.rank():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder)
        kept = move_earlier_run(self.folder)
        if kept is not None:
            log0(f"{self.folder} held an earlier run, which is now in {kept}")
        atomic_write(self.folder / "config.json", json.dumps(self.settings, indent=2).encode())
        atomic_write(self.log, b"")
        self._open_writer()

    def resume(self, trainer: Trainer, clock: Clock) -> bool:
        """Take trainer and clock to the newest checkpoint.

        Args:
            trainer: Built with the settings of the run; changed in place.
            clock: Changed in place.

        Returns:
            False if there is no checkpoint yet, and nothing was changed.

        Raises:
            CheckpointError: If training cannot resume from the checkpoint.
            ValueError: If it was trained with other settings or categories, or if another process
                is training in this folder.
        """
        if not self.checkpoint.exists():
            return False
        if not distributed.rank():
            self._lock = FolderLock(self.folder)
        content = safe_load(self.checkpoint)
        if not isinstance(content, dict) or "training" not in content:
            raise CheckpointError(
                f"{self.checkpoint} holds a detector but not the state of its training; "
                "--resume needs a checkpoint.pt that `ddetr train` wrote"
            )
        training = content["training"]
        check_same_settings(training["settings"], self.settings)
        check_same_categories(content["categories"], trainer.detector.categories, self.checkpoint)
        images = [settings.get("images") for settings in (training["settings"], self.settings)]
        if None not in images and images[0] != images[1]:
            log0(
                f"the training set had {images[0]} images and now has {images[1]}: the run goes on "
                "with these, but its end is no longer that of an uninterrupted run"
            )
        if self.settings.get("threads") is None and trainer.device.type == "cpu":
            # Sums are rounded differently with another number of threads.
            torch.set_num_threads(training.get("threads", torch.get_num_threads()))
        trainer.restore(content["model"], training["trainer"])
        clock.start(content["step"], training["minutes"])
        self.saved_step = clock.step
        if not distributed.rank():
            atomic_write(self.log, "".join(lines_until(self.log, clock.step)).encode())
            for unfinished in self.folder.glob(".*.pt.*"):
                unfinished.unlink()
            self._open_writer()
        return True

    def close(self) -> None:
        """Let another run have the folder."""
        if self._lock is not None:
            self._lock.release()

    def _open_writer(self) -> None:
        """Open TensorBoard's files, once those of an earlier run are out of the way."""
        if self._writer_class is not None:
            self._writer = self._writer_class(self.folder / "tensorboard")

    def write(self, entry: dict) -> None:
        """Append a line to the log, floats with six significant digits.

        Args:
            entry: "step" and other plain values, or lists of them.
        """
        if distributed.rank():
            return
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}
        with self.log.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        if self._writer:
            for name, value in rounded.items():
                if not isinstance(value, list):
                    self._writer.add_scalar(name, value, rounded["step"])

    def save(self, trainer: Trainer, clock: Clock) -> None:
        """Write checkpoint.pt, unless it holds this step already.

        Args:
            trainer: What to save.
            clock: At the current step.

        Raises:
            OSError: If it cannot be written; earlier checkpoints are then untouched.
        """
        if distributed.rank() or clock.step == self.saved_step:
            return
        if self.keep_checkpoints and self.checkpoint.exists():
            link_or_copy(self.checkpoint, self.folder / f"checkpoint-{self.saved_step:07d}.pt")
        training = {
            "settings": self.settings,
            "minutes": clock.minutes,
            "threads": torch.get_num_threads(),
            "trainer": trainer.state(),
        }
        save(self.checkpoint, trainer.result, step=clock.step, training=training)
        self.saved_step = clock.step
        older = sorted(self.folder.glob("checkpoint-*.pt"))
        for path in older[: max(len(older) - self.keep_checkpoints, 0)]:
            path.unlink()

    def log_evaluation(self, trainer: Trainer, clock: Clock, metrics: dict[str, float]) -> None:
        """Log an evaluation, plot the curves, and save the detector if it is the best so far.

        Args:
            trainer: What was evaluated.
            clock: At the current step.
            metrics: COCO's twelve.

        Raises:
            OSError: If a file cannot be written.
        """
        if distributed.rank():
            return
        best = max((line["AP"] for line in self.lines() if "AP" in line), default=-2.0)
        if metrics["AP"] > best:
            save(self.folder / "best.pt", trainer.result, step=clock.step)
        self.write({"step": clock.step, "minutes": clock.minutes, **metrics})
        plot_curves(self.log, self.folder / "curves.png")

    def lines(self) -> list[dict]:
        """The entries of the log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def move_earlier_run(folder: Path) -> Path | None:
    """Move the files of an earlier run out of the way of a new one; nothing is ever replaced.

    Args:
        folder: The folder that both runs write to.

    Returns:
        The folder that the files are in now: `run-1` for the first run, `run-2` for the second, and
        so on. None if there is no checkpoint and no line of a log that could be lost.
    """
    files = [path for name in FILES for path in folder.glob(name)]
    if not any(path.suffix in (".pt", ".jsonl") and path.stat().st_size for path in files):
        return None
    numbers = [path.name.removeprefix("run-") for path in folder.glob("run-*")]
    number = 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)
    target = folder / f"run-{number}"
    target.mkdir()
    for path in files:
        path.replace(target / path.name)
    return target


def lines_until(log: Path, step: int) -> list[str]:
    """The lines of a log that a run resumed after this step will not write again.

    The evaluation of a step comes after its checkpoint, so it will be written again.

    Args:
        log: The file, which may be missing.
        step: The step of the checkpoint.

    Returns:
        The lines to keep, with their line ends.
    """
    kept = []
    for line in log.read_text().splitlines(keepends=True) if log.exists() else []:
        with suppress(ValueError):  # the last line may be incomplete
            entry = json.loads(line)
            if entry["step"] < step or (entry["step"] == step and "AP" not in entry):
                kept.append(line)
    return kept


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy where the file system has no hard links.

    Args:
        source: An existing file.
        target: The new name; a file of that name is replaced.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def find_tensorboard() -> type:
    """The class that writes TensorBoard files.

    Returns:
        torch.utils.tensorboard.SummaryWriter.

    Raises:
        ValueError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs a package that is not installed: pip install tensorboard; or "
            "leave it out, metrics.jsonl and curves.png are written anyway"
        ) from None
    return SummaryWriter
