"""Inference on one image: ours in fp32 and bf16, ONNX Runtime, and Hugging Face's model.

    uv run --group peers python benchmarks/inference.py [--rounds 7] [--only lite]

Two models with random parameters: Deformable DETR with ResNet-50 in two stages on 800 x 1200 px,
and `lite` on 320 x 416 px, which Hugging Face does not have. For each, all sides have the same
parameters and take turns in one process, each with as many threads as torch. Ours is
`detector.for_inference()`; ONNX Runtime runs what `ddetr export` writes. Peak memory is measured in
a separate process for each side. Prints the times and, of ours and of ONNX Runtime, the time of
each part of the model; writes benchmarks/results/inference.json, unless --only leaves a model out.
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

import onnxruntime
import torch
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ddetr_edu as dd
from ddetr_edu.attention.benchmark import load_average, machine
from ddetr_edu.checkpoints.io import save
from ddetr_edu.checkpoints.onnx import export_onnx
from ddetr_edu.checkpoints.onnx_check import largest_difference
from ddetr_edu.models.backbone import normalization
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR, Predictions
from ddetr_edu.models.preprocessing import make_batch

FP32, BF16, ONNX, THEIRS = "ours, fp32", "ours, bf16", "ONNX Runtime, fp32", "Hugging Face, fp32"
CASES = {
    "r50_two_stage": dict(size=(800, 1200), sides=(FP32, BF16, ONNX, THEIRS)),
    "lite": dict(size=(320, 416), sides=(FP32, BF16, ONNX)),
}
# Operators of torch and of ONNX by part; the rest are additions, norms, activations and copies.
PARTS = {
    "convolutions": (
        "aten::mkldnn_convolution",
        "aten::max_pool2d_with_indices",
        *("Conv", "FusedConv", "MaxPool", "ReorderInput", "ReorderOutput"),
    ),
    "matrix products": (
        *("aten::addmm", "aten::mm", "aten::linear", "aten::bmm"),
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        *("Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    ),
    "deformable attention": ("ddetr_edu::ms_deform_attn", "GridSample"),
}

Side = Callable[[Tensor], Predictions]  # from one image (3, H, W) in [0, 1]


def make_model(name: str, folder: Path) -> None:
    """Write a model with random parameters in each form that a side of its case reads."""
    torch.manual_seed(0)
    height, width = CASES[name]["size"]
    resize = ResizeConfig(height, width)
    if THEIRS in CASES[name]["sides"]:
        config = transformers.DeformableDetrConfig(
            num_labels=91, with_box_refine=True, two_stage=True
        )
        transformers.DeformableDetrForObjectDetection(config).save_pretrained(folder / "theirs")
        detector = dd.load(folder / "theirs")
        detector.resize = resize
    else:
        config = DeformableDETRConfig.preset(name)
        categories = [str(n) for n in range(config.num_classes)]
        detector = dd.Detector(DeformableDETR(config), categories, resize)
    mean, std = ([float(x) for x in values] for values in normalization(detector.model.backbone))
    (folder / "batch.json").write_text(json.dumps([mean, std, [height, width]]))
    detector.eval()
    save(folder / "ours.pt", detector)
    export_onnx(folder / "model.onnx", detector)


def load_ours(folder: Path, precision: str) -> Side:
    detector = dd.load(folder / "ours.pt").for_inference(precision)
    return lambda image: detector.run_model([image])


def to_batch(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What makes a normalised image and its padding mask of an image, as ours does."""
    mean, std, size = json.loads((folder / "batch.json").read_text())
    statistics_of_channels = torch.tensor(mean), torch.tensor(std)
    return lambda image: make_batch([image], ResizeConfig(*size), False, *statistics_of_channels)


def open_session(folder: Path, profiled: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    options.enable_profiling = profiled
    options.profile_file_prefix = str(folder / "profile")
    return onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, batch: tuple[Tensor, Tensor]) -> Predictions:
    images, padding_mask = batch
    given = {"images": images.numpy(), "padding_mask": padding_mask.numpy()}
    return Predictions(*map(torch.from_numpy, session.run(["logits", "boxes"], given)))


def load_onnx(folder: Path) -> Side:
    session, batch = open_session(folder), to_batch(folder)
    return lambda image: run_session(session, batch(image))


def load_theirs(folder: Path) -> Side:
    model = transformers.DeformableDetrForObjectDetection.from_pretrained(folder / "theirs").eval()
    batch = to_batch(folder)

    def run(image: Tensor) -> Predictions:
        images, padding_mask = batch(image)
        predictions = model(pixel_values=images, pixel_mask=(~padding_mask).long())
        return Predictions(predictions.logits, predictions.pred_boxes)

    return run


LOADERS: dict[str, Callable[[Path], Side]] = {
    FP32: lambda folder: load_ours(folder, "fp32"),
    BF16: lambda folder: load_ours(folder, "bf16"),
    ONNX: load_onnx,
    THEIRS: load_theirs,
}


@torch.inference_mode()
def measure(name: str, folder: Path, rounds: int) -> dict:
    """Seconds of all sides of a case on one image, how far they differ, and the time by part."""
    size, sides = CASES[name]["size"], CASES[name]["sides"]
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    run = {side: LOADERS[side](folder) for side in sides}
    outputs = {side: run[side](image) for side in sides}  # this warms up, too
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            started = time.perf_counter()
            run[side](image)
            seconds[side].append(time.perf_counter() - started)
    rows = {
        side: {
            "seconds": [round(t, 4) for t in seconds[side]],
            "time_of_ours": round(
                statistics.median(
                    t / ours for t, ours in zip(seconds[side], seconds[FP32], strict=True)
                ),
                3,
            ),
            "difference": largest_difference(outputs[side], outputs[FP32]),
            "peak_megabytes": peak_megabytes(name, side, folder),
        }
        for side in sides
    }
    for side in (FP32, BF16):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            run[side](image)
        times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
        rows[side]["seconds_by_part"] = by_part(times)
    rows[ONNX]["seconds_by_part"] = by_part(profile_onnx(folder, to_batch(folder)(image)))
    return {"size": size, "sides": rows}


def profile_onnx(folder: Path, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Microseconds of each operator in one run of ONNX Runtime, after one that warms up."""
    session = open_session(folder, profiled=True)
    for _ in range(2):
        run_session(session, batch)
    events = json.loads(Path(session.end_profiling()).read_text())
    second = max(event["ts"] for event in events if event["name"] == "model_run")
    times: dict[str, float] = {}
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= second:
            operator = event["args"]["op_name"]
            times[operator] = times.get(operator, 0) + event["dur"]
    return times


def by_part(times: dict[str, float]) -> dict[str, float]:
    """Seconds of each part of the model, from microseconds of each operator."""
    parts = {part: sum(times.get(name, 0) for name in names) for part, names in PARTS.items()}
    parts["everything else"] = sum(times.values()) - sum(parts.values())
    return {part: round(microseconds / 1e6, 4) for part, microseconds in parts.items()}


def peak_megabytes(name: str, side: str, folder: Path) -> int:
    """The peak memory of a process that only loads one side and runs it once."""
    program = [sys.executable, __file__, "--peak", name, side, str(folder)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@torch.inference_mode()
def print_peak(name: str, side: str, folder: str) -> None:
    """Run one side once, and print the peak memory of this process in MB."""
    LOADERS[side](Path(folder))(torch.rand(3, *CASES[name]["size"]))
    # getrusage would not do: its figure starts at the peak of the parent process.
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) // 1024)


def print_case(name: str, case: dict) -> None:
    height, width = case["size"]
    print(f"{name}, {height} x {width} px")
    for side, row in case["sides"].items():
        times = row["seconds"]
        print(
            f"  {side:19}{statistics.median(times):8.3f} s ({min(times):.3f} to {max(times):.3f})"
            f"  {row['time_of_ours']:.2f}x the time of ours, peak {row['peak_megabytes']} MB, "
            f"largest difference {row['difference']:.1e}"
        )
    profiled = {
        side: row["seconds_by_part"]
        for side, row in case["sides"].items()
        if "seconds_by_part" in row
    }
    print(f"  {'seconds, profiled':24}" + "".join(f"{side:>20}" for side in profiled))
    for part in next(iter(profiled.values())):
        print(f"  {part:24}" + "".join(f"{parts[part]:20.3f}" for parts in profiled.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each side is timed")
    parser.add_argument("--only", choices=CASES, help="measure only this model; write nothing")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)  # of `peak_megabytes`
    options = parser.parse_args()
    if options.peak:
        return print_peak(*options.peak)
    results = {
        "machine": machine(),
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
        "cases": {},
    }
    for name in [options.only] if options.only else CASES:
        with tempfile.TemporaryDirectory() as folder:
            make_model(name, Path(folder))
            results["cases"][name] = measure(name, Path(folder), options.rounds)
        print_case(name, results["cases"][name])
    results["machine"]["load_after"] = load_average()
    if not options.only:
        out = Path("benchmarks/results/inference.json")
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
