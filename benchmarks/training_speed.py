"""Training steps per second: ours and Hugging Face's, with the same configuration and weights.

    uv run --group peers python benchmarks/training_speed.py [--rounds 15] [--cases tiny]

The two take turns, each in a process of its own, on the same batch, which lies in memory already
resized, padded and normalised. A step is the forward pass, matching and all losses (each side by
its own code, a loss for every decoder layer), the backward pass, and clipping and AdamW with the
same settings.

- tiny, tiny_two_stage: scenes at 192 px, batch 8, with padding. Hugging Face cannot build this
  backbone, so their model gets a copy of ours, and of the three convolutions that bring its maps
  to their channels; the rest is theirs, from the first token to the loss.
- r50_two_stage: a picture of 512 x 768. Everything is theirs; their ResNet-50 is timm's.
- bf16: the same with both under autocast, as `ddetr train --precision bf16` does it.

Ours keeps the channels of a pixel side by side, and memory from one step for the next, as `ddetr
train` does; theirs is as it comes from `from_pretrained`, with dropout in the places of the
official code. In two stages we also compute the encoder's loss, which theirs leaves out. Prints a
table and where our time goes; writes benchmarks/results/training_speed.json and .png.
"""

import argparse
import copy
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ddetr_edu as dd
from ddetr_edu.bench import load, machine
from ddetr_edu.data import Shapes
from ddetr_edu.detector import PictureSize, make_batch, to_floats
from ddetr_edu.training import Detector, detection_losses
from ddetr_edu.training.huggingface import save_huggingface
from ddetr_edu.training.memory import keep_freed_memory
from ddetr_edu.training.optim import RECIPES, build_optimizer
from ddetr_edu.viz.style import COLOURS, NotebookFigure

spawn = multiprocessing.get_context("spawn")

# preset, pictures in the batch, their size, and whether both sides are under autocast to bf16
CASES = {
    "tiny": ("tiny", 8, PictureSize(192, 224), False),
    "tiny_two_stage": ("tiny_two_stage", 8, PictureSize(192, 224), False),
    "r50_two_stage": ("r50_two_stage", 1, PictureSize(512, 768), False),
    "tiny, bf16": ("tiny", 8, PictureSize(192, 224), True),
    "r50_two_stage, bf16": ("r50_two_stage", 1, PictureSize(512, 768), True),
}
SIDES = ("ours", "theirs")
PHASES = ("forward", "losses", "backward", "optimiser")
# What an operator of torch is part of, forward and backward; the rest is glue.
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


class Contender:
    """A model that trains, and a clock for the phases of its steps."""

    def __init__(self, model: nn.Module, losses: Callable, recipe: str, bf16: bool):
        self.model, self.losses = model.train(), losses
        self.optim, self.bf16 = RECIPES[recipe], bf16
        self.optimizer = build_optimizer(model, self.optim)
        self.weights = [p for p in model.parameters() if p.requires_grad]

    def step(self, batch: tuple) -> dict[str, float]:
        """One update of the weights. Returns the seconds of each phase."""
        seconds = {}
        began = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss, seconds["losses"] = self.losses(self.model, *batch)
        computed = time.perf_counter()
        seconds["forward"] = computed - began - seconds["losses"]
        loss.backward()
        differentiated = time.perf_counter()
        seconds["backward"] = differentiated - computed
        nn.utils.clip_grad_norm_(self.weights, self.optim.clip)
        self.optimizer.step()
        seconds["optimiser"] = time.perf_counter() - differentiated
        return seconds


def our_losses(model, images: Tensor, mask: Tensor, targets: list[dict]) -> tuple[Tensor, float]:
    """The sum of all our losses, and the seconds that matching and losses took."""
    predictions = model(images, mask)
    began = time.perf_counter()
    with torch.autocast("cpu", enabled=False):
        loss = sum(detection_losses(predictions, targets).values())
    return loss, time.perf_counter() - began


def their_losses(model, images: Tensor, mask: Tensor, targets: list[dict]) -> tuple[Tensor, float]:
    """The same of theirs, which are computed inside the model's forward pass."""
    seconds = []
    compute = model.loss_function

    def timed(*args, **kwargs):
        began = time.perf_counter()
        result = compute(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return result

    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    model.loss_function = timed
    try:
        found = model(pixel_values=images, pixel_mask=(~mask).long(), labels=labels)
    finally:
        model.loss_function = compute
    return found.loss, seconds[0]


class SameBackbone(nn.Module):
    """Our backbone as their model calls its own."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(map, mask) of each level, the mask True where there is a picture."""
        mask = pixel_mask[None].float()
        return [
            (level, F.interpolate(mask, size=level.shape[-2:]).bool()[0])
            for level in self.backbone(images)
        ]


def build(preset: str, scenes: Shapes) -> tuple[nn.Module, nn.Module]:
    """Our model and theirs, with the same weights."""
    config = dd.DeformableDETRConfig.preset(
        preset,
        num_classes=len(scenes.categories),
        token_queries=False,  # theirs has none
        look_forward="once",  # as theirs
    )
    ours = dd.DeformableDETR(config)
    saved = ours
    if config.backbone == "tiny":  # a file of theirs needs a ResNet, which is then taken out again
        saved = dd.DeformableDETR(replace(config, backbone="resnet18"))
        own = ("backbone.", "input_projection.")
        state = {k: v for k, v in ours.state_dict().items() if not k.startswith(own)}
        saved.load_state_dict(state, strict=False)
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(folder, Detector(saved, scenes.categories))
        theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(
            folder,
            auxiliary_loss=True,
            attention_dropout=config.dropout,  # ours drops out, as officially, wherever it can
            activation_dropout=config.dropout,
        )
    if config.backbone == "tiny":
        theirs.model.backbone = SameBackbone(copy.deepcopy(ours.backbone))
        theirs.model.input_proj = copy.deepcopy(ours.input_projection.levels)
    return ours.to(memory_format=torch.channels_last), theirs


def prepare(detector: Detector, scenes: Shapes, size: PictureSize) -> tuple:
    """Images (N, 3, H, W), padding mask, and targets as the losses want them."""
    images, targets = zip(*scenes, strict=True)
    inside = [detector.inside(t, i.shape[-2:]) for i, t in zip(images, targets, strict=True)]
    return *make_batch([to_floats(image) for image in images], size), inside


@torch.no_grad()
def largest_difference(ours: nn.Module, theirs: nn.Module, batch: tuple) -> float:
    """Of a class score or a coordinate, in evaluation mode: the two must be the same model."""
    images, mask, _ = batch
    mine = ours.eval()(images, mask)
    yours = theirs.eval()(pixel_values=images, pixel_mask=(~mask).long())
    return max(
        (mine.scores() - yours.logits.sigmoid()).abs().max().item(),
        (mine.boxes - yours.pred_boxes).abs().max().item(),
    )


def prepare_case(case: str) -> tuple[nn.Module, nn.Module, tuple]:
    """Our model, theirs, and the batch; the same in every process."""
    preset, n_images, size, _ = CASES[case]
    torch.manual_seed(0)
    scenes = Shapes(n_images, seed=0)
    ours, theirs = build(preset, scenes)
    batch = prepare(Detector(ours, scenes.categories), scenes, size)
    if preset.startswith("r50"):  # scenes are small; one is drawn out to a photograph's shape
        batch = stretched(batch, 512, 768)
    return ours, theirs, batch


def contend(case: str, name: str, connection: Connection) -> None:
    """A process of its own for one side: it makes a step, or tells about one, whenever asked."""
    torch.set_flush_denormal(True)  # as `ddetr train` does; theirs gets it as well
    ours, theirs, batch = prepare_case(case)
    recipe = "fast" if case.startswith("tiny") else "official"
    if name == "ours":
        keep_freed_memory()  # as `ddetr train` does
        connection.send((largest_difference(ours, theirs, batch), batch))
        contender = Contender(ours, our_losses, recipe, CASES[case][-1])
        del theirs
    else:
        contender = Contender(theirs, their_losses, recipe, CASES[case][-1])
        del ours
    while asked := connection.recv():
        if asked == "step":
            connection.send(contender.step(batch))
        else:
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                contender.step(batch)
            connection.send(by_part(profiled.key_averages()))


def measure(case: str, rounds: int) -> dict:
    """Steps of both on one batch, taking turns: while one computes, the other waits."""
    connections = {}
    for name in SIDES:
        connections[name], its_end = spawn.Pipe()
        spawn.Process(target=contend, args=(case, name, its_end), daemon=True).start()
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
        "batch": list(batch[0].shape),
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


def stretched(batch: tuple, height: int, width: int) -> tuple:
    """The batch with its pictures resized to this shape; boxes are fractions and stay."""
    images, _, targets = batch
    images = F.interpolate(images, (height, width), mode="bilinear")
    return images, torch.zeros(len(images), height, width, dtype=torch.bool), targets


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
    shape = " x ".join(map(str, case["batch"]))
    print(f"{preset}, batch {shape}, {case['objects']} objects; largest difference of an answer "
          f"{case['max_difference']:.1e}")  # fmt: skip
    for name, times in case["seconds"].items():
        phases = ", ".join(f"{p} {1000 * s:.0f}" for p, s in case["phases"][name].items())
        print(f"  {name:7} {case['steps_per_second'][name]:6.2f} steps/s "
              f"({1 / max(times):.2f} to {1 / min(times):.2f}); ms: {phases}")  # fmt: skip
    print(f"  ours is {case['ratio']}x as fast")
    for part, share in case["ours_by_part"].items():
        print(f"  {share:6.1%} of our time: {part}")


def plot(results: dict, path: Path) -> None:
    """A bar for each side of each case, cut into its phases, theirs being 1."""
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
                axis.barh(y, share, 0.8, left, color=colour, hatch=hatch, edgecolor="white",
                          label=phase if y == 0 else None)  # fmt: skip
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
        "machine": machine(), "transformers": transformers.__version__,
        "threads": torch.get_num_threads(), "cases": {},
    }  # fmt: skip
    out = arguments.out.with_suffix(".json")
    if out.exists():  # cases that are not asked for stay as they were
        results["cases"] = json.loads(out.read_text())["cases"]
    for preset in arguments.cases:
        results["cases"][preset] = measure(preset, arguments.rounds)
        show(preset, results["cases"][preset])
    results["machine"]["load_after"] = load()
    out.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
