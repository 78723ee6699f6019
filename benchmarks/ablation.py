"""Ablation of the `tiny_two_stage` recipe: the same training time with one setting changed.

    uv run python benchmarks/ablation.py [--minutes 3] [--seeds 0 1 2] [--only VARIANT ...]

Each variant is trained as `ddetr train` does it, on generated scenes, and evaluated on the same 200
held-out scenes. A run that the JSON already holds for as many minutes is not repeated, so the
program can be interrupted and started again at any time; where there are cores enough, several
copies with different seeds or variants may run at once. Prints a table; writes
benchmarks/results/ablation.json and ablation.png, or what --out names.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
from pathlib import Path
from unittest import mock

import torch

from ddetr_edu.attention.benchmark import load_average, machine
from ddetr_edu.files import atomic_write
from ddetr_edu.models.config import PRESETS, TINY, ResizeConfig
from ddetr_edu.training import loop
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.optim import set_lr
from ddetr_edu.viz.style import COLOURS, NotebookFigure

FULL = "full recipe"
# What each variant changes in the settings of `ddetr train`; two are changed by PATCHES instead.
VARIANTS: dict[str, dict] = {
    FULL: {},
    "image sides not multiples of 32": dict(image_size=ResizeConfig(192, 224)),
    "query content from boxes (official code)": dict(preset="tiny_box_queries"),
    "look forward once (official code)": dict(look_forward="once"),
    "one stage": dict(preset="tiny"),
    "one stage, no box refinement": dict(preset="tiny_no_refinement"),
    "fp32 instead of bf16": dict(precision="fp32"),
    "5 denoising groups": dict(denoising=5),
    "varifocal loss": dict(class_loss="varifocal"),
    "varifocal loss, 5 denoising groups": dict(class_loss="varifocal", denoising=5),
    "grid_sample instead of the C++ kernel": {},
    "batch size 4": dict(batch_size=4),
    "batch size 16": dict(batch_size=16),
    "learning rate 5e-4 instead of 2e-3": dict(optim=OptimConfig(lr=5e-4)),
    "learning rate 1e-3": dict(optim=OptimConfig(lr=1e-3)),
    "learning rate 4e-3": dict(optim=OptimConfig(lr=4e-3)),
    "constant learning rate": {},
}
PATCHES = {
    "grid_sample instead of the C++ kernel": mock.patch.dict(
        os.environ, DDETR_BACKEND="grid_sample"
    ),
    # The schedule sees a progress of 0 throughout; the warm-up counts steps.
    "constant learning rate": mock.patch.object(
        loop, "set_lr", lambda optimizer, step, progress, c: set_lr(optimizer, step, 0.0, c)
    ),
}
METRICS = ("AP", "AP50", "AP_S", "AP_M", "AP_L")


def run(variant: str, minutes: float, seed: int, device: str) -> dict:
    """Train one variant from scratch.

    Args:
        variant: A key of VARIANTS.
        minutes: The training time.
        seed: The seed of the run.
        device: "cpu" or "cuda".

    Returns:
        The arguments, the number of steps and the metrics, rounded.
    """
    patch = PATCHES.get(variant, contextlib.nullcontext())
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(
            PRESETS,
            tiny_no_refinement={**TINY, "box_refine": False},
            tiny_box_queries={**PRESETS["tiny_two_stage"], "tokens_as_content": False},
        ),
        patch,
        contextlib.redirect_stdout(io.StringIO()),  # the progress bar on stderr is enough
    ):
        settings = dict(preset="tiny_two_stage", precision="bf16") | VARIANTS[variant]
        config = TrainConfig(
            **settings,
            minutes=minutes,
            seed=seed,
            out=Path(folder),
            eval_every=10**9,
            device=device,
        )
        metrics = loop.train(config)
        last = json.loads((config.out / "metrics.jsonl").read_text().splitlines()[-1])
    return {"variant": variant, "minutes": minutes, "seed": seed, "steps": last["step"]} | {
        name: round(metrics[name], 4) for name in METRICS
    }


def medians(runs: list[dict]) -> dict[str, dict[str, float]]:
    """The medians over the seeds of each variant that has been run."""
    found = {}
    for variant in VARIANTS:
        of_variant = [run for run in runs if run["variant"] == variant]
        if of_variant:
            found[variant] = {
                name: statistics.median(run[name] for run in of_variant)
                for name in ("steps", *METRICS)
            }
    return found


def table(runs: list[dict]) -> str:
    """A row for each variant: its steps, its metrics, and its AP minus that of the full recipe."""
    rows = medians(runs)
    lines = [
        f"{'variant':45}{'seeds':>6}{'steps':>7}"
        + "".join(f"{name:>7}" for name in METRICS)
        + "   gain"
    ]
    for variant, row in rows.items():
        seeds = sum(run["variant"] == variant for run in runs)
        gain = f"{100 * (row['AP'] - rows[FULL]['AP']):+7.1f}" if FULL in rows else ""
        lines.append(
            f"{variant:45}{seeds:6}{row['steps']:7.0f}"
            + "".join(f"{100 * row[name]:7.1f}" for name in METRICS)
            + gain
        )
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Plot AP: a bar for the median of each variant, a dot for each seed."""
    rows = medians(results["runs"])
    figure = NotebookFigure(7, 1 + 0.35 * len(rows))
    axis = figure.subplots()
    names = list(rows)
    max_ap = 100 * max(run["AP"] for run in results["runs"])
    aps = [100 * row["AP"] for row in rows.values()]
    colours = [COLOURS[1] if name == FULL else COLOURS[0] for name in names]
    axis.barh(names, aps, 0.7, color=colours)
    for index, name in enumerate(names):
        seeds = [100 * run["AP"] for run in results["runs"] if run["variant"] == name]
        if len(seeds) > 1:
            axis.plot(seeds, [index] * len(seeds), "o", color="black", mec="white", ms=5)
        axis.text(max(seeds) + 1, index, f"{aps[index]:.1f}", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel=f"AP after {results['minutes']:g} minutes", xlim=(0, min(1.2 * max_ap, 100)))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=3, help="training time of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation"))
    arguments = parser.parse_args()
    out = arguments.out.with_suffix(".json")
    setting = {"device": arguments.device, "minutes": arguments.minutes}
    results = read_results(out, setting)
    done = {(run["variant"], run["seed"]) for run in results["runs"]}
    for seed in arguments.seeds:
        for variant in arguments.only:
            if (variant, seed) in done:
                continue
            print(f"{variant}, seed {seed}", flush=True)
            row = run(variant, arguments.minutes, seed, arguments.device)
            results = read_results(out, setting)  # again: another copy may have added its runs
            results["runs"].append(row)
            results["machine"]["load_after"] = load_average()
            atomic_write(out, (json.dumps(results, indent=1) + "\n").encode())
    print(table(results["runs"]))
    plot(results, arguments.out.with_suffix(".png"))


def read_results(file: Path, setting: dict) -> dict:
    """The results so far.

    Args:
        file: A JSON file, which need not exist.
        setting: The device and the minutes; the runs of other settings are dropped.

    Returns:
        The machine, the setting and the runs.
    """
    if file.exists():
        earlier = json.loads(file.read_text())
        if setting.items() <= earlier.items():
            return earlier
    about = machine()
    if setting["device"] == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    return {"machine": about, **setting, "runs": []}


if __name__ == "__main__":
    main()
