"""What can be chosen for a training run: the flags of `ddetr train`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ddetr_edu.data.shapes import VAL_SEED_OFFSET
from ddetr_edu.detector import PictureSize
from ddetr_edu.detector.config import LookForward
from ddetr_edu.training.optim import OptimConfig


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector; leave checkpoints, metrics.jsonl and curves.png in a folder."""

    data: str = "shapes"  # a folder in COCO's layout, or "shapes": generated scenes without end
    preset: str | None = None  # the model: tiny (also if not given), tiny_two_stage, detr_tiny, ...
    start_from: Path | None = None  # or go on with a checkpoint's model and weights
    look_forward: LookForward | None = None  # how far back a box's loss teaches; else as the model
    denoising: int = 0  # noised copies of each object as extra queries in training; DN-DETR: 5
    out: Path = Path("runs/train")  # folder for everything the run leaves behind
    resume: bool = False  # go on with the run in that folder from its newest checkpoint

    minutes: float | None = None  # stop after this much training time (evaluation not counted)
    steps: int | None = None  # or stop after this many steps
    epochs: float | None = None  # or after this many passes over the training pictures

    batch: int = 8  # pictures at a time
    accumulate: int = 1  # batches whose gradients make one step
    size: PictureSize = field(default_factory=lambda: PictureSize(192, 224, multiple_of=32))
    augmentation: Literal["light", "official"] = "light"  # mirror; official: also cut out parts
    overfit: int | None = None  # learn this many training pictures by heart, evaluate on the same
    imagenet: bool = False  # start a ResNet from ImageNet weights (downloaded once)
    seed: int = 0  # of the weights, the order of the pictures and the augmentation
    recipe: Literal["auto", "fast", "official"] = "auto"  # of learning; auto: fast if tiny
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: float | None = None  # keep a moving average of the weights, such as 0.999, as the result

    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU where there is one
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the forward pass
    checkpoint_activations: bool = False  # less memory, more time: compute encoder layers twice
    workers: int | None = None  # processes that prepare batches; 0 or 1, with a GPU up to 8

    eval_every: int = 500  # steps between evaluations; one more comes at the end
    save_every: int | None = None  # steps between checkpoints; as eval_every if not given
    keep: int = 1  # older checkpoints kept beside the newest and the best
    tensorboard: bool = False  # write TensorBoard's files, too

    def __post_init__(self):
        if sum(x is not None for x in (self.minutes, self.steps, self.epochs)) != 1:
            raise ValueError(
                "say how long to train: give --minutes or --steps or --epochs, and only one of them"
            )
        for name in ("minutes", "steps", "epochs", "batch", "accumulate", "overfit", "eval_every",
                     "save_every"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:  # NaN is not above 0 either
                raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
        for name in ("preset", "imagenet"):
            if self.start_from is not None and getattr(self, name):
                raise ValueError(
                    f"--start-from and --{name} do not go together: the checkpoint says what the "
                    f"model is, and has its weights; leave out --{name}"
                )
        for name in ("workers", "keep", "denoising"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be 0 or more")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"--ema is {self.ema}; it must lie between 0 and 1, close to 1")
        if self.epochs is not None and self.data == "shapes" and not self.overfit:
            raise ValueError("generated scenes have no end, so --epochs says nothing: give --steps")
        if not 0 <= self.seed < VAL_SEED_OFFSET:
            raise ValueError(
                f"--seed is {self.seed}; it must lie in 0 to {VAL_SEED_OFFSET - 1}: higher ones "
                "draw the scenes that are held out for evaluation"
            )
