"""The sections of docs/results.md about training: generated scenes, and real photographs."""

import statistics
from collections import Counter

from ablation import FULL, medians
from own_images_runs import grouped, run_of
from readme_table import machine_and_date, shapes_table
from results_tables import COLUMNS, load, percent, protocol, result_file, table
from shapes_runs import grouped_runs


def from_scratch() -> str:
    results = load("shapes")
    seeds = map(len, grouped_runs(results).values())
    return f"""## Ten minutes of training from scratch

{protocol(seeds)}. The row with `--steps` is [the model that comes with the
course](../data/README.md#tiny-shapes).

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
on 200 held-out scenes. Each row is the full recipe with one setting changed; that recipe is
`tiny_two_stage` in bf16 with the focal loss and no denoising queries, which the next table is
about. After so short a time a variant that learns slowly at first looks worse than it ends; compare
with the table above. Two seeds of the same recipe can be several points apart.
{machine_and_date(results)}. `python benchmarks/ablation.py --minutes {results["minutes"]:g}`

![AP of each variant](../benchmarks/results/ablation.png)"""


def ingredients() -> str:
    """What each of two ingredients brings in ten minutes, over three seeds."""
    files = [load(f"ablation_ten_minutes_{device}") for device in ("cpu", "cuda")]
    names = {"cpu": "two CPU threads", "cuda": "GPU"}
    cells = []
    for results in files:
        rows = medians(results["runs"])
        for name, row in rows.items():
            aps = [100 * run["AP"] for run in results["runs"] if run["variant"] == name]
            cells.append(
                [
                    f"{names[results['device']]}: {name}",
                    len(aps),
                    f"{row['steps']:.0f}",
                    *percent(row),
                    f"{min(aps):.1f} to {max(aps):.1f}",
                ]
            )
    return f"""## Varifocal loss and denoising queries, together and one without the other

{table(["", "seeds", "steps", *COLUMNS.values(), "AP of the seeds"], cells)}

{protocol({row[1] for row in cells})}: {files[0]["minutes"]:g} minutes of training of
`tiny_two_stage` for each run, evaluated on 200 held-out scenes. All {len(files[0]["runs"])} runs on
the processor and all {len(files[1]["runs"])} on the GPU went on at the same time, so that steps
were slower than on a quiet machine; compare within a device. {machine_and_date(files[0])}; the GPU
is an {files[1]["machine"]["gpu"]}.
`python benchmarks/ablation.py --minutes 10 --seeds 0 1 2 --only VARIANT ... --device cpu --out
benchmarks/results/ablation_ten_minutes_cpu`, or `cuda` in both places."""


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
scenes. A DETR needs many times as many steps before its AP rises: so few minutes say only that
Deformable DETR starts sooner. {machine_and_date(results)}.
`python benchmarks/curves.py --minutes {minutes:g} --every 1`"""


def own_images() -> str:
    """Nothing while nothing has been measured."""
    if not result_file("own_images.json").exists():
        return ""
    results = load("own_images")
    by_subject: dict[str, list[dict]] = {}
    for row in results["runs"]:
        by_subject.setdefault(run_of(row).subject(), []).append(row)
    parts = [
        """## Real photographs

Each run is `ddetr train` on the training images of a folder in COCO's layout, evaluated on the
validation images after the last step; a test split, where there is one, was not used. "AP train" is
measured on the training images themselves. Where it is far above AP, the model has learned those
images rather than what such objects look like, and needs more of them, or a backbone that has been
trained on others. Where both are low, the training was too short for what these images show, or a
step saw too few objects, of which `ddetr train` warns; a detector that has been trained on similar
images, given to `--start-from`, is nearer to the goal.
`python benchmarks/own_images.py FOLDER`"""
    ]
    for subject, rows in by_subject.items():
        parts += photographs(rows)
        curves = result_file(f"own_images-{subject}.png")
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
    contention = f" During one of the runs other programs used {busy:g} cores." if busy else ""
    lost = [k for k, runs in enumerate(kinds, start=1) if not any(r.get("curve") for r in runs)]
    curves = f" No curve was kept of {', '.join(map(str, lost))}." if lost else ""
    return [
        f"### {first.data}, {first.categories}",
        table(header, cells),
        f"{protocol(map(len, kinds))}. {images['train']} images for training and {images['val']} "
        f"for validation. {machines}.{contention}{curves}",
        "```text\n" + "\n".join(commands) + "\n```",
    ]
