"""What minutes of training on a hundred real photographs give: on those, and on others.

    uv run python benchmarks/photographs.py FOLDER [--minutes 10]

FOLDER has COCO's layout and two splits. Trains on all pictures of the first, from nothing, as
`ddetr train` does; evaluates on those very pictures and on all of the second split. Prints both;
writes benchmarks/results/photographs.json.
"""

import argparse
import json
from pathlib import Path

from ddetr_edu.bench import load as machine_load
from ddetr_edu.bench import machine
from ddetr_edu.data import CocoDetection
from ddetr_edu.detector import PictureSize
from ddetr_edu.training import TrainConfig, evaluate, load, train
from ddetr_edu.training.optim import OptimConfig

RESULTS = Path(__file__).parent / "results" / "photographs.json"
KEPT = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--splits", nargs=2, default=("train2017", "val2017"))
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"))
    arguments = parser.parse_args()
    results = {
        "machine": machine(), "minutes": arguments.minutes, "size": [320, 448], "batch": 4,
        "lr": 1e-3,  # with 2e-3 two stages learned nothing in 8 minutes, on either split
    }  # fmt: skip
    train(TrainConfig(
        data=str(arguments.data), preset="tiny", minutes=arguments.minutes,
        size=PictureSize(*results["size"], multiple_of=32), batch=results["batch"],
        precision="bf16", optim=OptimConfig(lr=results["lr"]), eval_every=10**6, out=arguments.out,
    ))  # fmt: skip
    detector = load(arguments.out / "checkpoint.pt")
    log = (arguments.out / "metrics.jsonl").read_text().splitlines()
    results["steps"] = json.loads(log[-1])["step"]
    for which, split in zip(("learned", "new"), arguments.splits, strict=True):
        pictures = CocoDetection(arguments.data, split)
        metrics, table = evaluate(detector, pictures, 4)
        print(f"{len(pictures)} pictures of {split}\n{table}")
        results[which] = {"pictures": len(pictures)} | {
            name: round(metrics[name], 4) for name in KEPT
        }
    results["epochs"] = round(results["steps"] * results["batch"] / results["learned"]["pictures"])
    results["machine"]["load_after"] = machine_load()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
