"""Training steps per second: ours and Hugging Face's, with the same configuration and parameters.

    uv run --group peers python benchmarks/training_speed.py [--rounds 15] [--cases tiny]

The two take turns, each in a process of its own, on the same batch, which is in memory already
resized, padded and normalised. A step is the forward pass, the matching and all losses (each side
with its own code, a loss for every decoder layer), the backward pass, gradient clipping and AdamW
with the same settings.

- tiny, tiny_two_stage: scenes at 192 px, batch size 8, with padding, and the same backbone on both
  sides.
- r50_two_stage: one image of 512 x 768, and everything on their side is theirs.
- bf16: the same with both under autocast, as `ddetr train --precision bf16` does it.

equal_models.py builds the two. Our model uses the channels-last memory format, and keeps freed
memory for the next step, as in `ddetr train`; theirs is as it comes from `from_pretrained`, with
dropout where the official code has it. In two stages we also compute the encoder's loss, which they
leave out. Prints a table and a breakdown of our time; writes benchmarks/results/training_speed.json
and training_speed.png.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from equal_models import Batch, equal_models, largest_difference
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ddetr_edu.attention.benchmark import load_average, machine
from ddetr_edu.losses.criterion import detection_losses
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training.config import RECIPES
from ddetr_edu.training.malloc import keep_freed_pages
from ddetr_edu.training.optim import build_optimizer
from ddetr_edu.viz.style import COLOURS, NotebookFigure

spawn = multiprocessing.get_context("spawn")

# preset, images in the batch, their size, and whether both sides run under autocast to bf16
CASES = {
    "tiny": ("tiny", 8, ResizeConfig(192, 224), False),
    "tiny_two_stage": ("tiny_two_stage", 8, ResizeConfig(192, 224), False),
    "r50_two_stage": ("r50_two_stage", 1, ResizeConfig(512, 768), False),
    "tiny, bf16": ("tiny", 8, ResizeConfig(192, 224), True),
    "r50_two_stage, bf16": ("r50_two_stage", 1, ResizeConfig(512, 768), True),
}
SIDES = ("ours", "theirs")
PHASES = ("forward", "losses", "backward", "optimiser")
# Which operators of torch belong to which part of a step, forward and backward.
PARTS = {
    "convolutions": (
        "aten::mkldnn_convolution",
        "aten::convolution_backward",
        "aten::_slow_conv2d",
    ),
    "norms": ("aten::native_",),
    "linear layers": ("aten::addmm", "aten::mm"),
    "deformable attention": ("ddetr_edu::",),
    "dense self-attention": ("aten::_scaled_dot_product", "aten::bmm"),
    "dropout": ("aten::bernoulli_", "aten::random_", "aten::ge"),
    "copies": ("aten::copy_", "aten::cat"),
}


class TimedTrainer:
    """A model that is trained, with a timer for the phases of each step.

    Args:
        model: The model.
        compute_loss: `our_loss` or `their_loss`.
        recipe: The optimiser's settings, a key of RECIPES.
        bf16: Whether the forward pass runs under autocast.
    """

    def __init__(self, model: nn.Module, compute_loss: Callable, recipe: str, bf16: bool):
        self.model, self.compute_loss = model.train(), compute_loss
        self.optim, self.bf16 = RECIPES[recipe], bf16
        self.optimizer = build_optimizer(model, self.optim)
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def step(self, batch: Batch) -> dict[str, float]:
        """Update the parameters once, and return the seconds of each phase."""
        seconds = {}
        started = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss, seconds["losses"] = self.compute_loss(self.model, *batch)
        after_losses = time.perf_counter()
        seconds["forward"] = after_losses - started - seconds["losses"]
        loss.backward()
        after_backward = time.perf_counter()
        seconds["backward"] = after_backward - after_losses
        nn.utils.clip_grad_norm_(self.parameters, self.optim.max_grad_norm)
        self.optimizer.step()
        seconds["optimiser"] = time.perf_counter() - after_backward
        return seconds


def our_loss(model, images: Tensor, mask: Tensor, targets: list[dict]) -> tuple[Tensor, float]:
    """The sum of all our losses, and the seconds that the matching and the losses took."""
    predictions = model(images, mask)
    started = time.perf_counter()
    with torch.autocast("cpu", enabled=False):
        loss = sum(detection_losses(predictions, targets).values())
    return loss, time.perf_counter() - started


def their_loss(model, images: Tensor, mask: Tensor, targets: list[dict]) -> tuple[Tensor, float]:
    """The same for theirs, which are computed inside the model's forward pass."""
    seconds = []
    loss_function = model.loss_function

    def timed(*args, **kwargs):
        started = time.perf_counter()
        result = loss_function(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return result

    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    model.loss_function = timed
    try:
        output = model(pixel_values=images, pixel_mask=(~mask).long(), labels=labels)
    finally:
        model.loss_function = loss_function
    return output.loss, seconds[0]


def serve(case: str, side: str, connection: Connection) -> None:
    """The process of one side: it makes or profiles a step whenever the connection requests one.

    Args:
        case: A key of CASES.
        side: "ours" or "theirs".
        connection: Receives "step", "profile" or None, which ends the process. For a step it sends
            the seconds of each phase, for a profile the share of each part. Ours first sends the
            difference of the two models, and the batch.
    """
    torch.set_flush_denormal(True)  # as in `ddetr train`, for both sides
    preset, n_images, size, bf16 = CASES[case]
    ours, theirs, batch = equal_models(preset, n_images, size)
    recipe = "fast" if case.startswith("tiny") else "official"
    if side == "ours":
        keep_freed_pages()  # as in `ddetr train`
        connection.send((largest_difference(ours, theirs, batch), batch))
        trainer = TimedTrainer(ours, our_loss, recipe, bf16)
        del theirs
    else:
        trainer = TimedTrainer(theirs, their_loss, recipe, bf16)
        del ours
    while request := connection.recv():
        if request == "step":
            connection.send(trainer.step(batch))
        else:
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                trainer.step(batch)
            connection.send(by_part(profiled.key_averages()))


def measure(case: str, rounds: int) -> dict:
    """Time steps of both sides on one batch; they take turns, and while one computes, one waits.

    Args:
        case: A key of CASES.
        rounds: How many steps of each side to time.

    Returns:
        The entry of the results' JSON.
    """
    connections = {}
    for name in SIDES:
        connections[name], other_end = spawn.Pipe()
        spawn.Process(target=serve, args=(case, name, other_end), daemon=True).start()
    difference, batch = connections["ours"].recv()
    assert difference < 1e-3, f"these are different models: they differ by {difference}"
    seconds = {name: [] for name in SIDES}
    for turn in range(rounds + 2):
        for name, connection in connections.items():
            connection.send("step")
            phases = connection.recv()
            if turn > 1:  # two rounds warm up
                seconds[name].append(phases)
    connections["ours"].send("profile")
    parts = connections["ours"].recv()
    for connection in connections.values():
        connection.send(None)
    steps = {name: [sum(s.values()) for s in each] for name, each in seconds.items()}
    medians = {name: statistics.median(each) for name, each in steps.items()}
    return {
        "batch_shape": list(batch[0].shape),
        "objects": sum(len(target["labels"]) for target in batch[2]),
        "max_difference": difference,
        "seconds": {name: [round(t, 4) for t in each] for name, each in steps.items()},
        "phases": {
            name: {p: round(statistics.median(s[p] for s in each), 4) for p in PHASES}
            for name, each in seconds.items()
        },
        "steps_per_second": {name: round(1 / t, 3) for name, t in medians.items()},
        "ratio": round(medians["theirs"] / medians["ours"], 2),
        "ours_by_part": parts,
    }


def by_part(operators) -> dict[str, float]:
    """The share of each part of a step in the time of all operators."""
    times = {event.key: event.self_cpu_time_total for event in operators}
    total = sum(times.values())
    shares = {
        part: sum(time for key, time in times.items() if key.startswith(names)) / total
        for part, names in PARTS.items()
    }
    shares["everything else"] = 1 - sum(shares.values())
    return {part: round(share, 3) for part, share in shares.items()}


def show(preset: str, case: dict) -> None:
    """Print the results of one case."""
    shape = " x ".join(map(str, case["batch_shape"]))
    print(
        f"{preset}, batch {shape}, {case['objects']} objects; largest difference of an output "
        f"{case['max_difference']:.1e}"
    )
    for name, times in case["seconds"].items():
        phases = ", ".join(f"{p} {1000 * s:.0f}" for p, s in case["phases"][name].items())
        print(
            f"  {name:7} {case['steps_per_second'][name]:6.2f} steps/s "
            f"({1 / max(times):.2f} to {1 / min(times):.2f}); ms: {phases}"
        )
    print(f"  ours is {case['ratio']}x as fast")
    for part, share in case["ours_by_part"].items():
        print(f"  {share:6.1%} of our time: {part}")


def plot(results: dict, path: Path) -> None:
    """Plot a bar for each side of each case, divided into phases; theirs has length 1."""
    cases = results["cases"]
    figure = NotebookFigure(8, 1.2 + 1.1 * len(cases))
    axis = figure.subplots()
    names, rows = [], []
    for row, (preset, case) in enumerate(cases.items()):
        whole = sum(case["phases"]["theirs"].values())
        for side, name in enumerate(("theirs", "ours")):
            y, left = 3 * row + side, 0.0
            for colour, hatch, phase in zip(
                COLOURS, ("", "//", "\\\\", ".."), PHASES, strict=False
            ):
                share = case["phases"][name][phase] / whole
                axis.barh(
                    y,
                    share,
                    0.8,
                    left,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    label=phase if y == 0 else None,
                )
                left += share
            speed = f"{case['steps_per_second'][name]:.2f} steps/s"
            if name == "ours":
                speed += f", {case['ratio']:.1f}x as fast"
            axis.text(left + 0.01, y, speed, va="center", fontsize=9)
            names.append(f"{preset}\n{name}" if side == 0 else name)
            rows.append(y)
    axis.set_yticks(rows, names, fontsize=9)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.25), xlabel="time of a training step; Hugging Face's is 1")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(PHASES), frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training_speed"))
    arguments = parser.parse_args()
    results = {
        "machine": machine(),
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "cases": {},
    }
    out = arguments.out.with_suffix(".json")
    if out.exists():  # the other cases stay as they are
        results["cases"] = json.loads(out.read_text())["cases"]
    for preset in arguments.cases:
        results["cases"][preset] = measure(preset, arguments.rounds)
        show(preset, results["cases"][preset])
    results["machine"]["load_after"] = load_average()
    out.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
