"""The four training runs of lesson 13, whose logs are to be told apart.

    uv run python benchmarks/matching_runs.py [--steps 1000] [--runs A B C D] [--out lessons/logs]

Each is `ddetr train` on generated scenes from scratch, with as many steps. Writes the log of run A
to lessons/logs/13_A.jsonl, and so on. On two cores a run takes six to eight minutes.
"""

import argparse
import tempfile
from pathlib import Path

from ddetr_edu.files import atomic_write
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.loop import train

# Whoever is about to do the exercise of lesson 13 should not read on.
SETTINGS: dict[str, dict] = {
    "A": dict(look_forward="twice"),
    "B": dict(seed=1),
    "C": dict(denoising=5),
    "D": dict(),
}
EVALUATIONS, MATCHINGS = 10, 50  # of a run


def run(name: str, steps: int, out: Path) -> None:
    """Train once and keep the log.

    Args:
        name: A key of SETTINGS.
        steps: The length of the run.
        out: The folder of the logs.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            preset="tiny",
            steps=steps,
            eval_every=max(1, steps // EVALUATIONS),
            save_every=steps,
            log_matches=max(1, steps // MATCHINGS),
            out=Path(folder),
            device="cpu",
            **SETTINGS[name],
        )
        train(config)
        atomic_write(out / f"13_{name}.jsonl", (config.out / "metrics.jsonl").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--runs", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("lessons/logs"))
    arguments = parser.parse_args()
    for name in arguments.runs:
        run(name, arguments.steps, arguments.out)


if __name__ == "__main__":
    main()
