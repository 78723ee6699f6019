"""The logs of the four training runs of lesson 13, made by benchmarks/matching_runs.py."""

import json
from typing import NamedTuple

import torch
from torch import Tensor

from ddetr_edu.files import shipped_path

RUNS = ("A", "B", "C", "D")


class MatchHistory(NamedTuple):
    """The query of each of T objects, after E different numbers of training steps."""

    steps: Tensor  # (E,)
    queries: Tensor  # (E, T), -1 for an object without a query


def read_log(run: str) -> list[dict]:
    """The log of a run, as training wrote it.

    Args:
        run: "A", "B", "C" or "D".

    Returns:
        Its entries, in order of the steps.

    Raises:
        ValueError: For another run.
        FileNotFoundError: If the file is missing.
    """
    if run not in RUNS:
        raise ValueError(f'there is no run "{run}"; choose one of {", ".join(RUNS)}')
    path = shipped_path(f"lessons/logs/13_{run}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def match_history(log: list[dict]) -> MatchHistory:
    """The matchings of a run that was trained with --log-matches.

    Args:
        log: Its entries.

    Returns:
        All that were logged.
    """
    entries = [entry for entry in log if "matched_queries" in entry]
    return MatchHistory(
        torch.tensor([entry["step"] for entry in entries]),
        torch.tensor([entry["matched_queries"] for entry in entries]),
    )
