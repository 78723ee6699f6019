"""How long commands take to answer, beside the imports that they need: python benchmarks/startup.py

Each command runs in a process of its own, and they take turns.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
PYTHON = [sys.executable]
DDETR = [*PYTHON, "-m", "ddetr_edu"]
IMAGE, CHECKPOINT = "data/shapes-mini/val/000002.png", "data/tiny-shapes/model.safetensors"


def main(rounds: int = 3) -> None:
    """Print the median seconds of each command.

    Args:
        rounds: How often each command runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import torch": [*PYTHON, "-c", "import torch"],
            "import torch, torchvision": [*PYTHON, "-c", "import torch, torchvision"],
            "import ddetr_edu": [*PYTHON, "-c", "import ddetr_edu"],
            "ddetr --help": [*DDETR, "--help"],
            "ddetr train --help": [*DDETR, "train", "--help"],
            "ddetr train --mintes 3": [*DDETR, "train", "--mintes", "3"],
            "ddetr doctor": [*DDETR, "doctor"],
            "ddetr data validate data/shapes-mini": [
                *DDETR,
                "data",
                "validate",
                "data/shapes-mini",
            ],
            "ddetr predict IMAGE": [
                *DDETR,
                "predict",
                IMAGE,
                "--checkpoint",
                CHECKPOINT,
                "--out",
                f"{folder}/out.png",
            ],
        }
        seconds = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, cwd=ROOT, capture_output=True)
                seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name:40s} {statistics.median(values):6.2f} s")


if __name__ == "__main__":
    tyro.cli(main)
