"""Generate README.md's tables from benchmarks/results/attention.json, shapes.json and gpu.json.

    uv run python benchmarks/readme_table.py [--check]

Each table is between two comments in README.md and is not edited by hand.
"""

import argparse
import statistics
import sys
from pathlib import Path

from gpu_tables import short_gpu_table
from results_tables import load
from shapes_runs import grouped_runs

SPEED = "<!-- speed table: begin -->", "<!-- speed table: end -->"
SHAPES = "<!-- shapes table: begin -->", "<!-- shapes table: end -->"
GPU = "<!-- gpu table: begin -->", "<!-- gpu table: end -->"
SEEDS = 3  # a row of fewer is a screening, and only in docs/results.md
LOCATIONS = {"initial": "initial offsets", "gaussian": "gaussian, 2 px", "uniform": "uniform"}


def speed_table(results: dict) -> str:
    """A Markdown table with a row for each shape, distribution of locations and thread count."""
    cases = {
        (c["shape"], c["locations"], c["threads"], c["backend"], c["direction"]): c
        for c in results["cases"]
    }
    names = list(dict.fromkeys(c["backend"] for c in results["cases"]))
    rows = list(dict.fromkeys((c["shape"], c["locations"], c["threads"]) for c in results["cases"]))
    header = [f"{n}, {d}" for d in ("forward", "backward") for n in names]
    lines = [
        "| shape | locations | threads | " + " | ".join(header) + " |",
        "|---|---|---|" + "---:|" * len(header),
    ]
    for shape, locations, threads in rows:
        cells = []
        for direction in ("forward", "backward"):
            for name in names:
                case = cases[shape, locations, threads, name, direction]
                faster = "" if name == names[0] else f" (**{case['ratio']:.0f}x**)"
                cells.append(f"{milliseconds(case['median_ms'])}{faster}")
        lines.append(
            f"| {shape} | {LOCATIONS[locations]} | {threads} | " + " | ".join(cells) + " |"
        )
    about = results["machine"]
    lines.append("")
    lines.append(
        f"Two images of 800 x 1200, fp32, medians; {about['processor']}, {about['cores']} "
        f"cores, {about['kernel'].split(': ')[-1]}, torch {about['torch']}, {about['date']}. "
        "Run it yourself: `ddetr bench attention --threads 2 1`."
    )
    return "\n".join(lines)


def shapes_table(results: dict, least_seeds: int = 1) -> str:
    """A Markdown table of the AP after minutes of training: medians over the seeds.

    Args:
        results: What shapes.py wrote.
        least_seeds: How many runs a command needs for a row of its own.

    Returns:
        The table, and a line on where its figures come from.
    """
    names = {
        "AP": "AP",
        "AP50": "AP50",
        "AP_S": "AP small",
        "AP_M": "AP medium",
        "AP_L": "AP large",
    }
    lines = [
        "| `ddetr train --data shapes` | seeds | processor | steps | "
        + " | ".join(names.values())
        + " |",
        "|---|---:|---|---:|" + "---:|" * len(names),
    ]
    groups = {w: runs for w, runs in grouped_runs(results).items() if len(runs) >= least_seeds}
    for words, runs in groups.items():
        steps, *scores = (statistics.median(r[name] for r in runs) for name in ("steps", *names))
        cells = [f"`{words}`", f"{len(runs)}", runs[0]["machine"]["processor"], f"{steps:.0f}"]
        lines.append("| " + " | ".join(cells + [f"{100 * score:.1f}" for score in scores]) + " |")
    dates = [run["machine"]["date"] for runs in groups.values() for run in runs]
    lines += [
        "",
        "Medians over the seeds, on 500 held-out test scenes; two cores, not always as fast ones:"
        f" see the steps. {min(dates)} to {max(dates)}. Run it yourself: `ddetr train --data "
        "shapes` with the words of a row, then `ddetr eval --data shapes --split test`.",
    ]
    return "\n".join(lines)


def machine_and_date(results: dict) -> str:
    """The machine that the results come from, and the date."""
    about = results["machine"]
    return f"{about['processor']}, {about['cores']} cores, torch {about['torch']}, {about['date']}"


def milliseconds(value: float) -> str:
    """A time with three digits and no exponent."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def with_table(readme: str, table: str, begin: str, end: str) -> str:
    """Insert a table into the README, between its two comments.

    Args:
        readme: The text of README.md.
        table: The table.
        begin: The comment before it.
        end: The comment after it.

    Returns:
        The new text of README.md.

    Raises:
        ValueError: If one of the comments is missing or occurs twice.
    """
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md needs the lines {begin} and {end}, once each")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    attention, shapes, gpu = (load(name) for name in ("attention", "shapes", "gpu"))
    readme = Path(__file__).parents[1] / "README.md"
    text = with_table(readme.read_text(), speed_table(attention), *SPEED)
    text = with_table(text, shapes_table(shapes, SEEDS), *SHAPES)
    text = with_table(text, short_gpu_table(gpu), *GPU)
    if not check:
        readme.write_text(text)
    elif text != readme.read_text():
        sys.exit("README.md is out of date: run this program without --check")


if __name__ == "__main__":
    main()
