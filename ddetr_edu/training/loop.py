"""The training loop: batches in; checkpoints, a log and a picture of its curves out."""

from collections.abc import Iterator
from dataclasses import asdict

import torch
from tqdm.auto import tqdm

from ddetr_edu.training import distributed
from ddetr_edu.training.batches import STEP, Seeded, open_batches, seed_for
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.evaluate import check_dataset, evaluate
from ddetr_edu.training.learner import Learner
from ddetr_edu.training.memory import keep_freed_memory
from ddetr_edu.training.prepare import (
    build_detector,
    build_schedule,
    count_steps,
    open_datasets,
    pick_device,
    pick_optim,
    pick_workers,
)
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

LOG_EVERY = 10  # steps


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
    keep_freed_memory()
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
        say(about_model(str(config.start_from or config.preset or "tiny"), detector))
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
