"""The logs of five training runs, which lesson 11 is about; benchmarks/faulty_runs.py made them."""

import json

from ddetr_edu.files import find_shipped

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
    name = f"lessons/logs/11_{run}.jsonl"
    path = find_shipped(name)
    if path is None:
        raise FileNotFoundError(
            f"{name} is missing; clone the repository or install the library again"
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
