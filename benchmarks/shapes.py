"""Average precision after minutes of training from scratch, on generated scenes, several seeds.

    uv run python benchmarks/shapes.py --minutes 10 --seeds 0 1 2

Trains as `ddetr train --preset PRESET --minutes M --precision bf16 --seed S` does, one seed after
another, and evaluates on the 500 held-out test scenes, which were never used to choose anything. A
seed that the results already hold, for the same preset and minutes, is not run again. Prints a
table; writes benchmarks/results/shapes.json. With --ship, the model of the median seed is written
to data/tiny-shapes/, together with its training log.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from ddetr_edu.attention.benchmark import machine
from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.loop import train

RESULTS = Path(__file__).parent / "results" / "shapes.json"
SHIPPED = Path(__file__).parent.parent / "data" / "tiny-shapes"
METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny_two_stage")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument(
        "--ship", action="store_true", help="write the model of the median seed to data/tiny-shapes"
    )
    options = parser.parse_args()

    rows = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    for seed in options.seeds:
        key = {"preset": options.preset, "minutes": options.minutes, "seed": seed}
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **run(options.preset, options.minutes, seed, options.out)})
            RESULTS.write_text(json.dumps({"machine": machine(), "runs": rows}, indent=1) + "\n")

    runs = [r for r in rows if (r["preset"], r["minutes"]) == (options.preset, options.minutes)]
    print(f"{options.preset}, {options.minutes:g} minutes, 500 held-out test scenes")
    print("seed      steps  " + "  ".join(f"{name:>5}" for name in METRICS))
    for row in runs:
        numbers = "  ".join(f"{100 * row[name]:5.1f}" for name in METRICS)
        print(f"{row['seed']:<8} {row['steps']:6}  {numbers}")
    medians = {name: statistics.median(row[name] for row in runs) for name in METRICS}
    print(f"{'median':<15}  " + "  ".join(f"{100 * medians[name]:5.1f}" for name in METRICS))
    if options.ship:
        median = min(runs, key=lambda row: abs(row["AP"] - medians["AP"]))
        ship(folder_of(options.out, options.preset, median["seed"]), median)


def folder_of(out: Path, preset: str, seed: int) -> Path:
    return out / f"{preset}-{seed}"


def run(preset: str, minutes: float, seed: int, out: Path) -> dict:
    """Train one seed.

    Args:
        preset: The model.
        minutes: The training time.
        seed: The seed of the run.
        out: Where the run's folder goes.

    Returns:
        The number of steps, and COCO's metrics on the held-out test scenes.
    """
    folder = folder_of(out, preset, seed)
    train(
        TrainConfig(
            preset=preset,
            minutes=minutes,
            seed=seed,
            precision="bf16",
            eval_every=10**6,
            out=folder,
        )
    )
    metrics, _ = evaluate(load(folder / "checkpoint.pt"), held_out_scenes("test"), 8, workers=1)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"steps": log[-1]["step"], **{name: round(metrics[name], 4) for name in METRICS}}


def ship(folder: Path, row: dict) -> None:
    """Write the model that comes with the course: its parameters, its log and its metrics.

    Args:
        folder: The folder of its run.
        row: Its row of the results.
    """
    SHIPPED.mkdir(exist_ok=True)
    save(SHIPPED / "model.safetensors", load(folder / "checkpoint.pt"))
    for name in ("metrics.jsonl", "curves.png"):
        shutil.copy(folder / name, SHIPPED / name)
    config = json.loads((folder / "config.json").read_text())
    del config["out"]  # a path on the machine that trained it
    (SHIPPED / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    metrics, table = evaluate(
        load(SHIPPED / "model.safetensors"), held_out_scenes("test"), 8, workers=1
    )
    # Those of the file, whose parameters are in 16 bits.
    stated = {**row, **{name: round(metrics[name], 4) for name in METRICS}}
    (SHIPPED / "result.json").write_text(json.dumps(stated, indent=1) + "\n")
    print(f"{table}\nwrote {SHIPPED}")


if __name__ == "__main__":
    main()
