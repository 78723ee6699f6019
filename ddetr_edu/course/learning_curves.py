"""The logs of five training runs, which lesson 11 is about; benchmarks/faulty_runs.py made them."""

import json

from ddetr_edu.files import shipped_path

RUNS = ("right", "A", "B", "C", "D")


def read_run(run: str) -> list[dict]:
    """The log of a run, as `ddetr train` wrote it.

    Args:
        run: "right" for the one without a fault; "A", "B", "C" or "D".

    Returns:
        Its lines, in order of the steps.

    Raises:
        ValueError: For another run.
        FileNotFoundError: If the file is missing.
    """
    if run not in RUNS:
        raise ValueError(f'there is no run "{run}"; choose one of {", ".join(RUNS)}')
    path = shipped_path(f"lessons/logs/11_{run}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
