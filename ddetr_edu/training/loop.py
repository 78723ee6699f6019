"""The training loop: from batches to checkpoints, a log and a plot of its curves."""

from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict

import torch
from torch import nn

from ddetr_edu import distributed
from ddetr_edu.data.loading import STEP, DeterministicDataset, open_batches, seed_for
from ddetr_edu.evaluation.coco_metrics import check_dataset, detect, score, summarize
from ddetr_edu.evaluation.explain import describe_ap, explain
from ddetr_edu.progress import progress as progress_bar
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.contention import ThreadWatch, chosen_threads, has_fixed_threads
from ddetr_edu.training.logging import (
    describe_data,
    describe_device,
    describe_groups,
    describe_model,
    describe_run,
    estimate_eta,
    log0,
)
from ddetr_edu.training.malloc import keep_freed_pages
from ddetr_edu.training.match_log import match_entry
from ddetr_edu.training.optim import set_lr
from ddetr_edu.training.prepare import (
    build_detector,
    build_sampler,
    check_objects,
    count_steps,
    open_datasets,
    pick_device,
    pick_optim,
    pick_workers,
)
from ddetr_edu.training.run import Run
from ddetr_edu.training.settings import flatten_settings
from ddetr_edu.training.signals import stop_requests
from ddetr_edu.training.stagnation import LearningWatch
from ddetr_edu.training.trainer import Trainer

LOG_EVERY = 10  # steps
LOGGED = ("loss_label", "loss_l1", "loss_giou")  # of the last layer

Batch = tuple[list[torch.Tensor], list[dict]]  # (images, targets) as the data sets give them


def train_step(
    trainer: Trainer, batches: list[Batch], step: int, progress: float
) -> dict[str, float]:
    """Make one optimiser step, from the gradients of one or more batches.

    Whether images come in one batch, in several, or distributed over several processes, the
    gradient is the same (unless a batch norm computes statistics of its batch): each loss is a sum
    over images, divided by the number of objects in *all* of them.

    Args:
        trainer: What to train.
        batches: The batches of this step, images uint8 (3, H, W).
        step: Its number, from 1.
        progress: How much of the run is over, from 0 to 1.

    Returns:
        The losses, the learning rate and the norm of the gradient.

    Raises:
        NonFiniteLoss: Naming the images, before any parameter is changed.
    """
    trainer.freeze(step)
    lr = set_lr(trainer.optimizer, step, progress, trainer.optim)
    n_boxes = sum(len(target["labels"]) for _, targets in batches for target in targets)
    n_images = sum(len(images) for images, _ in batches)
    # Gradients are averaged over the processes, so each divides by the average number.
    num_boxes, num_images = distributed.all_reduce_mean([n_boxes, n_images], trainer.device)
    num_boxes = max(num_boxes, 1 / distributed.world_size())  # at least one object in all

    trainer.optimizer.zero_grad()
    sums = dict.fromkeys(("loss", *LOGGED), 0.0)
    zero = torch.zeros((), device=trainer.device)
    for number, (images, targets) in enumerate(batches, start=1):
        with nullcontext() if number == len(batches) else trainer.no_sync():
            losses = trainer.losses(images, targets, num_boxes, num_images)
            loss = sum(losses.values(), zero)
            trainer.scaler.scale(loss).backward()
        sums["loss"] += loss.item()
        for name in LOGGED:
            sums[name] += losses[name].item()
    trainer.scaler.unscale_(trainer.optimizer)
    grad_norm = nn.utils.clip_grad_norm_(
        trainer.detector.parameters(), trainer.optim.max_grad_norm
    ).item()
    means = distributed.all_reduce_mean(list(sums.values()), trainer.device)
    values = dict(zip(sums, means, strict=True))
    trainer.check_finite(values["loss"], grad_norm, batches, step)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    if trainer.average is not None:
        trainer.average.update_parameters(trainer.detector)
    return {**values, "lr": lr, "gradient_norm": grad_norm}


def train_loop(
    config: TrainConfig,
    trainer: Trainer,
    clock: Clock,
    run: Run,
    batches: Iterator,
    validation_set,
    learning: LearningWatch,
    max_threads: int,
) -> bool:
    """Step after step until the run is over, with checkpoints and evaluations in between.

    Args:
        config: The settings of the run.
        trainer: What to train.
        clock: At the step to continue from.
        run: Where to save and log.
        batches: From `open_batches`, config.grad_accum_steps for each step.
        validation_set: The images to evaluate on.
        learning: Which looks at every evaluation.
        max_threads: How many threads of the processor to use at most.

    Returns:
        Whether Ctrl-C or SIGTERM ended it early.

    Raises:
        NonFiniteLoss: If training diverges.
        OSError: If a file cannot be written.
    """
    if clock.step and clock.step % config.eval_every == 0 and clock.progress < 1:
        # A run that is resumed here may have been stopped before its evaluation.
        evaluate_and_log(config, trainer, clock, run, validation_set, learning)
    alone_on_cpu = trainer.device.type == "cpu" and distributed.world_size() == 1
    watch = ThreadWatch(max_threads if alone_on_cpu else 0, is_fixed=has_fixed_threads(config))
    first = clock.step + 1
    clock.start(clock.step, clock.minutes)  # what came before is not training time
    stopping = False
    bar = progress_bar(
        total=100,
        initial=100 * clock.progress,
        desc="training",
        disable=distributed.rank() > 0,
        bar_format="{l_bar}{bar}| {elapsed}{postfix}",
    )
    with stop_requests() as stop_requested, bar:
        while clock.progress < 1 and not stopping:
            step_batches = [next(batches) for _ in range(config.grad_accum_steps)]
            # A seed for each step: dropout and noise have no state that would have to be saved.
            torch.manual_seed(seed_for(STEP, config.seed, clock.step, distributed.rank()))
            values = train_step(trainer, step_batches, clock.step + 1, clock.progress)
            clock.tick(trainer.device)

            if clock.step == first:
                began = clock.minutes  # the first step is slower
            if clock.step == first + 10:
                log0(estimate_eta(clock, 60 * (clock.minutes - began) / 10, trainer.device))
            contention = watch.check(clock.step, clock.minutes)
            if contention is not None:
                log0(contention)
            if clock.step % LOG_EVERY == 0 or clock.step == 1:
                run.write({"step": clock.step, "minutes": clock.minutes, **values})
            if config.log_matches and clock.step % config.log_matches == 0:
                log_matches(trainer, clock, run, validation_set)
            bar.set_postfix_str(f"step {clock.step}, loss {values['loss']:.2f}", refresh=False)
            bar.update(100 * clock.progress - bar.n)
            if clock.step % (config.save_every or config.eval_every) == 0:
                with clock.paused():
                    run.save(trainer, clock)
            if clock.step % config.eval_every == 0 and clock.progress < 1:
                evaluate_and_log(config, trainer, clock, run, validation_set, learning)
            if clock.step == config.freeze_steps and clock.progress < 1:
                log0(f"step {clock.step}: from here on the backbone is trained as well")
            requests = distributed.all_reduce_max([stop_requested.is_set()], trainer.device)
            stopping = bool(requests[0])
    return stopping


def log_matches(trainer: Trainer, clock: Clock, run: Run, validation_set) -> None:
    """Log which queries the objects of some images have. Only process 0 does anything.

    Args:
        trainer: What is trained. Its detector is looked at, not the moving average of it.
        clock: At the current step.
        run: Where to log.
        validation_set: Whose first images are looked at.
    """
    if distributed.rank():
        return
    with clock.paused():
        entry = match_entry(trainer.detector, validation_set, run.lines())
        run.write({"step": clock.step, "minutes": clock.minutes, **entry})


def evaluate_and_log(
    config: TrainConfig,
    trainer: Trainer,
    clock: Clock,
    run: Run,
    validation_set,
    learning: LearningWatch,
) -> tuple[dict[str, float], str]:
    """Save a checkpoint, evaluate, and log. Every process must call this.

    Args:
        config: The settings of the run.
        trainer: What is trained.
        clock: At the current step.
        run: Where to save and log.
        validation_set: The images to evaluate on.
        learning: Which looks at every evaluation.

    Returns:
        COCO's twelve metrics, and its table as text.

    Raises:
        OSError: If a file cannot be written.
    """
    with clock.paused():
        run.save(trainer, clock)  # before the evaluation, which may fail
        distributed.broadcast_buffers(trainer.result)
        results = detect(
            trainer.result, validation_set, config.batch_size, False, pick_workers(config)
        )
        coco = score(results, validation_set)
        metrics, table = summarize(coco)
        run.log_evaluation(trainer, clock, metrics)
    log0(f"step {clock.step}: {describe_ap(metrics)}")
    warning = learning.check(clock.step, metrics, coco)
    if warning is not None:
        log0(warning)
    return metrics, table


def train(config: TrainConfig) -> dict[str, float]:
    """Train as configured.

    Leaves in config.out: checkpoint.pt and older ones, best.pt, metrics.jsonl (a line per ten steps
    and per evaluation), config.json and curves.png.

    With config.resume it continues from the newest checkpoint, whatever ended the run. On a CPU the
    parameters are then, bit for bit, those of an uninterrupted run with as many threads, if its
    length was given in steps or epochs; with minutes, the learning rate follows the clock, which is
    never the same.

    Args:
        config: The settings of the run.

    Returns:
        COCO's twelve metrics of the trained detector.

    Raises:
        DataError: For a data set that cannot be used.
        ValueError: For settings that contradict each other or those of the run to resume.
        NonFiniteLoss: If training diverges.
        OSError: For a folder that is full or cannot be written to.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    torch.set_flush_denormal(True)  # denormal numbers slow a CPU down a hundredfold
    keep_freed_pages()
    device = pick_device(config.device)
    with distributed.process_group(device), chosen_threads(config, device) as max_threads:
        training_set, validation_set = open_datasets(config)
        run = Run(
            config.out,
            flatten_settings(asdict(config))
            | {"processes": distributed.world_size(), "images": len(training_set)},
            config.keep_checkpoints,
            config.tensorboard,
        )
        resumed = run.checkpoint if config.resume and run.checkpoint.exists() else None
        torch.manual_seed(config.seed)
        detector = build_detector(config, training_set.categories, resumed).to(device)
        check_dataset(detector, validation_set)  # now, not after the training
        check_objects(training_set, validation_set, detector)
        optim = pick_optim(config)
        trainer = Trainer(detector, optim, config.precision, config.ema, config.frozen_steps)
        learning = LearningWatch(config, optim)
        sampler = build_sampler(config, training_set)
        clock = Clock(config.minutes, count_steps(config, sampler))
        with closing(run):
            if resumed is not None:
                run.resume(trainer, clock)
                log0(f"resuming the run in {config.out} after step {clock.step}")
            else:
                if config.resume:
                    log0(
                        f"{config.out} has no checkpoint to resume from: this run starts at step 1"
                    )
                run.begin()
            log0(describe_data(config.data, training_set, validation_set, sampler))
            log0(describe_model(str(config.start_from or config.preset or "tiny"), detector))
            log0(describe_groups(trainer))
            log0(describe_run(clock, sampler, config.batch_size))
            log0(describe_device(device, trainer.precision, pick_workers(config)))

            batches = open_batches(
                DeterministicDataset(training_set, config.seed),
                sampler.batches_from(clock.step),
                pick_workers(config),
                pin_memory=device.type == "cuda",
            )
            with closing(batches):  # stops the workers, also after an error
                stopped = train_loop(
                    config, trainer, clock, run, batches, validation_set, learning, max_threads
                )
            run.save(trainer, clock)
            so_far = f"after {clock.step} steps and {clock.minutes:.1f} minutes of training"
            if stopped:
                raise KeyboardInterrupt(
                    f"stopped {so_far}; the same command with --resume continues from here"
                )
            metrics, table = evaluate_and_log(config, trainer, clock, run, validation_set, learning)
            done = (
                f"done {so_far}; wrote to {config.out}: checkpoint.pt, best.pt, metrics.jsonl, "
                "config.json, curves.png"
            )
            log0("\n".join([table, *explain(metrics, validation_set), done]))
            if config.freeze_steps is not None and clock.step <= config.freeze_steps:
                log0(
                    f"the backbone was frozen throughout, since the run ended before step "
                    f"{config.freeze_steps + 1} (--freeze-steps)"
                )
    return metrics
