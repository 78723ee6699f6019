"""Average precision against minutes: Deformable DETR, DETR and torchvision's Faster R-CNN.

    uv run python benchmarks/curves.py [--minutes 10] [--every 2]

All three start from random weights and go through the same loop: the same generated scenes in the
same order, batch 8, pictures of 192 to 224 px, as many minutes (evaluations not counted), the same
held-out scenes, COCO's AP. All have the tiny backbone. The two DETRs are learned as `ddetr train`
does it. So is Faster R-CNN, with its own losses and at the best of the learning rates tried for it;
its anchors, proposals and heads are made to suit such scenes.

A method that the JSON already holds for as many minutes is not run again. Writes
benchmarks/results/curves.json and curves.png.
"""

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from ddetr_edu.bench import load, machine
from ddetr_edu.data import held_out_scenes
from ddetr_edu.detector import PictureSize, to_floats
from ddetr_edu.detector.backbone import TinyBackbone
from ddetr_edu.training import TrainConfig, evaluate
from ddetr_edu.training.batches import Seeded, open_batches
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.learner import Learner
from ddetr_edu.training.memory import keep_freed_memory
from ddetr_edu.training.optim import OptimConfig, build_optimizer, set_rate
from ddetr_edu.training.prepare import (
    build_detector,
    build_schedule,
    open_datasets,
    pick_optim,
    pick_workers,
)
from ddetr_edu.viz.style import COLOURS, NotebookFigure

METHODS = {
    "Deformable DETR": dict(preset="tiny_two_stage"),
    "DETR": dict(preset="detr_tiny", optim=OptimConfig(lr=5e-4)),
    # After 120 steps: AP 6.4 with 5e-4, 8.7 with 1e-3, 10.0 with 2e-3.
    "Faster R-CNN": dict(optim=OptimConfig(lr=2e-3)),
}
KEPT = ("AP", "AP50", "AP_S", "AP_M", "AP_L")


class TinyPyramid(nn.Module):
    """The tiny backbone and torchvision's feature pyramid: 128 channels at strides 8, 16 and 32."""

    out_channels = 128

    def __init__(self):
        super().__init__()
        self.backbone = TinyBackbone()
        # From random weights a pyramid needs norms; ours has them in the same place.
        self.pyramid = FeaturePyramidNetwork(
            list(TinyBackbone.channels), self.out_channels, norm_layer=lambda c: nn.GroupNorm(32, c)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid(OrderedDict(zip("012", self.backbone(images), strict=True)))


class ShapesFasterRCNN(nn.Module):
    """torchvision's Faster R-CNN, and the names of its classes.

    Shapes are 8 to 100 px long, and no more than 8 in a picture: anchors of 10 to 100 px, in steps
    of 1.6, and fewer proposals than for COCO. As in the DETRs, a low score is no reason to leave a
    detection out. The box head is as much narrower than torchvision's as the backbone is.
    """

    def __init__(self, categories: dict[int, str], size: PictureSize):
        super().__init__()
        self.categories = categories  # labels 1 to 6; 0 is torchvision's background
        pyramid = TinyPyramid()
        self.model = FasterRCNN(
            pyramid,
            min_size=size.short_side,
            max_size=size.long_side,
            rpn_anchor_generator=AnchorGenerator(
                ((10, 16), (26, 40), (64, 100)), ((0.5, 1.0, 2.0),) * 3
            ),
            rpn_pre_nms_top_n_train=500,
            rpn_pre_nms_top_n_test=500,
            rpn_post_nms_top_n_train=200,
            rpn_post_nms_top_n_test=200,
            box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
            box_head=TwoMLPHead(pyramid.out_channels * 7 * 7, 256),
            box_predictor=FastRCNNPredictor(256, len(categories) + 1),
            box_batch_size_per_image=64,
            box_score_thresh=0.001,
        )

    def forward(self, images: list[Tensor], targets: list[dict] | None = None):
        return self.model(images, targets)


def faster_rcnn_step(detector: nn.Module, optim: OptimConfig) -> Callable:
    """A training step of torchvision's detector, called like `Learner.step`."""
    optimizer = build_optimizer(detector, optim)

    def step(batches: list, number: int, progress: float) -> None:
        ((images, targets),) = batches
        set_rate(optimizer, number, progress, optim)
        wanted = [
            {name: t[name].as_subclass(Tensor) for name in ("boxes", "labels")} for t in targets
        ]
        optimizer.zero_grad()
        sum(detector([to_floats(image) for image in images], wanted).values()).backward()
        nn.utils.clip_grad_norm_(detector.parameters(), optim.clip)
        optimizer.step()

    return step


def run(settings: dict, minutes: float, every: float, n_scenes: int) -> dict:
    """Train for so many minutes; evaluate each `every` minutes and at the end."""
    config = TrainConfig(**settings, minutes=minutes, device="cpu")
    training_set, _ = open_datasets(config)
    workers = pick_workers(config)
    scenes = held_out_scenes().first(n_scenes)
    torch.manual_seed(config.seed)
    if config.preset:
        detector = build_detector(config, training_set.categories)
        step = Learner(detector, pick_optim(config)).step
    else:
        detector = ShapesFasterRCNN(training_set.categories, config.size)
        step = faster_rcnn_step(detector, pick_optim(config))
    schedule = build_schedule(config, training_set)
    batches = open_batches(Seeded(training_set, config.seed), schedule.batches_from(0), workers)
    clock, points = Clock(minutes, None), []
    detector.train()
    clock.start()
    while clock.progress < 1:
        step([next(batches)], clock.step + 1, clock.progress)
        clock.tick(torch.device("cpu"))
        if clock.minutes >= every * (len(points) + 1) or clock.progress == 1:
            with clock.paused():
                metrics, _ = evaluate(detector, scenes, config.batch, False, workers)
            point = {"minutes": round(clock.minutes, 3), "step": clock.step}
            points.append(point | {name: round(metrics[name], 4) for name in KEPT})
            print(f"  {clock.minutes:5.1f} minutes, step {clock.step}: AP {metrics['AP']:.3f}, "
                  f"AP50 {metrics['AP50']:.3f}", flush=True)  # fmt: skip
    weights = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    return {"minutes": minutes, "weights": weights, "lr": pick_optim(config).lr, "points": points}


def plot(results: dict, path: Path) -> None:
    """AP of each method as it went, from nothing at minute 0."""
    figure = NotebookFigure(7, 4)
    axis = figure.subplots()
    best = max(p["AP"] for method in results["methods"].values() for p in method["points"])
    looks = zip(COLOURS, ("o-", "s--", "^-."), results["methods"].items(), strict=False)
    for colour, style, (name, method) in looks:
        points = [(0, 0), *((p["minutes"], 100 * p["AP"]) for p in method["points"])]
        label = f"{name}: {points[-1][1]:.1f} after {method['points'][-1]['step']} steps"
        axis.plot(*zip(*points, strict=True), style, color=colour, label=label)
    about = results["machine"]
    axis.set(
        xlabel=f"minutes of training on {about['cores']} cores of an {about['processor']}",
        ylabel=f"AP on {results['scenes']} held-out scenes",
        xlim=(0, None),
        ylim=(0, min(140 * best, 100)),  # room for the legend
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="upper left")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=2, help="minutes between evaluations")
    parser.add_argument("--scenes", type=int, default=200, help="held-out scenes to evaluate on")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--lr", type=float, help="another learning rate, to try it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/curves"))
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # both as `ddetr train` does
    keep_freed_memory()
    out = arguments.out.with_suffix(".json")
    done = json.loads(out.read_text())["methods"] if out.exists() else {}
    done = {name: method for name, method in done.items() if method["minutes"] == arguments.minutes}
    results = {"machine": machine(), "scenes": arguments.scenes, "methods": done}
    for name in arguments.only:
        if name in done and not arguments.lr:
            continue
        print(name, flush=True)
        changes = {"optim": OptimConfig(lr=arguments.lr)} if arguments.lr else {}
        done[name] = run(
            METHODS[name] | changes, arguments.minutes, arguments.every, arguments.scenes
        )
        results["machine"]["load_after"] = load()
        out.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
