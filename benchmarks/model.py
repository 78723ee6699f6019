"""What the kernel does for whole models: a training step of `tiny`, one picture through `r50`.

    uv run python benchmarks/model.py

The same model with the grid_sample attention and with the C++ kernel, taking turns in one process.
Prints seconds, and writes benchmarks/results/model.json.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import ddetr_edu as dd
from ddetr_edu.bench import machine
from ddetr_edu.data import Shapes
from ddetr_edu.detector import PictureSize, to_floats
from ddetr_edu.training import Detector

BACKENDS = ("grid_sample", "cpu")
ROUNDS = 7
BATCH = 8  # pictures in the training step


def use(model: nn.Module, backend: str) -> None:
    """Make every attention of the model use one backend."""
    for module in model.modules():
        if isinstance(module, dd.MSDeformAttn):
            module.backend = backend


def taking_turns(model: nn.Module, work: Callable[[], None]) -> dict[str, float]:
    """Median seconds of `work` for each backend; the first round warms up."""
    seconds = {name: [] for name in BACKENDS}
    for turn in range(ROUNDS + 1):
        for name in BACKENDS:
            use(model, name)
            started = time.perf_counter()
            work()
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def tiny_training_step() -> dict[str, float]:
    """Losses, gradients and update of `tiny` on a batch of scenes."""
    scenes = Shapes(BATCH, seed=0)
    config = dd.DeformableDETRConfig.preset("tiny", num_classes=len(scenes.categories))
    detector = Detector(dd.DeformableDETR(config), scenes.categories, PictureSize(192, 224))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    images, targets = zip(*(scenes[i] for i in range(BATCH)), strict=True)
    images = [to_floats(image) for image in images]

    def step() -> None:
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        optimizer.step()

    return taking_turns(detector, step)


def r50_forward() -> dict[str, float]:
    """One picture of 800 x 1200 through the multi-scale model."""
    model = dd.DeformableDETR(dd.DeformableDETRConfig.preset("r50")).eval()
    images, mask = torch.randn(1, 3, 800, 1200), torch.zeros(1, 800, 1200, dtype=torch.bool)

    @torch.inference_mode()
    def forward() -> None:
        model(images, mask)

    return taking_turns(model, forward)


if __name__ == "__main__":
    torch.manual_seed(0)
    results = {"machine": machine()}
    for case in (tiny_training_step, r50_forward):
        seconds = results[case.__name__] = case()
        before, after = (seconds[name] for name in BACKENDS)
        print(
            f"{case.__name__:18}  grid_sample {before:.3f} s   kernel {after:.3f} s   "
            f"{before / after:.2f}x"
        )
    out = Path("benchmarks/results/model.json")
    out.write_text(json.dumps(results, indent=1) + "\n")
