"""Average precision after some training from scratch, on generated scenes, several seeds.

    uv run python benchmarks/shapes.py --minutes 10 --seeds 0 1 2

Trains as `ddetr train --preset PRESET --minutes M --seed S FLAGS` does, one seed after another, and
evaluates on the 500 held-out test scenes, which were never used to choose anything. With --steps,
training ends after so many steps instead, on every machine the same. A seed that the results
already hold, for the same preset, length and flags, is not run again. Prints a table; writes
benchmarks/results/shapes.json. With --ship, the model of the median seed is written to
data/tiny-shapes/, together with its training log.
"""

import argparse
import json
import shlex
import shutil
import statistics
import zlib
from pathlib import Path

from measured_training import train_measured
from shapes_runs import command_of

from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.cli.main import parse
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.evaluation.coco_metrics import evaluate

RESULTS = Path(__file__).parent / "results" / "shapes.json"
SHIPPED = Path(__file__).parent.parent / "data" / "tiny-shapes"
METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
FLAGS = "--precision bf16 --class-loss varifocal --denoising 5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny_two_stage")
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--minutes", type=float, default=10, help="of training; 10 if left out")
    ending.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flags", default=FLAGS, help=f'of ddetr train; "{FLAGS}" if left out')
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument(
        "--ship", action="store_true", help="write the model of the median seed to data/tiny-shapes"
    )
    options = parser.parse_args()

    rows = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    length = {"minutes": options.minutes} if options.steps is None else {"steps": options.steps}
    setting = {"preset": options.preset, "minutes": None, **length, "flags": options.flags}
    for seed in options.seeds:
        key = {**setting, "seed": seed}
        if not any(key.items() <= row.items() for row in rows):
            rows.append(key | run(key, folder_of(options.out, key)))
            RESULTS.write_text(json.dumps({"runs": rows}, indent=1) + "\n")

    runs = [row for row in rows if setting.items() <= row.items()]
    print(f"{command_of(setting)}, 500 held-out test scenes")
    print("seed      steps  " + "  ".join(f"{name:>5}" for name in METRICS))
    for row in runs:
        numbers = "  ".join(f"{100 * row[name]:5.1f}" for name in METRICS)
        print(f"{row['seed']:<8} {row['steps']:6}  {numbers}")
    medians = {name: statistics.median(row[name] for row in runs) for name in METRICS}
    print(f"{'median':<15}  " + "  ".join(f"{100 * medians[name]:5.1f}" for name in METRICS))
    if options.ship:
        median = min(runs, key=lambda row: abs(row["AP"] - medians["AP"]))
        ship(folder_of(options.out, {**setting, "seed": median["seed"]}), median)


def folder_of(out: Path, key: dict) -> Path:
    """Where a run writes to; runs of another length or other flags stay as they are."""
    code = zlib.crc32(command_of(key).encode())
    return out / f"{key['preset']}-{code:08x}-{key['seed']}"


def run(key: dict, folder: Path) -> dict:
    """Train one seed.

    Args:
        key: What determines the run: the words of `command_of`, and "seed".
        folder: Where the run writes to.

    Returns:
        The number of steps, COCO's metrics on the held-out test scenes, and the machine, with how
        many of its cores other programs used during the training.
    """
    words = [*shlex.split(command_of(key)), "--seed", str(key["seed"])]
    words += ["--eval-every", "1000000", "--out", str(folder)]
    about = train_measured(parse("ddetr", ["train", *words]))
    metrics, _ = evaluate(load(folder / "checkpoint.pt"), held_out_scenes("test"), 8, workers=1)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rounded = {name: round(metrics[name], 4) for name in METRICS}
    return {"steps": log[-1]["step"], **rounded, "machine": about}


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
