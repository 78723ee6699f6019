"""Average precision against minutes: Deformable DETR, DETR and torchvision's Faster R-CNN.

    uv run python benchmarks/curves.py [--minutes 10] [--every 2]

All three start from random parameters and run through the same loop: the same generated scenes in
the same order, batches of 8, images of 192 to 224 px, the same training time (evaluations not
counted), the same held-out scenes, and COCO's AP. All have the tiny backbone. The two DETRs are
trained as `ddetr train` does it. So is Faster R-CNN, with its own losses and with the best of the
learning rates tried for it; its anchors, proposals and heads are chosen to suit such scenes.

A method that the JSON already holds for as many minutes is not run again. Writes
benchmarks/results/curves.json and curves.png.
"""

import argparse
import functools
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

from ddetr_edu.attention.benchmark import load_average, machine
from ddetr_edu.data.loading import DeterministicDataset, open_batches
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.models.backbone import TinyBackbone
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.preprocessing import to_floats
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.loop import train_step
from ddetr_edu.training.malloc import keep_freed_pages
from ddetr_edu.training.optim import build_optimizer, set_lr
from ddetr_edu.training.prepare import (
    build_detector,
    build_sampler,
    open_datasets,
    pick_optim,
    pick_workers,
)
from ddetr_edu.training.trainer import Trainer
from ddetr_edu.viz.style import COLOURS, NotebookFigure

METHODS: dict[str, dict] = {
    "Deformable DETR": dict(preset="tiny_two_stage"),
    "DETR": dict(preset="detr_tiny", optim=OptimConfig(lr=5e-4)),
    # After 120 steps: AP 6.4 with 5e-4, 8.7 with 1e-3, 10.0 with 2e-3.
    "Faster R-CNN": dict(optim=OptimConfig(lr=2e-3)),
}
METRICS = ("AP", "AP50", "AP_S", "AP_M", "AP_L")


class TinyPyramid(nn.Module):
    """The tiny backbone and torchvision's feature pyramid: 128 channels at strides 8, 16 and 32."""

    out_channels = 128

    def __init__(self):
        super().__init__()
        self.backbone = TinyBackbone()
        # To train from scratch a pyramid needs norms; the DETRs have them in the same position.
        self.pyramid = FeaturePyramidNetwork(
            list(TinyBackbone.channels), self.out_channels, norm_layer=lambda c: nn.GroupNorm(32, c)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid(OrderedDict(zip("012", self.backbone(images), strict=True)))


class ShapesFasterRCNN(nn.Module):
    """torchvision's Faster R-CNN, configured for generated scenes.

    Shapes are 8 to 100 px long, with at most 8 in an image, so there are anchors of 10 to 100 px,
    each 1.6 times the one before, and fewer proposals than for COCO. As in the DETRs, detections
    with low scores are kept. The box head is narrower than torchvision's, in proportion to the
    backbone.

    Args:
        categories: The name of each label, from 1; 0 is torchvision's background.
        size: The size that images are resized to.
    """

    def __init__(self, categories: dict[int, str], size: ResizeConfig):
        super().__init__()
        self.categories = categories
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
    """A training step of torchvision's detector, called like `train_step` without its trainer."""
    optimizer = build_optimizer(detector, optim)

    def step_once(batches: list, step: int, progress: float) -> None:
        ((images, targets),) = batches
        set_lr(optimizer, step, progress, optim)
        plain_targets = [
            {name: t[name].as_subclass(Tensor) for name in ("boxes", "labels")} for t in targets
        ]
        optimizer.zero_grad()
        sum(detector([to_floats(image) for image in images], plain_targets).values()).backward()
        nn.utils.clip_grad_norm_(detector.parameters(), optim.max_grad_norm)
        optimizer.step()

    return step_once


def run(settings: dict, minutes: float, every: float, n_scenes: int) -> dict:
    """Train one method, and evaluate it from time to time.

    Args:
        settings: Those of TrainConfig in which the methods differ.
        minutes: The training time.
        every: The minutes between evaluations; another one follows at the end.
        n_scenes: How many held-out scenes to evaluate on.

    Returns:
        The training time, the number of trainable parameters, the learning rate, and the metrics
        of each evaluation.
    """
    config = TrainConfig(**settings, minutes=minutes, device="cpu")
    training_set, _ = open_datasets(config)
    workers = pick_workers(config)
    scenes = held_out_scenes().first(n_scenes)
    torch.manual_seed(config.seed)
    if config.preset:
        detector = build_detector(config, training_set.categories)
        step_once = functools.partial(train_step, Trainer(detector, pick_optim(config)))
    else:
        detector = ShapesFasterRCNN(training_set.categories, config.image_size)
        step_once = faster_rcnn_step(detector, pick_optim(config))
    sampler = build_sampler(config, training_set)
    batches = open_batches(
        DeterministicDataset(training_set, config.seed), sampler.batches_from(0), workers
    )
    clock, points = Clock(minutes, None), []
    detector.train()
    clock.start()
    while clock.progress < 1:
        step_once([next(batches)], clock.step + 1, clock.progress)
        clock.tick(torch.device("cpu"))
        if clock.minutes >= every * (len(points) + 1) or clock.progress == 1:
            with clock.paused():
                metrics, _ = evaluate(
                    detector, scenes, config.batch_size, show_progress=False, workers=workers
                )
            point = {"minutes": round(clock.minutes, 3), "step": clock.step}
            points.append(point | {name: round(metrics[name], 4) for name in METRICS})
            print(
                f"  {clock.minutes:5.1f} minutes, step {clock.step}: AP {metrics['AP']:.3f}, "
                f"AP50 {metrics['AP50']:.3f}",
                flush=True,
            )
    return {
        "minutes": minutes,
        "n_parameters": sum(p.numel() for p in detector.parameters() if p.requires_grad),
        "lr": pick_optim(config).lr,
        "points": points,
    }


def plot(results: dict, path: Path) -> None:
    """Plot the AP of each method against training time, from 0 at minute 0."""
    figure = NotebookFigure(7, 4)
    axis = figure.subplots()
    best = max(p["AP"] for method in results["methods"].values() for p in method["points"])
    styles = zip(COLOURS, ("o-", "s--", "^-."), results["methods"].items(), strict=False)
    for colour, style, (name, method) in styles:
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
    parser.add_argument("--lr", type=float, help="try this learning rate instead")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/curves"))
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # this and the next line are as in `ddetr train`
    keep_freed_pages()
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
        results["machine"]["load_after"] = load_average()
        out.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
