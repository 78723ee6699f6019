"""The C++ kernel in whole models: a training step of `tiny`, and one image through `r50`.

    uv run python benchmarks/model.py

The same model with the grid_sample backend and with the C++ kernel, taking turns in one process.
Prints seconds; writes benchmarks/results/model.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import ddetr_edu as dd
from ddetr_edu.attention.benchmark import machine
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.preprocessing import to_floats

BACKENDS = ("grid_sample", "cpu")
ROUNDS = 7
BATCH = 8  # images in the training step


def set_backend(model: nn.Module, backend: str) -> None:
    """Make every deformable attention of the model use one backend."""
    for module in model.modules():
        if isinstance(module, dd.MSDeformAttn):
            module.backend = backend


def time_backends(model: nn.Module, work: Callable[[], None]) -> dict[str, float]:
    """The median seconds of `work` with each backend; the backends take turns."""
    seconds = {name: [] for name in BACKENDS}
    for turn in range(ROUNDS + 1):
        for name in BACKENDS:
            set_backend(model, name)
            started = time.perf_counter()
            work()
            if turn > 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def tiny_training_step() -> dict[str, float]:
    """The forward pass, losses, backward pass and update of `tiny` on a batch of scenes."""
    scenes = Shapes(BATCH, seed=0)
    config = dd.DeformableDETRConfig.preset("tiny", num_classes=len(scenes.categories))
    detector = Detector(dd.DeformableDETR(config), scenes.categories, ResizeConfig(192, 224))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    images, targets = zip(*(scenes[i] for i in range(BATCH)), strict=True)
    images = [to_floats(image) for image in images]

    def step() -> None:
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        optimizer.step()

    return time_backends(detector, step)


def r50_forward() -> dict[str, float]:
    """One image of 800 x 1200 through the multi-scale model."""
    model = dd.DeformableDETR(dd.DeformableDETRConfig.preset("r50")).eval()
    images, mask = torch.randn(1, 3, 800, 1200), torch.zeros(1, 800, 1200, dtype=torch.bool)

    @torch.inference_mode()
    def forward() -> None:
        model(images, mask)

    return time_backends(model, forward)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    torch.manual_seed(0)
    results: dict[str, dict] = {"machine": machine()}
    for case in (tiny_training_step, r50_forward):
        seconds = results[case.__name__] = case()
        grid_sample, kernel = (seconds[name] for name in BACKENDS)
        print(
            f"{case.__name__:18}  grid_sample {grid_sample:.3f} s   kernel {kernel:.3f} s   "
            f"{grid_sample / kernel:.2f}x"
        )
    Path("benchmarks/results/model.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
