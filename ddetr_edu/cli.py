"""The command line: `ddetr --help`, or `python -m ddetr_edu --help`."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import PIL.Image
import torch
from matplotlib.figure import Figure
from torchvision.transforms.v2.functional import to_pil_image
from tyro.conf import Positional, arg
from tyro.extras import subcommand_cli_from_dict

from ddetr_edu.animation import animate_training
from ddetr_edu.attention import capture
from ddetr_edu.attention.build import BuildError
from ddetr_edu.bench import BenchConfig, bench_attention
from ddetr_edu.data import (
    CocoDetection,
    SubsetConfig,
    fetch_subset,
    find_faults,
    held_out_scenes,
    measure,
    write_shapes_set,
)
from ddetr_edu.data.coco import split_names
from ddetr_edu.data.stats import by_frequency, table
from ddetr_edu.detector import DETR
from ddetr_edu.doctor import examine
from ddetr_edu.gallery import write_gallery
from ddetr_edu.inspector import write_inspector
from ddetr_edu.seen import look
from ddetr_edu.training import TrainConfig, load, load_picture, save, train
from ddetr_edu.training.evaluate import evaluate
from ddetr_edu.training.export import export_onnx
from ddetr_edu.training.huggingface import save_huggingface
from ddetr_edu.training.official import save_official
from ddetr_edu.viz import plot_boxes, plot_dataset, plot_sampling_points

CHECKPOINT = Path("runs/train/checkpoint.pt")  # where `ddetr train` leaves it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A mistake ends in one line, never in a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands, prog, about = ALL_COMMANDS, "ddetr", "Deformable DETR, to be read and run."
    if arguments and arguments[0] in GROUPS:
        about, commands = GROUPS[arguments[0]]
        prog, arguments = f"ddetr {arguments[0]}", arguments[1:]
    try:
        parse(commands, prog, about, arguments)()
    except (ValueError, OSError, BuildError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"{prog}: {str(stop) or 'stopped by the keyboard'}", file=sys.stderr)
        return 130
    return 0


def parse(
    commands: dict[str, Callable], prog: str, about: str, arguments: list[str]
) -> Callable[[], None]:
    """The command that the arguments ask for, ready to be called.

    Raises: ValueError, in one line, for arguments that cannot be understood.
    """

    def ready(command: Callable) -> Callable:
        @functools.wraps(command)
        def bind(*args, **kwargs):
            return functools.partial(command, *args, **kwargs)

        return bind

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return subcommand_cli_from_dict(
                {name: ready(command) for name, command in commands.items()},
                prog=prog, description=about, args=arguments,
            )  # fmt: skip
    except SystemExit as end:
        if not end.code:
            raise  # --help
        # tyro frames its complaint, with a title above and help below a rule.
        lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()[1:]]
        sections = "\n".join("" if set(line) <= set("─-╰╯") else line for line in lines)
        said = sections.strip().split("\n\n")[0].replace("\n", " ")
        raise ValueError(f"{said} (see {prog} --help)") from None


def run_doctor() -> None:
    """Say what runs here, what does not, and what to do about it."""
    print(examine())


def run_train(config: Annotated[TrainConfig, arg(name="")]) -> None:
    """Train a detector; leave checkpoints, metrics.jsonl and curves.png in a folder.

    Try it:  ddetr train --data data/shapes-mini --minutes 3

    Ctrl-C saves, and the same command with --resume goes on.

    Several GPUs:  torchrun --nproc-per-node 2 -m ddetr_edu train --steps 9000
    """
    train(config)


def run_eval(
    checkpoint: Path = CHECKPOINT,
    data: str = "data/shapes-mini",
    split: str = "val",
    first: int | None = None,
    batch: int = 8,
    workers: int = 1,
    per_category: bool = False,
    pictures: Path | None = None,
    threshold: float = 0.5,
) -> None:
    """Print COCO's table for a checkpoint; with --pictures, also draw what it gets wrong.

    Try it:  ddetr eval --data shapes --pictures runs/eval

    Args:
        checkpoint: What `ddetr train` left behind.
        data: A folder in COCO's layout, or "shapes": generated scenes no training saw.
        split: Which part of the data, as its annotation file is named: val, train2017, ...; of
            shapes val, 200 scenes, or test, 500 others.
        first: Only the first so many pictures with an object, as `ddetr train --overfit` takes.
        batch: Pictures at a time.
        workers: Processes that read pictures ahead.
        per_category: Print the numbers of each category, too.
        pictures: A folder for precision-recall curves, AP by size, what was taken for what, a
            gallery of the worst errors, and all their numbers as JSON.
        threshold: Of these, errors are judged among detections that score no less.
    """
    detector = load(checkpoint)
    dataset = held_out_scenes(split) if data == "shapes" else CocoDetection(data, split)
    if first is not None:
        dataset = dataset.first(first)
    metrics, table = evaluate(
        detector, dataset, batch, workers=workers, per_category=per_category, pictures=pictures,
        threshold=threshold,
    )  # fmt: skip
    print(table)
    print(f"{len(dataset)} pictures: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}")


def run_predict(
    pictures: Positional[tuple[Path, ...]],
    checkpoint: Path = CHECKPOINT,
    threshold: float = 0.5,
    top: int = 100,
    out: Path | None = None,
) -> None:
    """Detect the objects of pictures; print them, and draw them into PNGs.

    Args:
        pictures: Any pictures that Pillow reads.
        checkpoint: What `ddetr train` left behind, an official .pth or a Hugging Face folder.
        threshold: Leave out detections that score less.
        top: Of each picture no more than the so many best.
        out: The PNG to write, or for several pictures the folder; runs/predict when not given.
    """
    if not pictures:
        raise ValueError("predict takes the path of a picture, or several")
    folder, file = Path("runs/predict"), None
    if out is not None:
        folder, file = (out.parent, out) if len(pictures) == 1 else (out, None)
    drawings = {file or folder / f"{picture.stem}.png": picture for picture in pictures}
    if len(drawings) < len(pictures):
        raise ValueError("two of the pictures have the same name; predict them one by one")
    detector = load(checkpoint)
    for drawing, picture in drawings.items():
        upright = open_upright(picture)
        found = detector.predict(upright, threshold, top)
        if len(pictures) > 1:
            print(f"{picture}:")
        for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
            x1, y1, x2, y2 = box.tolist()
            name = detector.categories[int(label)]
            print(f"{name:16s} {score:.2f}   x {x1:6.1f} to {x2:6.1f}   y {y1:6.1f} to {y2:6.1f}")
        summary = f"{len(found['boxes'])} objects at or above {threshold:g}"
        print(summary)
        figure, _ = plot_boxes(
            upright, found["boxes"], found["labels"], found["scores"], detector.categories,
            title=f"{picture.name}: {summary}",
        )  # fmt: skip
        write_figure(figure, drawing)


def run_inspect(
    picture: Positional[Path],
    query: int | None = None,
    layer: int = -1,
    by: Literal["level", "head"] = "level",
    checkpoint: Path = CHECKPOINT,
    out: Path | None = None,
    html: Path | None = None,
) -> None:
    """Draw where one query looks: its reference point, sampling points and their weights.

    Every query, layer, level and head to choose from:  ddetr inspect PICTURE --html out.html

    Args:
        picture: Any picture that Pillow reads.
        query: Number of the decoder query, from 0; that of the best detection when not given.
        layer: Decoder layer, from 0; -1 is the last.
        by: A panel for each level, or for each head.
        checkpoint: What `ddetr train` left behind.
        out: The PNG to write; runs/inspect/PICTURE.png when not given.
        html: Also write a page for the browser, in which everything is chosen with the mouse.
    """
    detector = load(checkpoint)
    if isinstance(detector.model, DETR):
        raise ValueError(
            f"{checkpoint} holds a DETR, which has no sampling points: each query looks at every "
            "token; inspect a Deformable DETR instead"
        )
    config = detector.model.config
    if not -config.n_decoder_layers <= layer < config.n_decoder_layers:
        raise ValueError(
            f"--layer {layer} does not exist; the model has 0 to {config.n_decoder_layers - 1}"
        )
    upright = open_upright(picture)
    with capture(detector.model.decoder) as records:
        found = detector.predict(upright, threshold=0.0)
    record = records[layer]
    n_queries = record.weights.shape[1]  # with two stages, no more than there are tokens
    if query is not None and not 0 <= query < n_queries:
        raise ValueError(f"--query {query} does not exist; the model has 0 to {n_queries - 1}")
    mine = 0 if query is None else best_of_query(found["queries"], query)
    query = int(found["queries"][0]) if query is None else query
    seen = "its answers are not among the best 100"
    if mine is not None:
        name = detector.categories[int(found["labels"][mine])]
        seen = f"finally says {name}, score {found['scores'][mine]:.2f}"
    layer %= config.n_decoder_layers
    figure, drawn = plot_sampling_points(
        upright,
        record.reference_points[0, query],
        record.locations[0, query],
        record.weights[0, query],
        by=by,
        spatial_shapes=record.spatial_shapes,
        box=None if mine is None else found["boxes"][mine],
        title=f"query {query}, decoder layer {layer}: {seen}",
    )
    print(f"query {query}, decoder layer {layer}: {seen}")
    for number, panel in enumerate(drawn):
        width, height = upright.size
        x, y = panel["locations"].T
        outside = ((x < 0) | (x > width) | (y < 0) | (y > height)).mean()
        share = panel["weights"].sum() / record.weights[0, query].sum().item()
        print(f"{by} {number}: {len(x)} points, {share:.0%} of the weight, "
              f"{outside:.0%} outside the picture")  # fmt: skip
    write_figure(figure, out or Path("runs/inspect") / f"{picture.stem}.png")
    if html is not None:
        write_inspector(html, detector, picture)
        print(f"wrote {html}, {html.stat().st_size / 1e6:.1f} MB: open it in a browser")


def run_animate(
    run: Positional[Path],
    picture: Positional[Path],
    out: Path = Path("runs/animate/training.gif"),
    threshold: float = 0.3,
) -> None:
    """Show one picture to every checkpoint of a run; write the detections and points as a film.

    Many frames:  ddetr train --keep 20 --save-every 100 --minutes 10

    Args:
        run: The folder that `ddetr train` left behind.
        picture: Any picture that Pillow reads.
        out: The film to write: .gif, .png (animated, full colour) or, with ffmpeg, .mp4.
        threshold: Draw no detections that score less.
    """
    film, frames = animate_training(run, picture, threshold)
    film.save(out)
    steps = ", ".join(str(frame["step"]) for frame in frames)
    print(f"wrote {out}: {len(frames)} checkpoints, steps {steps}")


def run_gallery(
    pictures: Positional[tuple[Path, ...]] = (),
    checkpoint: Path = CHECKPOINT,
    threshold: float = 0.5,
    out: Path = Path("runs/gallery"),
) -> None:
    """Draw everything there is to see of a detector: PNGs in a folder, and a page to read them by.

    Args:
        pictures: The first is looked at, all are counted; 24 generated scenes no training saw if
            none is given, of which that with the most detections is looked at.
        checkpoint: What `ddetr train` left behind, an official .pth or a Hugging Face folder.
        threshold: Leave out detections that score less.
        out: The folder to write; the page is beside it, OUT.md.
    """
    detector = load(checkpoint)
    decoder = functools.partial(look, detector, threshold=threshold, layers="decoder*")
    if pictures:
        chosen, what = open_upright(pictures[0]), pictures[0].name
        others = [decoder(open_upright(picture)) for picture in pictures[1:]]
        target = None
    else:
        scenes = []
        for scene, target in held_out_scenes().first(24):
            scenes.append(decoder(scene))
            scenes[-1].target = target
        best = max(scenes, key=lambda seen: int((seen.found["scores"] >= threshold).sum()))
        chosen, what = best.picture, "a generated scene that no training saw"
        others = [seen for seen in scenes if seen is not best]
        target = best.target
    config = detector.model.config
    about = (
        f"A model of {config.n_encoder_layers} encoder and {config.n_decoder_layers} decoder "
        f"layers, {config.n_heads} heads, {config.n_levels} levels and {config.n_points} points, "
        f"`{checkpoint.name}`, looks at {what}."
    )
    seen = look(detector, chosen, threshold)
    seen.target = target
    for file in write_gallery(out, seen, others, about):
        print(f"wrote {file}")


def run_convert(
    source: Positional[Path], to: Literal["official", "huggingface", "ours"], out: Path
) -> None:
    """Write a checkpoint for the official code, for Hugging Face's transformers, or for us.

    Args:
        source: A checkpoint of any of the three; which one is seen from what is in it.
        to: For whom to write it.
        out: The file to write, or the folder for Hugging Face; it must not exist.
    """
    detector = load(source)
    if out.exists():
        raise ValueError(f"{out} exists already; choose another --out")
    {"official": save_official, "huggingface": save_huggingface, "ours": save}[to](out, detector)
    config = detector.model.config
    weights = sum(p.numel() for p in detector.model.parameters())
    print(
        f"wrote {out}: {type(detector.model).__name__}, {config.backbone}, {config.n_queries} "
        f"queries, {config.num_classes} classes, {weights / 1e6:.2f} million weights"
    )


def run_export(checkpoint: Positional[Path] = CHECKPOINT, *, out: Path) -> None:
    """Write a checkpoint's model as an ONNX file: one picture of any size at a time.

    Args:
        checkpoint: A checkpoint of any kind that `ddetr convert` takes.
        out: The file to write.
    """
    export_onnx(out, load(checkpoint))
    print(f"wrote {out}: images (1, 3, H, W), padding_mask (1, H, W) -> logits, boxes")


def run_data_shapes(
    out: Path = Path("data/shapes"), train: int = 4000, val: int = 200, seed: int = 0
) -> None:
    """Write generated scenes of six shapes to disk, in COCO's layout.

    Args:
        out: Folder to write; it must not hold these splits already.
        train: Pictures to learn from.
        val: Pictures to evaluate on.
        seed: The same seed draws the same pictures.
    """
    write_shapes_set(out, train=train, val=val, seed=seed)
    print(f"wrote {train} + {val} pictures; try: ddetr train --data {out} --minutes 3")


def run_data_coco(config: Annotated[SubsetConfig, arg(name="")]) -> None:
    """Fetch a part of COCO: its annotations, and only the pictures it needs.

    Try it:  ddetr data coco --categories person,dog --images 500 --out data/coco-person-dog
    """
    fetched = fetch_subset(config)
    parts = ", ".join(f"{len(rows)} pictures of {split}" for split, rows in fetched.items())
    use = "train --minutes 30" if config.split == "train2017" else "eval"
    print(f"{config.out} holds {parts}; try: ddetr {use} --data {config.out}")


def run_data_check(data: Positional[Path]) -> None:
    """Read every annotation and every picture of a data set; report all that is wrong with it.

    Args:
        data: A folder in COCO's layout.
    """
    findings = find_faults(data)
    for found in findings:
        print(found)
    faults = sum(found.count() for found in findings)
    if faults:
        raise ValueError(f"{data} has {faults} faults; the report names them and what to do")


def run_data_stats(data: Positional[Path], out: Path | None = None) -> None:
    """Count the pictures and objects of a data set, by category and size; print and draw it.

    Args:
        data: A folder in COCO's layout.
        out: The PNG to write; runs/stats/NAME.png when not given.
    """
    splits = {name: measure(CocoDetection(data, name)) for name in split_names(data)}
    print(table(splits))
    figure, _ = plot_dataset(
        {n: {"labels": s.labels, "areas": s.areas, "counts": s.counts} for n, s in splits.items()},
        dict(by_frequency(splits)),
        title=f"{data}: objects by category, by size, and how many are in a picture",
    )
    write_figure(figure, out or Path("runs/stats") / f"{data.resolve().name}.png")


def run_bench_attention(config: Annotated[BenchConfig, arg(name="")]) -> None:
    """Time the implementations of deformable attention, side by side; leave a PNG and a JSON.

    Try it:  ddetr bench attention --shapes decoder --places near
    """
    bench_attention(config)


def open_upright(picture: Path) -> PIL.Image.Image:
    """A picture in RGB, turned as its EXIF orientation says. Raises: ValueError naming the file."""
    return to_pil_image(load_picture(picture))


def best_of_query(queries: torch.Tensor, query: int) -> int | None:
    """The first place (the best score) of a query in a list of detections, if it is there."""
    places = (queries == query).nonzero()
    return int(places[0]) if len(places) else None


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


COMMANDS: dict[str, Callable] = {
    "doctor": run_doctor,
    "train": run_train,
    "eval": run_eval,
    "predict": run_predict,
    "inspect": run_inspect,
    "gallery": run_gallery,
    "animate": run_animate,
    "convert": run_convert,
    "export": run_export,
}
# Commands of two words: the first word, what it is about, and its second words.
GROUPS: dict[str, tuple[str, dict[str, Callable]]] = {
    "data": (
        "Make, fetch, check or count pictures and their boxes, in COCO's layout.",
        {
            "shapes": run_data_shapes,
            "coco": run_data_coco,
            "check": run_data_check,
            "stats": run_data_stats,
        },
    ),
    "bench": ("Measure on this machine what we claim.", {"attention": run_bench_attention}),
}


def named(first: str) -> Callable:
    """A first word as a command, for the list of commands; `main` goes on to its second words."""
    about, seconds = GROUPS[first]

    def command() -> None:
        raise ValueError(f"ddetr {first} takes a second word: {', '.join(seconds)}")

    command.__doc__ = f"{about} ({', '.join(f'ddetr {first} {second}' for second in seconds)})"
    return command


ALL_COMMANDS = {**COMMANDS, **{first: named(first) for first in GROUPS}}
