"""Models of transformers with and without our operation: the same answers, and seconds.

    uv run --group peers python benchmarks/other_models.py

Each model has its family's default configuration and random parameters, and runs on one image in
fp32. With `dd.accelerated_transformers()` and without it take turns in one process. Prints a row
for each model; writes benchmarks/results/other_models.json.
"""

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch import Tensor, nn

import ddetr_edu as dd
from ddetr_edu.attention.benchmark import machine

ROUNDS = 5
MODELS = {  # {name: (what builds it, (H, W) of the image)}
    "Deformable DETR, two stages": (
        lambda: transformers.DeformableDetrForObjectDetection(
            transformers.DeformableDetrConfig(with_box_refine=True, two_stage=True)
        ),
        (800, 1200),
    ),
    "RT-DETR": (
        lambda: transformers.RTDetrForObjectDetection(transformers.RTDetrConfig()),
        (640, 640),
    ),
    "RT-DETRv2": (
        lambda: transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config()),
        (640, 640),
    ),
    "D-FINE": (
        lambda: transformers.DFineForObjectDetection(transformers.DFineConfig()),
        (640, 640),
    ),
    "Grounding DINO": (
        lambda: transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig()),
        (800, 1200),
    ),
    "Mask2Former": (
        lambda: transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig()),
        (800, 1200),
    ),
}
WORDS = torch.tensor([[101, 4937, 1012, 102]])  # "cat." for Grounding DINO


def spread(model: nn.Module) -> None:
    """Give offsets and weights random parameters, so that the answers depend on both."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise / parameter.shape[-1] ** 0.5)


def answers(model: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    """All tensors that a model returns, or those that do not depend on the order of near ties."""
    found = model(**given)
    if "encoder_last_hidden_state_vision" in found:
        # Grounding DINO's proposals have nearly equal scores with random parameters: rounding
        # decides which comes first, and all that follows is in that order.
        return [found.encoder_last_hidden_state_vision]
    return [value for value in found.to_tuple() if torch.is_tensor(value)]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest answer; infinite ones must be the same."""
    finite = theirs.isfinite()
    if not torch.equal(ours[~finite], theirs[~finite]):
        return float("inf")
    ours, theirs = ours[finite], theirs[finite]
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


@torch.inference_mode()
def measure(build: Callable[[], nn.Module], size: tuple[int, int]) -> dict:
    """Seconds of a model with our operation and with its own, and how far the answers differ."""
    torch.manual_seed(0)
    model = build().eval()
    spread(model)
    given = {"pixel_values": torch.randn(1, 3, *size)}
    if "grounding" in model.config.model_type:
        given["input_ids"] = WORDS
    setups = {"theirs": contextlib.nullcontext, "ours": dd.accelerated_transformers}
    found, seconds = {}, {name: [] for name in setups}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name, setup in setups.items():
            with setup():
                started = time.perf_counter()
                found[name] = answers(model, given)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    pairs = zip(found["ours"], found["theirs"], strict=True)
    difference = max(relative(*pair) for pair in pairs if pair[0].is_floating_point())
    ratio = statistics.median(
        theirs / ours for theirs, ours in zip(seconds["theirs"], seconds["ours"], strict=True)
    )
    return {
        "size": size,
        "seconds": {name: [round(t, 3) for t in times] for name, times in seconds.items()},
        "ratio": round(ratio, 2),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="measure only the models with this in their names")
    only = parser.parse_args().only
    results = {"machine": machine(), "transformers": transformers.__version__, "models": {}}
    for name, (build, size) in MODELS.items():
        if only and only.lower() not in name.lower():
            continue
        measured = results["models"][name] = measure(build, size)
        theirs, ours = (statistics.median(measured["seconds"][key]) for key in ("theirs", "ours"))
        print(
            f"{name:28} {size[0]:4} x {size[1]:4}  {theirs:6.2f} s -> {ours:6.2f} s, "
            f"{measured['ratio']:.2f}x; largest difference {measured['largest_difference']:.1e}",
            flush=True,
        )
    if not only:
        out = Path("benchmarks/results/other_models.json")
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
