"""Kill training runs with SIGKILL at random times, resume them, and compare the results.

    uv run python benchmarks/resume.py

The parameters, the optimiser's state and the log of each resumed run are compared with those of an
uninterrupted run: they must be identical, bit for bit. First with one process, then with two that
share each step. Prints a line for each kill; writes benchmarks/results/resume.json.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from ddetr_edu.attention.benchmark import machine
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.loop import train

KILLS = 20
CONFIG = TrainConfig(
    data="data/shapes-mini",
    image_size=ResizeConfig(64, 96),
    steps=40,
    batch_size=2,
    eval_every=20,
    save_every=4,
    ema=0.9,
    device="cpu",
    workers=1,
)


def start(config: TrainConfig, processes: int) -> list[multiprocessing.Process]:
    """Start training in new processes, silently, as torchrun would start them.

    Args:
        config: The settings of the run.
        processes: How many processes share each step.

    Returns:
        The processes, already started.
    """
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    # A forked process has imported everything already, so that the kills hit the training.
    context = multiprocessing.get_context("fork")
    environments = [
        dict(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank in range(processes)
    ]
    started = [
        context.Process(target=train_as, args=(config, environment)) for environment in environments
    ]
    for process in started:
        process.start()
    return started


def train_as(config: TrainConfig, environment: dict[str, str]) -> None:
    """Train in this process, with torchrun's environment variables and without output."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 1)
        os.dup2(devnull.fileno(), 2)
    train(config)


def finish(config: TrainConfig, processes: int) -> None:
    """Train to the end. Raises AssertionError if a process fails."""
    started = start(config, processes)
    for process in started:
        process.join()
    codes = [process.exitcode for process in started]
    assert codes == [0] * processes, f"the run ended with exit codes {codes}"


def kill_after(config: TrainConfig, processes: int, seconds: float) -> bool:
    """Train, and send SIGKILL after some time.

    Args:
        config: The settings of the run.
        processes: How many processes share each step.
        seconds: The time until the kill.

    Returns:
        Whether the run was still going on then.
    """
    started = start(config, processes)
    time.sleep(seconds)
    alive = all(process.is_alive() for process in started)
    for process in started:
        process.kill()
    for process in started:
        process.join()
    return alive


def fingerprint(run: Path) -> str:
    """A hash of the last checkpoint's parameters and optimiser and of the log, without times."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    digest = hashlib.sha256()
    add(digest, content["model"])
    add(digest, content["training"]["trainer"])
    for line in (run / "metrics.jsonl").read_text().splitlines():
        add(digest, {k: v for k, v in json.loads(line).items() if k != "minutes"})
    return digest.hexdigest()[:16]


def add(digest, content) -> None:
    """Add nested content to the digest, in order, tensors by their bytes."""
    if isinstance(content, dict):
        for name, value in content.items():
            digest.update(str(name).encode())
            add(digest, value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            add(digest, value)
    elif isinstance(content, torch.Tensor):
        digest.update(content.contiguous().numpy().tobytes())
    else:
        digest.update(repr(content).encode())


def measure(
    config: TrainConfig, processes: int, kills: int, folder: Path, seed: int = 0
) -> list[dict]:
    """Kill runs at random times, resume each, and compare it with an uninterrupted run.

    Args:
        config: The settings of the runs.
        processes: How many processes share each step.
        kills: The number of kills.
        folder: Where the runs' folders go.
        seed: Of the times of the kills.

    Returns:
        For each kill "seconds", its time; "checkpoint", the step of the newest checkpoint at that
        time (0 if there was none); and "same", whether the resumed run is identical.
    """
    times = random.Random(seed)
    started = time.monotonic()
    uninterrupted = folder / f"uninterrupted-{processes}"
    finish(replace(config, out=uninterrupted), processes)
    duration = time.monotonic() - started
    found = []
    while len(found) < kills:
        killed = replace(config, out=folder / f"killed-{processes}")
        shutil.rmtree(killed.out, ignore_errors=True)
        seconds = round(times.uniform(0, duration), 2)
        if not kill_after(killed, processes, seconds):
            continue
        checkpoint, step = killed.out / "checkpoint.pt", 0
        if checkpoint.exists():
            step = torch.load(checkpoint, weights_only=True)["step"]
        finish(replace(killed, resume=True), processes)
        same = fingerprint(killed.out) == fingerprint(uninterrupted)
        found.append({"seconds": seconds, "checkpoint": step, "same": same})
        print(
            f"{processes} processes, killed after {seconds:5.2f} s, resumed after step {step}: "
            f"{'identical, bit for bit' if same else 'DIFFERENT'}",
            flush=True,
        )
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    results: dict = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            results[f"processes: {processes}"] = measure(CONFIG, processes, KILLS, Path(folder))
    Path("benchmarks/results/resume.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
