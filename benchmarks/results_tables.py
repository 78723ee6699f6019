"""What the sections of docs/results.md share: reading results, and tables of them."""

import json
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
COLUMNS = {"AP": "AP", "AP50": "AP50", "AP_S": "small", "AP_M": "medium", "AP_L": "large"}


def result_file(name: str) -> Path:
    """A file of benchmarks/results/."""
    return RESULTS / name


def load(name: str) -> dict:
    return json.loads(result_file(f"{name}.json").read_text())


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(row: dict) -> list[str]:
    """The metrics of COLUMNS; empty where there was no object to measure, for which COCO has -1."""
    return ["" if row[name] < 0 else f"{100 * row[name]:.1f}" for name in COLUMNS]


def protocol(seeds: Iterable[int]) -> str:
    """What a table shows, by the number of seeds of each of its rows."""
    numbers = set(seeds)
    if numbers == {1}:
        return "Screening, one seed"
    return "Medians over the seeds" + "; a row of one seed is a screening" * (1 in numbers)
