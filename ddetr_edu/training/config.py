"""What can be chosen for a training run: the flags of `ddetr train`."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from ddetr_edu.data.scenes import VAL_SEED_OFFSET
from ddetr_edu.models.config import ClassLoss, LookForward, Precision, ResizeConfig

Schedule = Literal["cosine", "step"]
Augmentation = Literal["light", "official"]


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser's settings. Those left out (None) are taken from the recipe.

    A tiny model that does not learn usually has too low a learning rate. The exception is
    detr_tiny, which needs --optim.lr 5e-4; the official DETR uses 1e-4.
    """

    lr: float | None = None  # the highest learning rate; fast: 2e-3, official: 2e-4
    # the backbone's multiple of lr; fast: 1, official: 0.1, and 0.1 if pretrained
    backbone_lr_mult: float | None = None
    beta2: float | None = None  # AdamW's second beta; fast: 0.99, official: 0.999
    weight_decay: float | None = None  # AdamW's weight decay; both recipes: 1e-4
    # whether biases and norms have weight decay, too; fast: no, official: yes
    decay_bias_and_norm: bool | None = None
    # steps of linear warm-up, at most a twentieth of the run; fast: 100, official: 0
    warmup_steps: int | None = None
    schedule: Schedule | None = None  # fast: cosine; official: step, x 0.1 after 4/5
    max_grad_norm: float | None = None  # gradients are clipped to this norm; both recipes: 0.1

    def __post_init__(self):
        check_choices(self, "--optim.")
        for name in ("lr", "backbone_lr_mult"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # NaN is not above 0 either
                flag = name.replace("_", "-")
                raise ValueError(f"--optim.{flag} is {value}; it must be a number above 0")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:  # inf: no clipping
            raise ValueError(f"--optim.max-grad-norm is {self.max_grad_norm}; it must be above 0")
        if self.beta2 is not None and not 0 <= self.beta2 < 1:
            raise ValueError(f"--optim.beta2 is {self.beta2}; it must lie in [0, 1)")
        for name in ("weight_decay", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                flag = name.replace("_", "-")
                raise ValueError(f"--optim.{flag} is {value}; it must be a number, 0 or more")
        if self.decay_bias_and_norm and self.weight_decay == 0:
            raise ValueError(
                "--optim.decay-bias-and-norm has no effect with --optim.weight-decay 0; leave out "
                "one of them"
            )

    def filled(self, recipe: str) -> "FilledOptimConfig":
        """The same settings, with every None taken from a recipe.

        Args:
            recipe: "fast" or "official".

        Returns:
            Settings without None.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(RECIPES[recipe], **given)


@dataclass(frozen=True)
class FilledOptimConfig:
    """The settings of an OptimConfig, none of them left out."""

    lr: float
    backbone_lr_mult: float
    beta2: float
    weight_decay: float
    decay_bias_and_norm: bool
    warmup_steps: int
    schedule: Literal["cosine", "step"]
    max_grad_norm: float


RECIPES = {
    # for a small model, in minutes
    "fast": FilledOptimConfig(
        lr=2e-3,
        backbone_lr_mult=1.0,
        beta2=0.99,
        weight_decay=1e-4,
        decay_bias_and_norm=False,
        warmup_steps=100,
        schedule="cosine",
        max_grad_norm=0.1,
    ),
    # for a ResNet pretrained on ImageNet and 32 images a step; main.py of the official code
    "official": FilledOptimConfig(
        lr=2e-4,
        backbone_lr_mult=0.1,
        beta2=0.999,
        weight_decay=1e-4,
        decay_bias_and_norm=True,
        warmup_steps=0,
        schedule="step",
        max_grad_norm=0.1,
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector; write checkpoints, metrics.jsonl and curves.png to a folder."""

    data: str = "shapes"  # a folder in COCO's layout, or "shapes" for generated scenes
    preset: str | None = None  # the model: tiny (the default), tiny_two_stage, r50, detr_tiny, ...
    backbone: str | None = None  # replaces the preset's: resnet18, timm/tf_efficientnet_lite0, ...
    start_from: Path | None = None  # fine-tune this checkpoint instead of a preset
    look_forward: LookForward | None = None  # gradient through box refinement; None: the model's
    denoising: int = 0  # groups of denoising queries, at most; DN-DETR uses 5; 0 for none
    # varifocal: a matched query's class score learns how well its box fits, instead of 1
    class_loss: ClassLoss = "focal"
    # the folder for checkpoints, logs and curves; earlier runs in it are kept as run-1, run-2, ...
    out: Path = Path("runs/train")
    resume: bool = False  # continue the run in that folder from its newest checkpoint

    minutes: float | None = None  # stop after this much training time, evaluation not counted
    steps: int | None = None  # or stop after this many steps
    epochs: float | None = None  # or stop after this many epochs

    batch_size: int = 8  # images in a batch, for each process
    grad_accum_steps: int = 1  # batches whose gradients are added up for one step
    image_size: ResizeConfig = field(default_factory=lambda: ResizeConfig(192, 224, multiple_of=32))
    # light (the default): horizontal flips; official: also random crops, which a few hundred
    # photographs need
    augmentation: Augmentation | None = None
    strict: bool = False  # refuse a data set with a fault, instead of leaving out what is faulty
    overfit: int | None = None  # overfit this many training images, and evaluate on them
    imagenet: bool = False  # initialise the backbone with ImageNet parameters, downloaded once
    backbone_weights: Path | None = None  # or with those of this .safetensors file
    # freeze a timm backbone's norms and first layers; None: if it is pretrained
    frozen_norms: bool | None = None
    # keep the pretrained backbone and the statistics of its norms as they are
    freeze: Literal["backbone"] | None = None
    freeze_steps: int | None = None  # only for the first so many steps; None: for the whole run
    seed: int = 0  # seed of the initial parameters, the image order and the augmentation
    recipe: Literal["auto", "fast", "official"] = "auto"  # optimiser defaults; auto: by preset
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: float | None = None  # decay of a moving average of the parameters, such as 0.999

    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one
    # precision of the forward pass; auto: bf16 if the device has instructions for it, else fp32
    precision: Precision = "fp32"
    checkpoint_activations: bool = False  # recompute encoder layers: less memory, more time
    # threads of the processor; None: one for each core that other programs leave free
    threads: int | None = None
    workers: int | None = None  # data loading processes; None: 0 or 1, with a GPU up to 8

    eval_every: int = 500  # steps between evaluations; another one follows at the end
    save_every: int | None = None  # steps between checkpoints; None: as --eval-every
    keep_checkpoints: int = 1  # older checkpoints to keep beside the newest and the best
    # steps between logging which queries 16 validation images' objects have; None: never
    log_matches: int | None = None
    tensorboard: bool = False  # also write TensorBoard files

    def __post_init__(self):
        check_choices(self, "--")
        if sum(x is not None for x in (self.minutes, self.steps, self.epochs)) != 1:
            raise ValueError(
                "say how long to train: give --minutes or --steps or --epochs, and only one of them"
            )
        for name in (
            "minutes",
            "steps",
            "epochs",
            "batch_size",
            "grad_accum_steps",
            "overfit",
            "freeze_steps",
            "eval_every",
            "save_every",
            "log_matches",
            "threads",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # NaN is not above 0 either
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}; it must be a number above 0")
        for name in ("preset", "backbone", "imagenet", "backbone_weights"):
            if self.start_from is not None and getattr(self, name):
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--start-from and --{flag} exclude each other: the checkpoint determines the "
                    f"model and has its parameters; leave out --{flag}"
                )
        if self.imagenet and self.backbone_weights is not None:
            raise ValueError(
                "--imagenet and --backbone-weights exclude each other: both are the parameters "
                "that the backbone starts from; leave out one of them"
            )
        self._check_freezing()
        for name in ("workers", "keep_checkpoints", "denoising"):
            if (getattr(self, name) or 0) < 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}; it must be 0 or more")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"--ema is {self.ema}; it must lie between 0 and 1, close to 1")
        if self.epochs is not None and self.data == "shapes" and not self.overfit:
            raise ValueError("generated scenes are endless, so there are no epochs: give --steps")
        if self.augmentation and (self.overfit or self.data == "shapes"):
            reason = "overfitting means training on unchanged images"
            if not self.overfit:
                reason = "generated scenes are never repeated, so none is changed"
            raise ValueError(f"--augmentation has no effect here: {reason}; leave it out")
        if self.strict and self.data == "shapes":
            raise ValueError("--strict has no effect on generated scenes, which have no faults")
        if not 0 <= self.seed < VAL_SEED_OFFSET:
            raise ValueError(
                f"--seed is {self.seed}; it must lie in 0 to {VAL_SEED_OFFSET - 1}: higher ones "
                "generate the scenes that are held out for evaluation"
            )

    @property
    def frozen_steps(self) -> float:
        """For how many steps the backbone is frozen; math.inf for all."""
        if self.freeze is None:
            return 0
        return math.inf if self.freeze_steps is None else self.freeze_steps

    def _check_freezing(self) -> None:
        if self.freeze is None:
            if self.freeze_steps is not None:
                raise ValueError(
                    "--freeze-steps says for how many steps something is frozen, and nothing is: "
                    "add --freeze backbone, or leave it out"
                )
            return
        if self.start_from is None and not self.imagenet and self.backbone_weights is None:
            raise ValueError(
                "--freeze backbone would keep random parameters, which have learned nothing; add "
                "--start-from, --imagenet or --backbone-weights, or leave it out"
            )
        if self.freeze_steps is None:
            for flag, value in (
                ("--frozen-norms", self.frozen_norms),
                ("--optim.backbone-lr-mult", self.optim.backbone_lr_mult),
            ):
                if value is not None:
                    raise ValueError(
                        f"{flag} has no effect on a backbone that is frozen for the whole run; "
                        "leave it out, or add --freeze-steps"
                    )


def check_choices(config: OptimConfig | TrainConfig, prefix: str) -> None:
    """Check the options that are one of several words, as the command line does by itself.

    Args:
        config: Whose fields of type Literal to check.
        prefix: Of the names of the options.

    Raises:
        ValueError: Naming the option and its choices.
    """
    for name, hint in get_type_hints(type(config)).items():
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        value = getattr(config, name)
        if literals and value is not None and value not in get_args(literals[0]):
            choices = ", ".join(get_args(literals[0]))
            flag = prefix + name.replace("_", "-")
            raise ValueError(f'{flag} is "{value}", which is not known; choose one of {choices}')
