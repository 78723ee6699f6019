"""Kill training runs with SIGKILL at random moments, resume them, and compare what comes out.

    uv run python benchmarks/resume.py

The weights, the optimiser's state and the log of each are held against those of a run that nobody
killed: they must be the same to the last bit. One process first, then two that share each step.
"""

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

from ddetr_edu.bench import machine
from ddetr_edu.detector import PictureSize
from ddetr_edu.training import TrainConfig, train

KILLS = 20
CONFIG = TrainConfig(
    data="data/shapes-mini", size=PictureSize(64, 96), steps=40, batch=2, eval_every=20,
    save_every=4, ema=0.9, device="cpu", workers=1,
)  # fmt: skip


def start(config: TrainConfig, processes: int) -> list[multiprocessing.Process]:
    """Begin to train, quietly, in processes of their own, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A fork has imported everything already, so that the kills meet the training.
    context = multiprocessing.get_context("fork")
    places = [
        dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes),
             MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        for rank in range(processes)
    ]  # fmt: skip
    started = [context.Process(target=train_as, args=(config, place)) for place in places]
    for process in started:
        process.start()
    return started


def train_as(config: TrainConfig, place: dict[str, str]) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    train(config)


def finish(config: TrainConfig, processes: int) -> None:
    """Train to the end."""
    started = start(config, processes)
    for process in started:
        process.join()
    codes = [process.exitcode for process in started]
    assert codes == [0] * processes, f"the run ended with exit codes {codes}"


def kill_after(config: TrainConfig, processes: int, seconds: float) -> bool:
    """Train for so long, then SIGKILL; False if the run was over before."""
    started = start(config, processes)
    time.sleep(seconds)
    alive = all(process.is_alive() for process in started)
    for process in started:
        process.kill()
    for process in started:
        process.join()
    return alive


def fingerprint(run: Path) -> str:
    """Of the last checkpoint's weights and optimiser, and of the log, without the clock."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    digest = hashlib.sha256()
    add(digest, content["model"])
    add(digest, content["training"]["learner"])
    for line in (run / "metrics.jsonl").read_text().splitlines():
        add(digest, {k: v for k, v in json.loads(line).items() if k != "minutes"})
    return digest.hexdigest()[:16]


def add(digest, content) -> None:
    """Feed nested content to the digest, in order, tensors by their bytes."""
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
    """Kill and resume so many times.

    Returns: for each kill, after how many seconds it came, the step that the newest checkpoint then
        held (0 for none) and whether the finished run was the same as the one nobody killed.
    """
    moments = random.Random(seed)
    began = time.monotonic()
    whole = folder / f"whole-{processes}"
    finish(replace(config, out=whole), processes)
    duration = time.monotonic() - began
    found = []
    while len(found) < kills:
        killed = replace(config, out=folder / f"killed-{processes}")
        shutil.rmtree(killed.out, ignore_errors=True)
        seconds = round(moments.uniform(0, duration), 2)
        if not kill_after(killed, processes, seconds):
            continue
        checkpoint, step = killed.out / "checkpoint.pt", 0
        if checkpoint.exists():
            step = torch.load(checkpoint, weights_only=True)["step"]
        finish(replace(killed, resume=True), processes)
        same = fingerprint(killed.out) == fingerprint(whole)
        found.append({"seconds": seconds, "checkpoint": step, "same": same})
        verdict = "the same to the last bit" if same else "DIFFERENT"
        print(f"{processes} processes, killed after {seconds:5.2f} s, gone on after step {step}: "
              f"{verdict}", flush=True)  # fmt: skip
    return found


if __name__ == "__main__":
    results = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            results[f"processes: {processes}"] = measure(CONFIG, processes, KILLS, Path(folder))
    Path("benchmarks/results/resume.json").write_text(json.dumps(results, indent=1) + "\n")
