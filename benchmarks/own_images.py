"""Training on a folder of labelled photographs: from scratch, and with a pretrained backbone.

    uv run --extra timm python benchmarks/own_images.py FOLDER [--weights FILE.safetensors]

FOLDER is a data set in COCO's layout with the splits train and val. Each run is `ddetr train` with
the settings printed before it, for the same time: the presets of --scratch from random parameters,
and with --weights those of --pretrained, whose backbone starts from that file. Every run is
evaluated on all images of both splits; a split "test" is never read. What it found is drawn in its
own folder, runs/own_images/.../found.png.

A finished run is written to benchmarks/results/own_images.json at once, and one that is there is
not run again: the program can be interrupted at any time, and the same command continues with the
runs that are left. At the end it prints a table and draws the learning curves into
benchmarks/results/. Images are not copied there unless --publish says that they may be, and how to
credit them.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from measured_training import train_measured
from own_images_figures import plot_found, plot_learning
from own_images_runs import EVERYTHING, Run, grouped, median_row, run_of, table

from ddetr_edu.analysis.gallery import save_small
from ddetr_edu.checkpoints.io import load
from ddetr_edu.cli.main import parse
from ddetr_edu.data.annotations import find_annotations
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.evaluation.coco_metrics import AP_METRICS, detect, score, summarize
from ddetr_edu.evaluation.errors import ErrorRecord, classify_errors, count_errors
from ddetr_edu.files import atomic_write
from ddetr_edu.training.prepare import build_detector

RESULTS = Path(__file__).parent / "results" / "own_images.json"
FLAGS = (
    "--image-size.short-side 320 --image-size.long-side 448 --image-size.multiple-of 32 "
    "--precision bf16"
)


def words_of(run: Run, data: Path, weights: Path | None, out: Path) -> list[str]:
    """The command line of a run, after `ddetr`."""
    words = ["train", "--data", str(data), "--preset", run.preset, "--minutes", f"{run.minutes:g}"]
    if run.weights:
        words += ["--backbone-weights", str(weights)]
    words += ["--seed", str(run.seed), *shlex.split(run.flags)]
    return [*words, "--eval-every", "300", "--out", str(out)]


def only_categories(data: Path, names: list[str], out: Path) -> Path:
    """A data set with all images of another one, but only with objects of some categories.

    Args:
        data: A folder in COCO's layout.
        names: The names of the categories to keep.
        out: The folder to make; its images are links to those of `data`.

    Returns:
        That folder.

    Raises:
        ValueError: For a category that the data set does not have.
    """
    for split in ("train", "val"):
        file = find_annotations(data, split)
        content = json.loads(file.read_text(encoding="utf-8"))
        known = {category["name"]: category["id"] for category in content["categories"]}
        if unknown := set(names) - set(known):
            raise ValueError(
                f"{file} has no category {', '.join(sorted(unknown))}; it has {', '.join(known)}"
            )
        ids = {known[name] for name in names}
        content["categories"] = [c for c in content["categories"] if c["id"] in ids]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in ids]
        atomic_write(out / "annotations" / file.name, json.dumps(content).encode())
        images = file.stem.removeprefix("instances_")
        (out / images).unlink(missing_ok=True)
        os.symlink((data / images).resolve(), out / images, target_is_directory=True)
    return out


def assess(detector, images: CocoDetection, threshold: float) -> tuple[dict, list[ErrorRecord]]:
    """COCO's metrics on a split, with the number of images, and what became of each object."""
    coco = score(detect(detector, images, workers=0), images)
    metrics, _ = summarize(coco)
    rounded = {name: round(metrics[name], 4) for name in AP_METRICS}
    return {"images": len(images), **rounded}, classify_errors(coco, threshold)


def finish(run: Run, images: dict[str, CocoDetection], folder: Path, threshold: float) -> dict:
    """Evaluate a run that has been trained, and draw what it found.

    Args:
        run: The run.
        images: The splits "train" and "val" of its data set.
        folder: Where `ddetr train` wrote to; found.png goes there, too.
        threshold: The lowest score of the detections to draw.

    Returns:
        What the results say of it besides its settings.
    """
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = [line for line in log if "AP" in line]
    detector = load(folder / "checkpoint.pt")
    train, _ = assess(detector, images["train"], threshold)
    val, records = assess(detector, images["val"], threshold)
    title = f"{run}\nscores of {threshold:g} or more"
    save_small(plot_found(images["val"], records, title), folder / "found.png")
    return {
        "steps": points[-1]["step"],
        "train": train,
        "val": val,
        "threshold": threshold,
        "outcomes": count_errors(records),
        "curve": [
            [round(point["minutes"], 2), *(round(point[name], 4) for name in ("AP", "AP50"))]
            for point in points
        ],
    }


def read_results() -> dict:
    """What earlier calls have measured."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": [], "images": {}}


def write_results(results: dict) -> None:
    atomic_write(RESULTS, (json.dumps(results, indent=1) + "\n").encode())


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="a folder in COCO's layout")
    parser.add_argument("--name", help="of the data set, in the results; that of its folder")
    parser.add_argument("--categories", nargs="+", help="only objects of these; all if left out")
    parser.add_argument("--weights", type=Path, help="a pretrained backbone, .safetensors")
    parser.add_argument("--scratch", nargs="*", default=["tiny_two_stage"], metavar="PRESET")
    parser.add_argument("--pretrained", nargs="*", default=["lite"], metavar="PRESET")
    parser.add_argument("--minutes", type=float, default=15, help="of training, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flags", default=FLAGS, help=f'of ddetr train; "{FLAGS}" if left out')
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score in the drawings")
    parser.add_argument("--out", type=Path, default=Path("runs/own_images"))
    parser.add_argument(
        "--publish",
        metavar="CREDIT",
        help="also copy a drawing of the best kind of run, which shows images of the data set, "
        "to benchmarks/results/; CREDIT names their authors and their licence",
    )
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace, name: str) -> list[Run]:
    """All runs that the options ask for, one seed after the other."""
    categories = ", ".join(options.categories) if options.categories else EVERYTHING
    kinds = [(preset, None) for preset in options.scratch]
    if options.weights:
        kinds += [(preset, options.weights.name) for preset in options.pretrained]
    if not kinds:
        raise ValueError("there is nothing to run: give presets to --scratch, or --weights")
    return [
        Run(name, categories, preset, weights, options.minutes, options.flags, seed)
        for seed in options.seeds
        for preset, weights in kinds
    ]


def prepare(words: list[str], categories: dict[int, str]) -> Callable[[], None]:
    """Check that a run can begin, before any run takes its minutes.

    Args:
        words: From `words_of`.
        categories: {label: name} of the data set.

    Returns:
        What trains it.

    Raises:
        ValueError: For a wrong flag, or parameters that do not fit the backbone.
    """
    train = parse("ddetr", words)
    (config,) = [*train.args, *train.keywords.values()]
    with contextlib.redirect_stdout(io.StringIO()):
        build_detector(config, categories)
    return train


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    name = options.name or options.data.resolve().name
    runs, data, out = planned(options, name), options.data, options.out
    if options.categories:
        data = only_categories(data, options.categories, out / f"data-{runs[0].subject()}")
    images = {split: CocoDetection(data, split) for split in ("train", "val")}
    results = read_results()
    done = {run_of(row): row for row in results["runs"]}
    left = []
    for run in runs:
        if run in done:
            print(f"{run}: done before, AP {100 * done[run]['val']['AP']:.1f}")
            continue
        words = words_of(run, data, options.weights, run.folder(out))
        left.append((run, words, prepare(words, images["train"].categories)))
    minutes = sum(run.minutes for run, _, _ in left)
    print(f"{len(left)} of {len(runs)} runs are left, {minutes:g} minutes of training", flush=True)
    failed = []
    for run, words, train in left:
        print(f"\n{run}\nddetr {shlex.join(words)}", flush=True)
        try:
            about = train_measured(train)
            found = finish(run, images, run.folder(out), options.threshold)
        except ValueError as error:  # such as a loss that is not finite: the others go on
            print(f"{run}: {error}", file=sys.stderr, flush=True)
            failed.append(run)
            continue
        results = read_results()  # again: what was written meanwhile must not be lost
        results["runs"].append({**asdict(run), **found, "machine": about})
        write_results(results)
    rows = [row for row in results["runs"] if run_of(row).subject() == runs[0].subject()]
    if rows:
        print(f"\n{table(rows)}\n")
        draw(rows, f"{name}, {runs[0].categories}: {rows[0]['val']['images']} validation images")
        if options.publish:
            publish(results, rows, options)
        print(f"wrote {RESULTS}")
    if failed:
        sys.exit(
            "failed, and will be tried again by the same command:\n" + "\n".join(map(str, failed))
        )


def draw(rows: list[dict], title: str) -> None:
    """Draw the learning curves of a data set into the folder of the results."""
    kinds = {
        f"{n}: {run_of(group[0]).kind()}": [row["curve"] for row in group if row["curve"]]
        for n, group in enumerate(grouped(rows).values(), start=1)
    }
    figure = plot_learning(kinds, title)
    save_small(figure, RESULTS.with_name(f"own_images-{run_of(rows[0]).subject()}.png"))


def publish(results: dict, rows: list[dict], options: argparse.Namespace) -> None:
    """Copy the drawing of a run, which shows images of the data set, to the results.

    It is the run of the median seed, of the kind of run that is best.

    Args:
        results: All results; changed and written.
        rows: Those of this data set.
        options: Of the command line.
    """
    best = max(map(median_row, grouped(rows).values()), key=lambda row: row["val"]["AP"])
    run = run_of(best)
    source = run.folder(options.out) / "found.png"
    if not source.exists():
        sys.exit(f"{source} is not there: the run was made elsewhere; nothing was published")
    file = f"own_images-{run.subject()}-found.png"
    shutil.copy(source, RESULTS.with_name(file))
    results["images"][run.subject()] = {"file": file, "run": str(run), "credit": options.publish}
    write_results(results)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"interrupted; {RESULTS} has the finished runs, and the same command continues")
    except (ValueError, OSError) as error:
        sys.exit(f"own_images.py: {error}")
