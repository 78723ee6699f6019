"""Generate docs/results.md from the files in benchmarks/results/.

uv run python benchmarks/results_page.py
"""

import argparse
import json
from pathlib import Path

from ablation import FULL, medians
from readme_table import machine_and_date, shapes_table

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md"
COLUMNS = {"AP": "AP", "AP50": "AP50", "AP_S": "small", "AP_M": "medium", "AP_L": "large"}


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(row: dict) -> list[str]:
    return [f"{100 * row[name]:.1f}" for name in COLUMNS]


def from_scratch() -> str:
    return f"""## Ten minutes of training from scratch

{shapes_table(load("shapes"))}"""


def ablation() -> str:
    results = load("ablation")
    rows = medians(results["runs"])
    cells = [
        [
            name,
            sum(run["variant"] == name for run in results["runs"]),
            f"{row['steps']:.0f}",
            *percent(row),
            "" if name == FULL else f"{100 * (row['AP'] - rows[FULL]['AP']):+.1f}",
        ]
        for name, row in rows.items()
    ]
    one_seed = len({run["seed"] for run in results["runs"]}) == 1
    protocol = "Screening, one seed:" if one_seed else "Medians over the seeds:"
    return f"""## Ablation

{table(["", "seeds", "steps", *COLUMNS.values(), "difference"], cells)}

{protocol} {results["minutes"]:g} minutes of training for each variant, evaluated on 200 held-out
scenes. Each row is the full recipe with one setting changed. After so short a time a variant that
learns slowly at first looks worse than it ends; compare with the table above. Two seeds of the same
recipe can be several points apart.
{machine_and_date(results)}. `python benchmarks/ablation.py`

![AP of each variant](../benchmarks/results/ablation.png)"""


def comparison() -> str:
    results = load("curves")
    rows = [
        [name, f"{method['n_parameters'] / 1e6:.2f} M", method["lr"], last["step"], *percent(last)]
        for name, method in results["methods"].items()
        for last in method["points"][-1:]
    ]
    minutes = max(method["minutes"] for method in results["methods"].values())
    return f"""## Comparison with DETR and Faster R-CNN

![AP against minutes of training](../benchmarks/results/curves.png)

{table(["", "parameters", "learning rate", "steps", *COLUMNS.values()], rows)}

Screening, one seed: {minutes:g} minutes of training from scratch in fp32, with the same scenes in
the same order, the same batch size, image size and backbone, evaluated on {results["scenes"]}
held-out scenes. Faster R-CNN is torchvision's, with anchors and proposals chosen to suit such
scenes. {machine_and_date(results)}. `python benchmarks/curves.py`"""


def training_speed() -> str:
    results = load("training_speed")
    rows = [
        [
            f"`{preset}`",
            " x ".join(map(str, case["batch_shape"])),
            case["steps_per_second"]["ours"],
            case["steps_per_second"]["theirs"],
            f"**{case['ratio']}x**",
            f"{case['max_difference']:.0e}",
        ]
        for preset, case in results["cases"].items()
    ]
    return f"""## Training speed compared with Hugging Face's

{table(["", "batch", "our steps/s", "their steps/s", "ratio", "largest difference"], rows)}

Whole training steps, in fp32 or with both sides under autocast to bf16. The two models have the
same configuration and parameters, get the same images and take turns. The difference is that of any
score or coordinate, in fp32. transformers {results["transformers"]}; {machine_and_date(results)}.
`python benchmarks/training_speed.py`

![Time of a training step, by phase](../benchmarks/results/training_speed.png)"""


def training_on_a_gpu() -> str:
    results = load("gpu_training")
    large, small = results["r50"], results["tiny"][-1]
    fastest = {
        precision: large["cases"][f"ours, CUDA kernel, {precision}"]["median_ms"]
        for precision in ("fp32", "bf16")
    }
    rows = [
        [
            name,
            case["steps_per_second"],
            f"{case['min_ms']:.0f} to {case['max_ms']:.0f}",
            case["peak_GiB"],
            f"{case['median_ms'] / fastest[name.split(', ')[-1]]:.2f}x",
        ]
        for name, case in large["cases"].items()
    ]
    header = ["", "steps/s", "ms a step", "memory, GiB", "time compared with ours"]
    shape = " x ".join(map(str, large["batch_shape"]))
    machine = large["machine"]
    about = f"{machine['device']}, torch {machine['torch'].split('+')[0]}, {machine['date']}"
    return f"""## Training on a GPU

{table(header, rows)}

`{large["preset"]}`, whole training steps on one batch of {shape} that is in the
GPU's memory. "Theirs" is Hugging Face's model with the same parameters, once as it comes with
transformers {machine["transformers"]}, and once with the official code's CUDA kernel for its
attention, which computes in fp32 also under autocast. The sides take turns. Matrix products of fp32
are computed in fp32; convolutions may use TF32.

`{small["preset"]}` from scratch, by `ddetr train --precision {small["precision"]} --minutes
{small["minutes"]:g}`: {small["steps"]} steps, AP {100 * small["test"]["AP"]:.1f} on the
{small["test_scenes"]} held-out test scenes. {100 * small["waiting_for_data"]:.0f} % of the time was
spent waiting for data; one batch repeated, without a loader, gave
{small["steps_per_second_on_one_batch"]:.1f} steps per second instead of
{small["steps_per_second"]:.1f}.
{about}. `python benchmarks/gpu_training.py`"""


def resume() -> str:
    results = load("resume")
    rows = [
        [kind, len(kills), sum(kill["same"] for kill in kills)]
        for kind, kills in results.items()
        if kind != "machine"
    ]
    return f"""## Resuming after SIGKILL

{table(["", "runs killed and resumed", "identical parameters, bit for bit"], rows)}

Each run was killed at a random time, resumed with `--resume`, and compared with an uninterrupted
run. {machine_and_date(results)}. `python benchmarks/resume.py`"""


def photographs() -> str:
    results = load("photographs")
    rows = [
        [f"{results[split]['images']} {what}", *percent(results[split])]
        for split, what in (("train", "training images"), ("val", "other images"))
    ]
    height, width = results["image_size"]
    return f"""## Overfitting a hundred photographs

{table(["", *COLUMNS.values()], rows)}

Screening, one seed: photographs of COCO at {height} to {width} px, {results["minutes"]:g} minutes
of training from scratch ({results["steps"]} steps of batch size {results["batch_size"]},
{results["epochs"]} epochs, one stage, learning rate {results["lr"]:g}). The model overfits its
training images and hardly generalises: to learn what makes a dog a dog takes thousands of dogs, and
most of COCO's categories have fewer than ten examples here. Detecting objects in new photographs
takes many more images, or a pretrained backbone (`--imagenet`).
{machine_and_date(results)}. `python benchmarks/photographs.py FOLDER`"""


def page() -> str:
    """The whole page."""
    introduction = (
        "Every figure on this page was written by a program of this repository, which is named\n"
        "beside it; none was written by hand."
    )
    sections = (
        from_scratch,
        ablation,
        comparison,
        training_speed,
        training_on_a_gpu,
        resume,
        photographs,
    )
    parts = ["# Results", introduction, *(section() for section in sections)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
