"""Time the steps of lesson 14, for readers without a compiler: python benchmarks/ladder.py

Each step is checked against the definition before it is timed. Prints a table and writes
benchmarks/results/ladder.json, which the lesson shows where nothing can be compiled.
"""

import argparse
import json
from pathlib import Path

from ddetr_edu.attention.benchmark import machine
from ddetr_edu.course.compiled_step import unavailable_reason
from ddetr_edu.course.ladder import FIGURES, ladder_table, measure_ladder

ROOT = Path(__file__).parents[1]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    if problem := unavailable_reason():
        raise SystemExit(problem)
    about = machine()  # with the load before we add to it
    measured = measure_ladder()
    print(ladder_table(measured))
    rungs = [rung._asdict() for rung in measured.rungs]
    for rung in rungs:
        for key in ("milliseconds", "gain", "total_gain", "error"):
            rung[key] = float(f"{rung[key]:.3g}")
    (ROOT / FIGURES).write_text(json.dumps({"machine": about, "rungs": rungs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
