"""Write docs/measured.md, every figure of it, from benchmarks/results/.

uv run python benchmarks/measured_page.py
"""

import json
from pathlib import Path

from ablation import FULL, medians
from readme_table import measured_on, shapes_table

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "measured.md"
COLUMNS = {"AP": "AP", "AP50": "AP50", "AP_S": "small", "AP_M": "medium", "AP_L": "large"}


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(row: dict) -> list[str]:
    return [f"{100 * row[name]:.1f}" for name in COLUMNS]


def shapes() -> str:
    return f"""## Ten minutes from nothing

{shapes_table(read("shapes"))}"""


def ablation() -> str:
    results = read("ablation")
    rows = medians(results["runs"])
    cells = [
        [name, sum(run["variant"] == name for run in results["runs"]), f"{row['steps']:.0f}",
         *percent(row),
         "" if name == FULL else f"{100 * (row['AP'] - rows[FULL]['AP']):+.1f}"]
        for name, row in rows.items()
    ]  # fmt: skip
    return f"""## What each ingredient bought

{table(["", "seeds", "steps", *COLUMNS.values(), "difference"], cells)}

{results["minutes"]:g} minutes each, medians over the seeds, 200 held-out scenes; the same recipe,
but for what the row says. After so short a time what learns slowly at first looks worse than it
ends: compare the table above. Two seeds of the same recipe can be several points apart.
{measured_on(results)}. `python benchmarks/ablation.py`

![AP of each variant](../benchmarks/results/ablation.png)"""


def curves() -> str:
    results = read("curves")
    rows = [
        [name, f"{method['weights'] / 1e6:.2f} M", method["lr"], last["step"], *percent(last)]
        for name, method in results["methods"].items()
        for last in method["points"][-1:]
    ]
    minutes = max(method["minutes"] for method in results["methods"].values())
    return f"""## Beside DETR and Faster R-CNN

![AP against minutes](../benchmarks/results/curves.png)

{table(["", "weights", "rate", "steps", *COLUMNS.values()], rows)}

The same scenes in the same order, batch, pictures and backbone, {minutes:g} minutes each in fp32,
from nothing; {results["scenes"]} held-out scenes. Faster R-CNN is torchvision's, with anchors
and proposals to suit such scenes. {measured_on(results)}. `python benchmarks/curves.py`"""


def training_speed() -> str:
    results = read("training_speed")
    rows = [
        [f"`{preset}`", " x ".join(map(str, case["batch"])), case["steps_per_second"]["ours"],
         case["steps_per_second"]["theirs"], f"**{case['ratio']}x**",
         f"{case['max_difference']:.0e}"]
        for preset, case in results["cases"].items()
    ]  # fmt: skip
    return f"""## Steps per second, beside Hugging Face's

{table(["", "batch", "ours", "theirs", "ratio", "largest difference"], rows)}

Whole training steps, in fp32 or with both sides under autocast to bf16, taking turns, with the same
configuration, weights and pictures; the difference is that of any score or coordinate, in fp32.
transformers {results["transformers"]}; {measured_on(results)}.
`python benchmarks/training_speed.py`

![Where the time of a step goes](../benchmarks/results/training_speed.png)"""


def resume() -> str:
    results = read("resume")
    rows = [
        [kind, len(kills), sum(kill["same"] for kill in kills)]
        for kind, kills in results.items()
        if kind != "machine"
    ]
    return f"""## Killed and resumed

{table(["", "killed by SIGKILL", "then the same weights, bit for bit"], rows)}

At random moments of a run, resumed with `--resume`, and compared with a run that nothing ended.
{measured_on(results)}. `python benchmarks/resume.py`"""


def photographs() -> str:
    results = read("photographs")
    rows = [
        [f"{results[which]['pictures']} pictures {what}", *percent(results[which])]
        for which, what in (("learned", "it learned from"), ("new", "it never saw"))
    ]
    height, width = results["size"]
    return f"""## A hundred real photographs

{table(["", *COLUMNS.values()], rows)}

Photographs of COCO, {height} to {width} px, {results["minutes"]:g} minutes from nothing
({results["steps"]} steps of batch {results["batch"]}, {results["epochs"]} times through, one stage,
rate {results["lr"]:g}). It is learning those by heart, and next to nothing about others: what makes
a dog a dog shows in thousands of dogs, and here most of COCO's categories have fewer than ten
examples. It takes many more pictures, or a backbone that has seen many before (`--imagenet`).
{measured_on(results)}. `python benchmarks/photographs.py FOLDER`"""


def page() -> str:
    parts = (shapes, ablation, curves, training_speed, resume, photographs)
    return "\n\n".join([
        "# What was measured",
        "Every figure on this page was written by a program of this repository, named beside it, "
        "and none by hand.",
        *(part() for part in parts),
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page())
