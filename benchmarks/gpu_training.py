"""Training on a GPU: the speed and memory of a step, and the AP after minutes of training.

    PYTHONPATH=. python benchmarks/gpu_training.py    # both parts, about three minutes
    PYTHONPATH=. python benchmarks/gpu_training.py --parts tiny --minutes 2
    PYTHONPATH=. python benchmarks/gpu_training.py --dry-run --device cpu

- r50: training steps of `r50_two_stage` on one batch in the GPU's memory, four images of
  800 x 1200: ours and Hugging Face's with the same parameters, in fp32 and under autocast to bf16.
  A step is the forward pass, the matching and all losses (each side with its own code), the
  backward pass, gradient clipping and AdamW with the same settings. Ours runs with the CUDA kernel
  and with grid_sample; theirs with grid_sample, as it comes, and with the official CUDA kernel
  where that can be imported. All are in one process and take turns. equal_models.py builds the two
  models. In two stages we also compute the encoder's loss, which they leave out. Whether fp32
  numbers are rounded to TF32 is left as torch has it by default, and stated in the results.
- tiny: `ddetr train --preset tiny_two_stage --precision bf16 --minutes M`, and the AP on the 500
  held-out test scenes. How long training waited for data is measured, too, as are the steps per
  second on one batch again and again.

Prints tables; writes benchmarks/results/gpu_training.json round by round. What fails does not stop
the rest. Needs pycocotools; the first part also transformers and timm.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest.mock import patch

import torch
from gpu_training_steps import attempt, measure_r50, on_gpu, synchronize

from ddetr_edu.attention.kernels import cuda
from ddetr_edu.checkpoints.io import load
from ddetr_edu.data.loading import open_batches
from ddetr_edu.data.shapes import Shapes, held_out_scenes
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.files import atomic_write
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training import loop
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.prepare import build_detector, pick_device, pick_optim, pick_workers
from ddetr_edu.training.trainer import Trainer

OUT = Path(__file__).parent / "results" / "gpu_training.json"
METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
DRY_RUN = dict(
    preset="tiny_two_stage",
    size=(64, 96),
    images=2,
    rounds=2,
    warm_up=1,
    steps=2,
    scenes=4,
    out=Path("runs/gpu/dry_run.json"),
)


def main() -> int:
    options = parse(sys.argv[1:])
    failed = False
    for part in options.parts:
        try:
            about = {"machine": machine(options.device)}
            PARTS[part](
                options, lambda measured, a=about, p=part: write(options.out, p, a | measured)
            )
        except Exception:  # the other part can still be measured
            traceback.print_exc()
            failed = True
        gc.collect()
        torch.cuda.empty_cache()
    return int(failed)


def write(out: Path, part: str, measured: dict) -> None:
    """Put one measurement into the results. What the file holds besides it stays as it is.

    Args:
        out: The file.
        part: A key of PARTS.
        measured: What was measured, on which machine.
    """
    results = json.loads(out.read_text()) if out.exists() else {}
    if part == "tiny":  # a list of runs, which differ in these
        key = {name: measured[name] for name in ("preset", "minutes", "seed")}
        others = [run for run in results.get(part, []) if not key.items() <= run.items()]
        results[part] = [*others, measured]
    else:
        results[part] = measured
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, (json.dumps(results, indent=1) + "\n").encode())


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, in a dry run with other defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="a few small steps of everything")
    parser.add_argument("--out", type=Path, default=OUT)
    r50 = parser.add_argument_group("r50")
    r50.add_argument("--preset", default="r50_two_stage")
    r50.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    r50.add_argument("--size", nargs=2, type=int, default=(800, 1200), metavar=("SHORT", "LONG"))
    r50.add_argument("--images", type=int, default=4, help="in the batch")
    r50.add_argument("--rounds", type=int, default=15, help="timed steps of each side")
    r50.add_argument("--warm-up", type=int, default=5, help="steps of each side before that")
    r50.add_argument("--seconds", type=float, default=65, help="start no round after that")
    tiny = parser.add_argument_group("tiny")
    tiny.add_argument("--minutes", type=float, default=1.5, help="of training")
    tiny.add_argument("--steps", type=int, help="of training, instead of minutes")
    tiny.add_argument("--seed", type=int, default=0)
    tiny.add_argument("--workers", type=int, help="data loading processes")
    tiny.add_argument("--scenes", type=int, default=500, help="held-out scenes to evaluate on")
    tiny.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="folder for the run")
    if parser.parse_args(arguments).dry_run:
        parser.set_defaults(**DRY_RUN)
    return parser.parse_args(arguments)


def machine(device: str) -> dict:
    """What measurements depend on besides the code."""
    has_kernel = on_gpu(device) and cuda.unavailable_reason() is None
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if on_gpu(device) else "CPU",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "transformers": installed_version("transformers"),
        # "highest": matrix products in full fp32. Convolutions have a switch of their own.
        "fp32_matmul_precision": torch.get_float32_matmul_precision(),
        "convolutions_in_tf32": torch.backends.cudnn.allow_tf32,
        "kernel": cuda.description() if has_kernel else None,
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class TimedBatches:
    """`open_batches`, which also keeps the seconds that training waits for each batch."""

    def __init__(self):
        self.seconds: list[float] = []

    def __call__(self, *args, **kwargs):
        with closing(open_batches(*args, **kwargs)) as batches:
            while True:  # they are without end
                started = time.perf_counter()
                batch = next(batches)
                self.seconds.append(time.perf_counter() - started)
                yield batch


def measure_tiny(options: argparse.Namespace, save: Callable[[dict], None]) -> None:
    """Train as `ddetr train` does, and evaluate on held-out test scenes.

    Args:
        options: The arguments of the command line.
        save: Called with the entry of the results' JSON, when it is there and when it is complete.
    """
    config = TrainConfig(
        preset="tiny_two_stage",
        minutes=None if options.steps else options.minutes,
        steps=options.steps,
        seed=options.seed,
        precision="bf16",
        workers=options.workers,
        eval_every=10**6,
        device=options.device,
        out=options.runs / f"tiny_two_stage-{options.seed}",
        **(dict(overfit=4, image_size=ResizeConfig(64, 96)) if options.dry_run else {}),
    )
    if on_gpu(options.device):
        torch.cuda.reset_peak_memory_stats()
    waits = TimedBatches()
    started = time.monotonic()
    with patch.object(loop, "open_batches", waits):
        validation = loop.train(config)
    whole = time.monotonic() - started
    peak = torch.cuda.max_memory_allocated() if on_gpu(options.device) else None
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    first, *_, last = (json.loads(line) for line in lines)
    scenes = held_out_scenes("test").first(options.scenes)
    detector = load(config.out / "checkpoint.pt").to(options.device)
    test, table = evaluate(detector, scenes, 8, False, pick_workers(config))
    result = {
        "preset": config.preset,
        "minutes": round(last["minutes"], 3) if options.steps else options.minutes,
        "seed": options.seed,
        "precision": config.precision,
        "workers": pick_workers(config),
        "steps": last["step"],
        "steps_per_second": round(last["step"] / last["minutes"] / 60, 2),
        "first_step_seconds": round(60 * first["minutes"], 2),
        "waiting_for_data": round(sum(waits.seconds) / last["minutes"] / 60, 4),
        "waiting_for_first_batch_seconds": round(waits.seconds[0], 2),
        "command_seconds": round(whole, 1),  # with the start, the evaluation and the checkpoints
        "peak_GiB": None if peak is None else round(peak / 2**30, 2),
        "val": {name: round(validation[name], 4) for name in METRICS},
        "test": {name: round(test[name], 4) for name in METRICS},
        "test_scenes": len(scenes),
    }
    save(result)
    print(f"{table}\n{len(scenes)} test scenes: AP {100 * test['AP']:.1f}", flush=True)
    failed: dict[str, str] = {}
    attempt("one batch again and again", failed, lambda: result.update(repeat(config)))
    save({**result, "failed": failed})
    print({name: value for name, value in result.items() if name not in ("val", "test")})


def repeat(config: TrainConfig) -> dict:
    """The same steps without waiting for data: on one batch again and again.

    Args:
        config: The settings of the run.

    Returns:
        An entry of the results' JSON.
    """
    device = pick_device(config.device)
    scenes = Shapes(config.batch_size, seed=config.seed)
    batch = tuple(zip(*scenes, strict=True))
    detector = build_detector(config, scenes.categories).to(device)
    trainer = Trainer(detector, pick_optim(config), config.precision)
    n_steps = min(config.steps or 120, 120)
    seconds = []
    for step in range(1, n_steps + 1):
        started = time.perf_counter()
        loop.train_step(trainer, [batch], step, 0.5)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[n_steps // 6 :])
    return {"steps_per_second_on_one_batch": round(1 / median, 2)}


PARTS = {"r50": measure_r50, "tiny": measure_tiny}

if __name__ == "__main__":
    sys.exit(main())
