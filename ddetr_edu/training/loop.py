"""The training loop: batches in; checkpoints, a log and a picture of its curves out."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm

from ddetr_edu.data import (
    CocoDetection,
    Shapes,
    held_out_scenes,
    light_augmentation,
    official_augmentation,
)
from ddetr_edu.data.shapes import VAL_SEED_OFFSET
from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, PictureSize
from ddetr_edu.training import distributed
from ddetr_edu.training.batches import STEP, Schedule, Seeded, open_batches, seed_for
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.evaluate import check_dataset, evaluate
from ddetr_edu.training.learner import Learner
from ddetr_edu.training.optim import OptimConfig
from ddetr_edu.training.report import (
    about_data,
    about_device,
    about_model,
    about_run,
    forecast,
    say,
)
from ddetr_edu.training.run import Run, flat
from ddetr_edu.training.stopping import stop_requests

ENDLESS = 1_000_000_000  # generated scenes, more than any run can use up
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector; leave checkpoints, metrics.jsonl and curves.png in a folder."""

    data: str = "shapes"  # a folder in COCO's layout, or "shapes": generated scenes without end
    preset: str = "tiny"  # the model: tiny, r50, r50_refine, r50_single_scale, ...
    out: Path = Path("runs/train")  # folder for everything the run leaves behind
    resume: bool = False  # go on with the run in that folder from its newest checkpoint

    minutes: float | None = None  # stop after this much training time (evaluation not counted)
    steps: int | None = None  # or stop after this many steps
    epochs: float | None = None  # or after this many passes over the training pictures

    batch: int = 8  # pictures at a time
    accumulate: int = 1  # batches whose gradients make one step
    size: PictureSize = field(default_factory=lambda: PictureSize(192, 224))
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
    workers: int | None = None  # processes that prepare batches; 1, with a GPU up to 8

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
        for name in ("workers", "keep"):
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


def train(config: TrainConfig) -> dict[str, float]:
    """Train as configured. Returns COCO's twelve numbers of the trained detector.

    Leaves in config.out: checkpoint.pt and older ones, best.pt, metrics.jsonl (a line per ten steps
    and per evaluation), config.json and curves.png.

    With config.resume it goes on from the newest checkpoint, whatever ended the run. On a CPU the
    weights are then, bit for bit, those of a run that nothing ended, if its length was given in
    steps or epochs; with minutes, the learning rate follows the clock, which is never the same.

    Raises: DataError for a data set that cannot be used, ValueError for settings that do not go
        together or are not those of the run to resume, NonFiniteLoss if training diverges, OSError
        for a folder that is full or cannot be written to, KeyboardInterrupt after Ctrl-C or
        SIGTERM. Whichever it is, checkpoints already written are kept.
    """
    torch.set_flush_denormal(True)  # numbers next to zero slow a CPU down a hundredfold
    device = pick_device(config.device)
    with distributed.processes(device):
        training_set, validation_set = open_datasets(config)
        torch.manual_seed(config.seed)
        detector = build_detector(config, training_set.categories).to(device)
        check_dataset(detector, validation_set)  # now, not after the training
        learner = Learner(detector, pick_optim(config), config.precision, config.ema)
        schedule = build_schedule(config, training_set)
        clock = Clock(config.minutes, count_steps(config, schedule))
        settings = {**flat(asdict(config)), "processes": distributed.world_size()}
        run = Run(config.out, settings, config.keep, config.tensorboard)
        if config.resume and run.resume(learner, clock):
            say(f"going on with the run in {config.out} after step {clock.step}")
        else:
            run.begin()
        say(about_data(config.data, training_set, validation_set, schedule))
        say(about_model(config.preset, detector))
        say(about_run(clock, schedule))
        say(about_device(device, config.precision, pick_workers(config)))

        batches = open_batches(
            Seeded(training_set, config.seed), schedule.batches_from(clock.step),
            pick_workers(config), pin_memory=device.type == "cuda",
        )  # fmt: skip
        stopped = learn(config, learner, clock, run, batches, validation_set)
        run.save(learner, clock)
        so_far = f"after {clock.step} steps and {clock.minutes:.1f} minutes of training"
        if stopped:
            raise KeyboardInterrupt(
                f"stopped {so_far}; the same command with --resume goes on from here"
            )
        metrics, table = judge(config, learner, clock, run, validation_set)
        say(f"{table}\ndone {so_far}; left in {config.out}: checkpoint.pt, best.pt, "
            "metrics.jsonl, config.json, curves.png")  # fmt: skip
    return metrics


def learn(
    config: TrainConfig, learner: Learner, clock: Clock, run: Run, batches: Iterator, validation_set
) -> bool:
    """Step after step until the run is over, saving and evaluating now and then.

    Returns: whether somebody asked to stop.
    """
    if clock.step and clock.step % config.eval_every == 0 and clock.progress < 1:
        judge(config, learner, clock, run, validation_set)  # the run may have ended before it could
    bar = tqdm(
        total=100, initial=100 * clock.progress, desc="training", disable=distributed.rank() > 0,
        bar_format="{l_bar}{bar}| {elapsed}{postfix}",
    )  # fmt: skip
    first = clock.step + 1
    clock.start(clock.step, clock.minutes)  # all that came before is not training time
    stopping = False
    with stop_requests() as asked, bar:
        while clock.progress < 1 and not stopping:
            pictures = [next(batches) for _ in range(config.accumulate)]
            # Dropout and the like begin each step at a seed of its own: no state to carry along.
            torch.manual_seed(seed_for(STEP, config.seed, clock.step, distributed.rank()))
            losses = learner.step(pictures, clock.step + 1, clock.progress)
            clock.tick(learner.device)

            if clock.step == first:
                began = clock.minutes  # the first step is slower
            if clock.step == first + 10:
                say(forecast(clock, 60 * (clock.minutes - began) / 10, learner.device))
            if clock.step % LOG_EVERY == 0 or clock.step == 1:
                run.write({"step": clock.step, "minutes": clock.minutes, **losses})
                bar.set_postfix_str(f"step {clock.step}, loss {losses['loss']:.2f}")
            bar.update(100 * clock.progress - bar.n)
            if clock.step % (config.save_every or config.eval_every) == 0:
                with clock.paused():
                    run.save(learner, clock)
            if clock.step % config.eval_every == 0 and clock.progress < 1:
                judge(config, learner, clock, run, validation_set)
            (stopping,) = distributed.largest([asked.is_set()], learner.device)
    return bool(stopping)


def judge(
    config: TrainConfig, learner: Learner, clock: Clock, run: Run, validation_set
) -> tuple[dict[str, float], str]:
    """Save, evaluate, log. Returns COCO's numbers and table."""
    with clock.paused():
        run.save(learner, clock)  # first: it must not be lost
        distributed.take_buffers_of_first(learner.result)
        metrics, table = evaluate(
            learner.result, validation_set, config.batch, False, pick_workers(config)
        )
        run.evaluated(learner, clock, metrics)
    say(f"step {clock.step}: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}")
    return metrics, table


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
    augmentations = {"light": light_augmentation, "official": official_augmentation}
    training_set = CocoDetection(config.data, "train", augmentations[config.augmentation]())
    if not len(training_set):
        raise ValueError(f"the train split of {config.data} has no picture to learn from")
    return training_set, CocoDetection(config.data, "val")


def build_detector(config: TrainConfig, categories: dict[int, str]) -> Detector:
    """A fresh detector for these categories."""
    model = DeformableDETR(DeformableDETRConfig.preset(config.preset, num_classes=len(categories)))
    model.encoder.checkpoint_activations = config.checkpoint_activations
    if config.imagenet:
        if not hasattr(model.backbone, "load_imagenet"):
            raise ValueError(
                f"--imagenet needs a ResNet, and the preset {config.preset} has none; "
                "leave it out, or choose a preset with a ResNet such as r50"
            )
        model.backbone.load_imagenet()
    return Detector(model, categories, config.size)


def build_schedule(config: TrainConfig, training_set) -> Schedule:
    """Which pictures come when. A set smaller than a batch is taken whole."""
    everybody = config.accumulate * distributed.world_size()
    wide = None
    if hasattr(training_set, "sizes"):
        wide = [width > height for height, width in training_set.sizes()]
    return Schedule(
        n_pictures=len(training_set),
        batch=min(config.batch, max(len(training_set) // everybody, 1)),
        seed=config.seed,
        accumulate=config.accumulate,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        wide=wide,
        in_order=len(training_set) == ENDLESS,
    )


def count_steps(config: TrainConfig, schedule: Schedule) -> int | None:
    """The steps of the run; None if its length is given in minutes."""
    if config.epochs is None:
        return config.steps
    return max(round(config.epochs * schedule.steps_per_pass), 1)


def pick_optim(config: TrainConfig) -> OptimConfig:
    """The optimiser's settings, those not given from the recipe that suits the preset."""
    automatic = "fast" if config.preset.startswith("tiny") else "official"
    return config.optim.filled(automatic if config.recipe == "auto" else config.recipe)


def pick_workers(config: TrainConfig) -> int:
    """How many processes prepare batches, for each process that trains."""
    if config.workers is not None:
        return config.workers
    if not torch.cuda.is_available():
        return 1
    return max(1, min(8, (os.cpu_count() or 1) // distributed.world_size() - 1))


def pick_device(name: str) -> torch.device:
    """The device of that name. Raises: ValueError if it is unknown or not there."""
    if name == "auto":
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # torchrun gives each process its own
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device, for one, holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f'the device "{name}" cannot be used ({reason}); --device cpu always works'
        ) from None
    return device
