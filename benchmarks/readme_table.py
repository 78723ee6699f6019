"""Write the tables of README.md from benchmarks/results/attention.json and shapes.json.

Each stands between two comments in README.md and is not edited by hand.
"""

import json
import statistics
import sys
from pathlib import Path

BEGIN, END = "<!-- speed table: begin -->", "<!-- speed table: end -->"
SHAPES = "<!-- shapes table: begin -->", "<!-- shapes table: end -->"
ROOT = Path(__file__).parents[1]
PLACES = {"initial": "initial offsets", "near": "2 px around", "anywhere": "anywhere"}


def speed_table(results: dict) -> str:
    """A Markdown table of the results: a row for each shape and kind of places."""
    cases = {
        (c["shape"], c["places"], c["threads"], c["backend"], c["direction"]): c
        for c in results["cases"]
    }
    names = list(dict.fromkeys(c["backend"] for c in results["cases"]))
    rows = list(dict.fromkeys((c["shape"], c["places"], c["threads"]) for c in results["cases"]))
    header = [f"{n}, {d}" for d in ("forward", "backward") for n in names]
    lines = [
        "| shape | places | threads | " + " | ".join(header) + " |",
        "|---|---|---|" + "---:|" * len(header),
    ]
    for shape, places, threads in rows:
        cells = []
        for direction in ("forward", "backward"):
            for name in names:
                case = cases[shape, places, threads, name, direction]
                faster = "" if name == names[0] else f" (**{case['ratio']:.0f}x**)"
                cells.append(f"{milliseconds(case['median_ms'])}{faster}")
        lines.append(f"| {shape} | {PLACES[places]} | {threads} | " + " | ".join(cells) + " |")
    about = results["machine"]
    lines.append("")
    lines.append(
        f"Two pictures of 800 x 1200, 32-bit, medians; {about['processor']}, {about['cores']} "
        f"cores, {about['kernel'].split(': ')[-1]}, torch {about['torch']}, {about['date']}. "
        "Run it yourself: `ddetr bench attention`."
    )
    return "\n".join(lines)


def shapes_table(results: dict) -> str:
    """A Markdown table of what was learned in how many minutes: medians over the seeds."""
    names = {
        "AP": "AP",
        "AP50": "AP50",
        "AP_S": "AP small",
        "AP_M": "AP medium",
        "AP_L": "AP large",
    }
    lines = [
        "| preset | minutes | seeds | steps | " + " | ".join(names.values()) + " |",
        "|---|" + "---:|" * (3 + len(names)),
    ]
    for preset, minutes in dict.fromkeys((r["preset"], r["minutes"]) for r in results["runs"]):
        runs = [r for r in results["runs"] if (r["preset"], r["minutes"]) == (preset, minutes)]
        steps, *scores = (statistics.median(r[name] for r in runs) for name in ("steps", *names))
        cells = [f"`{preset}`", f"{minutes:g}", f"{len(runs)}", f"{steps:.0f}"]
        lines.append("| " + " | ".join(cells + [f"{100 * score:.1f}" for score in scores]) + " |")
    lines += ["", f"500 scenes that no choice was made by, in bf16; {measured_on(results)}. "
              "Run it yourself: `python benchmarks/shapes.py`."]  # fmt: skip
    return "\n".join(lines)


def measured_on(results: dict) -> str:
    """The machine that results come from, and the day."""
    about = results["machine"]
    return f"{about['processor']}, {about['cores']} cores, torch {about['torch']}, {about['date']}"


def milliseconds(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def with_table(readme: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """The README with the table between its comments. Raises: ValueError if they are missing."""
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md needs the lines {begin} and {end}, once each")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    attention, shapes = (
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        for name in ("attention", "shapes")
    )
    readme = ROOT / "README.md"
    text = with_table(readme.read_text(), speed_table(attention))
    text = with_table(text, shapes_table(shapes), *SHAPES)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if text == readme.read_text() else "README.md is out of date: run this program")
    readme.write_text(text)
