"""Inference on one image with the two-stage R50 model: ours and Hugging Face's.

    uv run --group peers python benchmarks/inference.py

Both have the same parameters and take turns in one process, on an image of 800 x 1200 pixels in
fp32. Peak memory is measured in a separate process for each. Prints times, memory and a breakdown
of our time; writes benchmarks/results/inference.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ddetr_edu as dd
from ddetr_edu.attention.benchmark import machine

HEIGHT, WIDTH = 800, 1200
ROUNDS = 7
# Which operators of torch belong to which part; the rest are additions, norms and copies.
PARTS = {
    "convolutions": ("aten::mkldnn_convolution", "aten::max_pool2d_with_indices"),
    "linear layers": ("aten::addmm", "aten::mm"),
    "deformable attention": ("ddetr_edu::ms_deform_attn",),
    "dense self-attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::bmm"),
}


def load_ours(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Our model, as a function from images (N, 3, H, W) to logits and boxes."""
    model = dd.load(folder).for_inference().model

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        predictions = model(images, torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool))
        return predictions.logits, predictions.boxes

    return run


def load_theirs(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Hugging Face's model, as the same kind of function."""
    model = transformers.DeformableDetrForObjectDetection.from_pretrained(folder).eval()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        predictions = model(pixel_values=images, pixel_mask=torch.ones(1, HEIGHT, WIDTH).long())
        return predictions.logits, predictions.pred_boxes

    return run


LOADERS = {"ours": load_ours, "theirs": load_theirs}


@torch.inference_mode()
def measure(folder: Path) -> dict:
    """Seconds of both models on one image, their largest difference, and our time by part."""
    images = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    run = {name: load(folder) for name, load in LOADERS.items()}
    outputs = {name: run[name](images) for name in run}  # this warms up, too
    difference = max(
        (a - b).abs().max().item() for a, b in zip(outputs["ours"], outputs["theirs"], strict=True)
    )
    seconds = {name: [] for name in run}
    for _ in range(ROUNDS):
        for name in run:
            started = time.perf_counter()
            run[name](images)
            seconds[name].append(time.perf_counter() - started)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run["ours"](images)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "seconds": {name: [round(t, 3) for t in times] for name, times in seconds.items()},
        "ratio": round(medians["theirs"] / medians["ours"], 2),
        "max_difference": difference,
        "ours_by_part": by_part(profiled.key_averages()),
    }


def by_part(operators) -> dict[str, float]:
    """The share of each part of the model in the time of all operators."""
    times = {event.key: event.self_cpu_time_total for event in operators}
    total = sum(times.values())
    shares = {
        part: sum(times.get(name, 0) for name in names) / total for part, names in PARTS.items()
    }
    shares["everything else"] = 1 - sum(shares.values())
    return {part: round(share, 3) for part, share in shares.items()}


def peak_megabytes(name: str, folder: Path) -> int:
    """The peak memory of a process that only loads one model and runs it once."""
    program = [sys.executable, __file__, name, str(folder)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@torch.inference_mode()
def run_once(name: str, folder: Path) -> None:
    """Run one model once, and print the peak memory of this process in MB."""
    LOADERS[name](folder)(torch.randn(1, 3, HEIGHT, WIDTH))
    # getrusage would not do: its figure starts at the peak of the parent process.
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) // 1024)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    torch.manual_seed(0)
    config = transformers.DeformableDetrConfig(num_labels=91, with_box_refine=True, two_stage=True)
    with tempfile.TemporaryDirectory() as folder:
        transformers.DeformableDetrForObjectDetection(config).save_pretrained(folder)
        results = {"machine": machine(), "transformers": transformers.__version__}
        results |= measure(Path(folder))
        results["peak_megabytes"] = {name: peak_megabytes(name, Path(folder)) for name in LOADERS}
    for name, times in results["seconds"].items():
        print(
            f"{name:7} {statistics.median(times):6.2f} s ({min(times):.2f} to {max(times):.2f}), "
            f"peak {results['peak_megabytes'][name]} MB"
        )
    print(
        f"ours is {results['ratio']}x as fast; largest difference of an output "
        f"{results['max_difference']:.1e}"
    )
    for part, share in results["ours_by_part"].items():
        print(f"  {share:6.1%} of our time: {part}")
    out = Path("benchmarks/results/inference.json")
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:  # called by `peak_megabytes`
        run_once(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
