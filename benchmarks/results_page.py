"""Generate docs/results.md from the files in benchmarks/results/.

uv run python benchmarks/results_page.py
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ablation import FULL, medians
from gpu_tables import CEILINGS, ceilings_table, gpu_table
from own_images_runs import grouped, run_of
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
    """The metrics of COLUMNS; empty where there was no object to measure, for which COCO has -1."""
    return ["" if row[name] < 0 else f"{100 * row[name]:.1f}" for name in COLUMNS]


def protocol(seeds: Iterable[int]) -> str:
    """What a table shows, by the number of seeds of each of its rows."""
    numbers = set(seeds)
    if numbers == {1}:
        return "Screening, one seed"
    return "Medians over the seeds" + "; a row of one seed is a screening" * (1 in numbers)


def from_scratch() -> str:
    results = load("shapes")
    seeds = Counter((run["preset"], run["minutes"]) for run in results["runs"]).values()
    return f"""## Ten minutes of training from scratch

{protocol(seeds)}.

{shapes_table(results)}"""


def ablation() -> str:
    results = load("ablation")
    rows = medians(results["runs"])
    seeds = Counter(run["variant"] for run in results["runs"])
    cells = [
        [
            name,
            seeds[name],
            f"{row['steps']:.0f}",
            *percent(row),
            "" if name == FULL else f"{100 * (row['AP'] - rows[FULL]['AP']):+.1f}",
        ]
        for name, row in rows.items()
    ]
    return f"""## Ablation

{table(["", "seeds", "steps", *COLUMNS.values(), "difference"], cells)}

{protocol(seeds.values())}: {results["minutes"]:g} minutes of training for each variant, evaluated
on 200 held-out scenes. Each row is the full recipe with one setting changed. After so short a time
a variant that learns slowly at first looks worse than it ends; compare with the table above. Two
seeds of the same recipe can be several points apart.
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


def attention_on_a_gpu() -> str:
    results = load("gpu")
    found = results["ceilings"]
    errors = [
        [name, *(f"{error:.1e}" for error in of_type.values())]
        for name, of_type in results["errors"].items()
    ]
    header = ["", "output", "gradient of value", "gradient of locations", "gradient of weights"]
    sanitizers = ", ".join(f"{tool}: {said}" for tool, said in results["sanitizers"].items())
    return f"""## The attention on a GPU

{gpu_table(results, ("encoder", "decoder"), ("fp32", "bf16", "fp16"))}

Before it was timed, each implementation was compared with the definition in 64 bits on the same
input; those marked as inaccurate have an error above a few roundings of their type. Memory is the
most that a forward and a backward pass need at a time, beyond the inputs.

The largest relative errors of our kernel in the cases of `gpu.py --check`, whose shapes are odd and
whose points lie partly outside the image:

{table(header, errors)}

compute-sanitizer on these cases: {sanitizers}.

How long our kernel takes, and which share of that it would take if the GPU did nothing but
{", ".join(CEILINGS.values())}: copying every input and output once at
{found["copy_TB_s"]:.2f} TB/s, gathering the rows of four pixels for each point from the L1 cache at
{found["gather_TB_s"]:.1f} TB/s, and adding these rows to the gradient at {found["adds_G_s"]:.0f}
billion additions a second, all measured in the same run. A share above 100 % of adding is possible
because the kernel adds up what belongs to one pixel before it writes to memory, and a share above
100 % of copying because the inputs of the decoder stay in the L2 cache.

{ceilings_table(results)}"""


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

{protocol([1])}: `{small["preset"]}` from scratch, by
`ddetr train --precision {small["precision"]} --minutes {small["minutes"]:g}`:
{small["steps"]} steps, AP {100 * small["test"]["AP"]:.1f} on the
{small["test_scenes"]} held-out test scenes. {100 * small["waiting_for_data"]:.0f} % of the time was
spent waiting for data; one batch repeated, without a loader, gave
{small["steps_per_second_on_one_batch"]:.1f} steps per second instead of
{small["steps_per_second"]:.1f}.
{about}. `python benchmarks/gpu_training.py`"""


def inference() -> str:
    """Nothing while only the older measurement, of two programs, is there."""
    results = load("inference")
    if "cases" not in results:
        return ""
    parts = ["## Inference on one image"]
    for name, case in results["cases"].items():
        rows = [
            [
                side,
                f"{1000 * statistics.median(row['seconds']):.0f}",
                f"{1000 * min(row['seconds']):.0f} to {1000 * max(row['seconds']):.0f}",
                f"{row['time_of_ours']:.2f}x",
                f"{row['difference']:.0e}",
                row["peak_megabytes"],
            ]
            for side, row in case["sides"].items()
        ]
        header = ["", "ms", "range", "time compared with ours, fp32", "difference", "memory, MB"]
        parts.append(f"`{name}`, {' x '.join(map(str, case['size']))} px:\n\n{table(header, rows)}")
    versions = f"onnxruntime {results['onnxruntime']}, transformers {results['transformers']}"
    parts.append(
        f"""The sides have the same parameters and take turns in one process. "difference" is how
far the scores and the box of a query, all from 0 to 1, are at most from those of the nearest query
of ours in fp32. The memory is the peak of a process that only loads the model and runs it once.
{versions}; {machine_and_date(results)}. `python benchmarks/inference.py`"""
    )
    return "\n\n".join(parts)


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


def own_images() -> str:
    """Nothing while nothing has been measured."""
    if not (RESULTS / "own_images.json").exists():
        return ""
    results = load("own_images")
    by_subject: dict[str, list[dict]] = {}
    for row in results["runs"]:
        by_subject.setdefault(run_of(row).subject(), []).append(row)
    parts = [
        """## Real photographs

Each run is `ddetr train` on the training images of a folder in COCO's layout, evaluated on the
validation images after the last step; a test split, where there is one, was not used. "AP train" is
measured on the training images themselves: where it is far above AP, the model has learned those
images rather than what such objects look like, and needs more of them, or a backbone that has been
trained on others. `python benchmarks/own_images.py FOLDER`"""
    ]
    for subject, rows in by_subject.items():
        parts += photographs(rows)
        curves = RESULTS / f"own_images-{subject}.png"
        if curves.exists():
            parts.append(f"![Average precision by minutes](../benchmarks/results/{curves.name})")
        if drawing := results["images"].get(subject):
            caption = f"Found, missed and wrong: {drawing['run']}"
            parts.append(f"![{caption}](../benchmarks/results/{drawing['file']})")
            parts.append(f"{caption}. Images: {drawing['credit']}.")
    return "\n\n".join(parts)


def photographs(rows: list[dict]) -> list[str]:
    """The paragraphs about one data set: a table of its runs, and how to repeat them."""
    cells, commands = [], []
    kinds = list(grouped(rows).values())
    for number, runs in enumerate(kinds, start=1):
        run = run_of(runs[0])
        aps = [100 * row["val"]["AP"] for row in runs]
        start = "pretrained backbone" if run.weights else "from scratch"
        cells.append(
            [
                f"{number}: `{run.preset}`, {start}",
                f"{run.minutes:g}",
                len(runs),
                f"{statistics.median(row['steps'] for row in runs):.0f}",
                *percent(
                    {name: statistics.median(r["val"][name] for r in runs) for name in COLUMNS}
                ),
                f"{min(aps):.1f} to {max(aps):.1f}" if len(runs) > 1 else "",
                f"{100 * statistics.median(row['train']['AP'] for row in runs):.1f}",
            ]
        )
        weights = f" --backbone-weights {run.weights}" if run.weights else ""
        commands.append(
            f"{number}: ddetr train --data FOLDER --preset {run.preset}{weights} "
            f"--minutes {run.minutes:g} {run.flags}"
        )
    first = run_of(rows[0])
    images = {split: rows[-1][split]["images"] for split in ("train", "val")}
    machines = "; ".join(dict.fromkeys(machine_and_date(row) for row in rows))
    header = ["", "minutes", "seeds", "steps", *COLUMNS.values(), "AP, all seeds", "AP train"]
    others = [row["machine"].get("cores_used_by_others") for row in rows]
    busy = max(filter(None, others), default=0)
    contention = f", other programs used up to {busy:g} of the cores" if busy else ""
    return [
        f"### {first.data}, {first.categories}",
        table(header, cells),
        f"{protocol(map(len, kinds))}. {images['train']} images for training and {images['val']} "
        f"for validation. {machines}{contention}.",
        "```text\n" + "\n".join(commands) + "\n```",
    ]


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
        attention_on_a_gpu,
        training_on_a_gpu,
        inference,
        resume,
        own_images,
    )
    parts = ["# Results", introduction, *(section() for section in sections)]
    return "\n\n".join(filter(None, parts)) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
