"""The training loop: batches in; a checkpoint, a log and a picture of its curves out."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ddetr_edu.data import CocoDetection, Shapes, collate, held_out_scenes, light_augmentation
from ddetr_edu.data.shapes import VAL_SEED_OFFSET
from ddetr_edu.detector import (
    DETR,
    DETR_PRESETS,
    PRESETS,
    DeformableDETR,
    DeformableDETRConfig,
    DETRConfig,
    PictureSize,
    to_floats,
)
from ddetr_edu.detector.config import LookForward
from ddetr_edu.training.checkpoint import load, save
from ddetr_edu.training.denoising import Denoising
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.evaluate import check_dataset, evaluate
from ddetr_edu.training.optim import OptimConfig, build_optimizer, set_rate
from ddetr_edu.training.transfer import adopt_weights
from ddetr_edu.viz import plot_curves

ENDLESS = 1_000_000_000  # generated scenes, more than any run can use up
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector; leave a checkpoint, metrics.jsonl and curves.png in a folder."""

    data: str = "shapes"  # a folder in COCO's layout, or "shapes": generated scenes without end
    preset: str | None = None  # the model: tiny (also if not given), tiny_two_stage, detr_tiny, ...
    start_from: Path | None = None  # or go on with a checkpoint's model and weights
    look_forward: LookForward = "once"  # how far back the loss of a refined box teaches
    denoising: int = 0  # noised copies of each object as extra queries in training; DN-DETR: 5
    out: Path = Path("runs/train")  # folder for everything the run leaves behind
    minutes: float | None = None  # stop after this much training time (evaluation not counted)
    steps: int | None = None  # or stop after this many steps
    batch: int = 8  # pictures per step
    size: PictureSize = field(default_factory=lambda: PictureSize(192, 224))
    overfit: int | None = None  # learn this many training pictures by heart, evaluate on the same
    eval_every: int = 500  # steps between evaluations; one more comes at the end
    imagenet: bool = False  # start a ResNet from ImageNet weights (downloaded once)
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU where there is one
    seed: int = 0  # of the weights, the order of the pictures and the augmentation
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self):
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("say how long to train: give --minutes or --steps, and not both")
        for name in ("minutes", "steps", "batch", "overfit", "eval_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # NaN is not above 0 either
                raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
        for name in ("preset", "imagenet"):
            if self.start_from is not None and getattr(self, name):
                raise ValueError(
                    f"--start-from and --{name} do not go together: the checkpoint says what the "
                    f"model is, and has its weights; leave out --{name}"
                )
        if self.denoising < 0:
            raise ValueError(f"--denoising is {self.denoising}; 0 means none")
        if not 0 <= self.seed < VAL_SEED_OFFSET:
            raise ValueError(
                f"--seed is {self.seed}; it must lie in 0 to {VAL_SEED_OFFSET - 1}: higher ones "
                "draw the scenes that are held out for evaluation"
            )


class NonFiniteLoss(ValueError):
    """The loss or its gradient is infinite or NaN; going on would destroy the weights."""


class Clock:
    """How far a run has come, in steps and in minutes of training; evaluation is not counted."""

    def __init__(self, minutes: float | None, steps: int | None):
        self.step = 0
        self._most_minutes, self._most_steps = minutes, steps
        self._started = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._started) / 60

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end of the run."""
        if self._most_minutes is not None:
            return min(1.0, self.minutes / self._most_minutes)
        return min(1.0, self.step / self._most_steps)

    @contextmanager
    def paused(self) -> Iterator[None]:
        stopped = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - stopped


def train(config: TrainConfig) -> dict[str, float]:
    """Train as configured. Returns COCO's twelve numbers of the trained detector.

    Leaves in config.out: checkpoint.pt, metrics.jsonl (a line per ten steps and per evaluation),
    config.json and curves.png. Ctrl-C ends the training early and keeps all of it.

    Raises: DataError for a data set that cannot be used, ValueError for settings that do not go
        together, NonFiniteLoss if training diverges (the last checkpoint is kept), OSError for
        a folder that cannot be written to.
    """
    torch.manual_seed(config.seed)
    torch.set_flush_denormal(True)  # numbers next to zero slow a CPU down a hundredfold
    device = pick_device(config.device)
    training_set, validation_set = open_datasets(config)
    detector = build_detector(config, training_set.categories).to(device)
    check_dataset(detector, validation_set)  # now, not after the training
    optimizer = build_optimizer(detector, config.optim)

    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "config.json").write_text(json.dumps(asdict(config), default=str, indent=2))
    checkpoint = config.out / "checkpoint.pt"
    if checkpoint.exists():
        checkpoint.replace(config.out / "previous.pt")
        print(f"{config.out} holds an earlier run; its checkpoint is now previous.pt")
    log = config.out / "metrics.jsonl"
    log.write_text("")
    report(config, training_set, validation_set, detector, device)

    clock = Clock(config.minutes, config.steps)
    pictures = batches(training_set, config)
    bar = tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}{postfix}", desc="training")

    def save_and_evaluate() -> tuple[dict[str, float], str]:
        with clock.paused():
            save(checkpoint, detector, step=clock.step)  # first: it must not be lost
            metrics, table = evaluate(detector, validation_set, config.batch, progress=False)
            write_line(log, {"step": clock.step, "minutes": clock.minutes, **metrics})
            plot_curves(log, config.out / "curves.png")
        bar.write(f"step {clock.step}: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}")
        return metrics, table

    ending = "done"
    detector.train()
    try:
        while clock.progress < 1:
            images, targets = next(pictures)
            clock.step += 1
            losses = training_step(detector, optimizer, images, targets, clock, config.optim)
            if clock.step % LOG_EVERY == 0 or clock.step == 1:
                write_line(log, {"step": clock.step, "minutes": clock.minutes, **losses})
                bar.set_postfix_str(f"step {clock.step}, loss {losses['loss']:.2f}")
            bar.update(100 * clock.progress - bar.n)
            if clock.step % config.eval_every == 0 and clock.progress < 1:
                save_and_evaluate()
    except KeyboardInterrupt:
        ending = "stopped by the keyboard"
        bar.write("stopping: what has been learned so far is evaluated and saved")
    finally:
        bar.close()
    metrics, table = save_and_evaluate()
    print(table)
    print(
        f"{ending} after {clock.step} steps and {clock.minutes:.1f} minutes of training; "
        f"left in {config.out}: checkpoint.pt, metrics.jsonl, config.json, curves.png"
    )
    return metrics


def training_step(
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[dict],
    clock: Clock,
    config: OptimConfig,
) -> dict[str, float]:
    """One step: losses, gradients, clipping, update. Returns the losses as plain numbers.

    images: list of uint8 (3, H, W);  targets: as the data sets give them
    Raises: NonFiniteLoss, naming the pictures, before any weight is touched.
    """
    rate = set_rate(optimizer, clock.step, clock.progress, config.warmup_steps)
    device = next(detector.parameters()).device
    images = [to_floats(image).to(device) for image in images]
    wanted = [
        {name: target[name].as_subclass(Tensor).to(device) for name in ("boxes", "labels")}
        for target in targets
    ]
    losses = detector(images, wanted)
    loss = sum(losses.values())
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), config.clip)
    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
        ids = ", ".join(str(target["image_id"]) for target in targets)
        raise NonFiniteLoss(
            f"at step {clock.step} the loss is {loss.item():g} and its gradient {norm.item():g} "
            f"long, on the pictures with ids {ids}; checkpoints already written are kept: lower "
            "--optim.lr, or look at those pictures"
        )
    optimizer.step()
    last_layer = {name: losses[name].item() for name in ("loss_label", "loss_l1", "loss_giou")}
    return {"loss": loss.item(), **last_layer, "rate": rate, "gradient_norm": norm.item()}


def open_datasets(config: TrainConfig) -> tuple:
    """The training and the validation set that a run asks for.

    Learning by heart means no augmentation, and validation on the very same pictures.
    """
    if config.data == "shapes":
        training_set = Shapes(config.overfit or ENDLESS, seed=config.seed)
        validation_set = training_set if config.overfit else held_out_scenes()
        return training_set, validation_set
    if config.overfit:
        training_set = CocoDetection(config.data, "train").first(config.overfit)
        return training_set, training_set
    training_set = CocoDetection(config.data, "train", light_augmentation())
    if not len(training_set):
        raise ValueError(f"the train split of {config.data} has no picture to learn from")
    return training_set, CocoDetection(config.data, "val")


def build_detector(config: TrainConfig, categories: dict[int, str]) -> Detector:
    """A detector for these categories: fresh, or with the weights of config.start_from."""
    source, preset = None, config.preset or "tiny"
    if config.start_from is not None:
        source = load(config.start_from)
        known = source.model.config
    elif preset in PRESETS:
        known = DeformableDETRConfig.preset(preset)
    elif preset in DETR_PRESETS:
        known = DETRConfig.preset(preset)
    else:
        names = ", ".join([*PRESETS, *DETR_PRESETS])
        raise ValueError(f'preset "{preset}" does not exist; choose one of {names}')
    known = replace(known, num_classes=len(categories))
    if isinstance(known, DeformableDETRConfig):
        model = DeformableDETR(replace(known, look_forward=config.look_forward))
    elif config.denoising or config.look_forward != "once":
        raise ValueError(
            "--denoising and --look-forward are about reference boxes, and a DETR has none; leave "
            "them out, or choose a preset of Deformable DETR"
        )
    else:
        model = DETR(known)
    if source is not None:
        print(adopt_weights(model, categories, source))
    if config.imagenet:
        if not hasattr(model.backbone, "load_imagenet"):
            raise ValueError(
                f"--imagenet needs a ResNet, and the preset {config.preset or 'tiny'} has none; "
                "leave it out, or choose a preset with a ResNet such as r50"
            )
        model.backbone.load_imagenet()
    denoising = None
    if config.denoising:
        denoising = Denoising(known.num_classes, model.config.d_model, config.denoising)
    return Detector(model, categories, config.size, denoising=denoising)


def batches(dataset, config: TrainConfig) -> Iterator[tuple[list[Tensor], list[dict]]]:
    """Batches without end: pass after pass over the set, each in a new order.

    Generated scenes come in the order of their numbers: they are random already.
    """
    generator = torch.Generator().manual_seed(config.seed)
    in_order = len(dataset) == ENDLESS
    batch = min(config.batch, len(dataset))
    loader = DataLoader(
        dataset,
        batch,
        shuffle=not in_order,
        drop_last=True,
        collate_fn=collate,
        generator=generator,
    )
    for _ in count():
        yield from loader


def pick_device(name: str) -> torch.device:
    """The device of that name. Raises: ValueError if it is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device, for one, holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f'the device "{name}" cannot be used ({reason}); --device cpu always works'
        ) from None
    return device


def report(config: TrainConfig, training_set, validation_set, detector, device) -> None:
    """Say what is about to happen, so that a mistake shows before the time is spent."""
    weights = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    length = f"{config.minutes:g} minutes" if config.minutes else f"{config.steps} steps"
    names = list(detector.categories.values())
    pictures = "endless" if len(training_set) == ENDLESS else len(training_set)
    model = config.start_from or config.preset or "tiny"
    print(
        f"data     {config.data}: {pictures} pictures to learn from, {len(validation_set)} to "
        f"evaluate on{' (the same)' if validation_set is training_set else ''}\n"
        f"classes  {len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}\n"
        f"model    {model}, {weights / 1e6:.2f} million trainable weights\n"
        f"running  {length}, batch {config.batch}, pictures {config.size.short_side} to "
        f"{config.size.long_side} px, on {device}"
        + (f" with {torch.get_num_threads()} threads" if device.type == "cpu" else "")
    )


def write_line(log: Path, entry: dict) -> None:
    """Append one line to a log, whole."""
    rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in entry.items()}
    with log.open("a") as file:
        file.write(json.dumps(rounded) + "\n")
