"""What each ingredient of the `tiny` recipe bought: the same minutes without it, or with more.

    uv run python benchmarks/ablation.py [--minutes 3] [--seeds 0 1 2]

Each variant is trained as `ddetr train` does it, on generated scenes, and evaluated on the same 200
held-out scenes. What is in the JSON for as many minutes is not run again, so the program can be
stopped and started at will. Prints a table; writes benchmarks/results/ablation.json and .png.
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

from ddetr_edu.bench import load, machine
from ddetr_edu.detector import PictureSize
from ddetr_edu.detector.config import PRESETS, TINY
from ddetr_edu.training import TrainConfig, learner, train
from ddetr_edu.training.optim import OptimConfig, set_rate
from ddetr_edu.viz.style import COLOURS, NotebookFigure

FULL = "the full recipe"
# What each variant changes in the settings of `ddetr train`; two change something else, below.
VARIANTS = {
    FULL: {},
    "sides not of whole tokens": dict(size=PictureSize(192, 224)),
    "queries from boxes, as officially": dict(preset="tiny_box_queries"),
    "a box's loss looks back once, as officially": dict(look_forward="once"),
    "one stage": dict(preset="tiny"),
    "one stage, no refinement": dict(preset="tiny_no_refinement"),
    "fp32, not bf16": dict(precision="fp32"),
    "denoising, 5 groups": dict(denoising=5),
    "grid_sample, no kernel": {},
    "batch 4": dict(batch=4),
    "batch 16": dict(batch=16),
    "rate 5e-4, not 2e-3": dict(optim=OptimConfig(lr=5e-4)),
    "rate 1e-3": dict(optim=OptimConfig(lr=1e-3)),
    "rate 4e-3": dict(optim=OptimConfig(lr=4e-3)),
    "no decay of the rate": {},
}
ELSEWHERE = {
    "grid_sample, no kernel": mock.patch.dict(os.environ, DDETR_BACKEND="grid_sample"),
    # The schedule sees a run that never gets older; the warm-up counts steps.
    "no decay of the rate": mock.patch.object(
        learner, "set_rate", lambda optimizer, step, progress, c: set_rate(optimizer, step, 0.0, c)
    ),
}
KEPT = ("AP", "AP50", "AP_S", "AP_M", "AP_L")


def run(variant: str, minutes: float, seed: int) -> dict:
    """Train one variant from nothing. Returns its steps and its AP."""
    change = ELSEWHERE.get(variant, contextlib.nullcontext())
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(
            PRESETS,
            tiny_no_refinement={**TINY, "box_refine": False},
            tiny_box_queries={**PRESETS["tiny_two_stage"], "token_queries": False},
        ),
        change,
        contextlib.redirect_stdout(io.StringIO()),  # the progress bar on stderr is enough
    ):
        settings = dict(preset="tiny_two_stage", precision="bf16") | VARIANTS[variant]
        config = TrainConfig(
            **settings, minutes=minutes, seed=seed, out=Path(folder), eval_every=10**9, device="cpu"
        )
        metrics = train(config)
        last = json.loads((config.out / "metrics.jsonl").read_text().splitlines()[-1])
    return {"variant": variant, "minutes": minutes, "seed": seed, "steps": last["step"]} | {
        name: round(metrics[name], 4) for name in KEPT
    }


def medians(runs: list[dict]) -> dict[str, dict[str, float]]:
    """Of each variant that has been run, over its seeds."""
    found = {}
    for variant in VARIANTS:
        mine = [run for run in runs if run["variant"] == variant]
        if mine:
            found[variant] = {
                name: statistics.median(run[name] for run in mine) for name in ("steps", *KEPT)
            }
    return found


def table(runs: list[dict]) -> str:
    """A row for each variant: its steps, its AP, and how much that is above the full recipe's."""
    rows = medians(runs)
    lines = [
        f"{'variant':45}{'seeds':>6}{'steps':>7}" + "".join(f"{k:>7}" for k in KEPT) + "   gain"
    ]
    for variant, row in rows.items():
        seeds = sum(run["variant"] == variant for run in runs)
        gain = f"{100 * (row['AP'] - rows[FULL]['AP']):+7.1f}" if FULL in rows else ""
        lines.append(f"{variant:45}{seeds:6}{row['steps']:7.0f}"
                     + "".join(f"{100 * row[k]:7.1f}" for k in KEPT) + gain)  # fmt: skip
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """A bar for the median of each variant, a dot for each seed."""
    rows = medians(results["runs"])
    figure = NotebookFigure(7, 1 + 0.35 * len(rows))
    axis = figure.subplots()
    names = list(rows)
    most = 100 * max(run["AP"] for run in results["runs"])
    aps = [100 * row["AP"] for row in rows.values()]
    colours = [COLOURS[1] if name == FULL else COLOURS[0] for name in names]
    axis.barh(names, aps, 0.7, color=colours)
    for place, name in enumerate(names):
        seeds = [100 * run["AP"] for run in results["runs"] if run["variant"] == name]
        if len(seeds) > 1:
            axis.plot(seeds, [place] * len(seeds), "o", color="black", mec="white", ms=5)
        axis.text(max(seeds) + 1, place, f"{aps[place]:.1f}", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel=f"AP after {results['minutes']:g} minutes", xlim=(0, min(1.2 * most, 100)))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation"))
    arguments = parser.parse_args()
    out = arguments.out.with_suffix(".json")
    results = {"machine": machine(), "minutes": arguments.minutes, "runs": []}
    if out.exists():
        before = json.loads(out.read_text())
        if before["minutes"] == arguments.minutes:
            results["runs"] = before["runs"]
    done = {(run["variant"], run["seed"]) for run in results["runs"]}
    for seed in arguments.seeds:
        for variant in arguments.only:
            if (variant, seed) in done:
                continue
            print(f"{variant}, seed {seed}", flush=True)
            results["runs"].append(run(variant, arguments.minutes, seed))
            results["machine"]["load_after"] = load()
            out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["runs"]))
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
