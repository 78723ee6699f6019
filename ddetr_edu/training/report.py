"""What a run says about itself: at the start, and after its first steps."""

import sys

import torch
from tqdm.auto import tqdm

from ddetr_edu.training import distributed
from ddetr_edu.training.batches import Schedule
from ddetr_edu.training.clock import Clock
from ddetr_edu.training.detector import Detector


def say(text: str) -> None:
    """Print, once for all processes, and beside the progress bar."""
    if distributed.rank() == 0:
        tqdm.write(text)


def about_data(name: str, training_set, validation_set, schedule: Schedule) -> str:
    """What there is to learn from, in two lines."""
    pictures = "endless" if schedule.endless else len(training_set)
    same = " (the same)" if validation_set is training_set else ""
    names = list(training_set.categories.values())
    return (
        f"data     {name}: {pictures} pictures to learn from, {len(validation_set)} to evaluate "
        f"on{same}\n"
        f"classes  {len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    )


def about_model(preset: str, detector: Detector) -> str:
    """What learns, in one line."""
    weights = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    return (
        f"model    {preset}, {weights / 1e6:.2f} million trainable weights, pictures "
        f"{detector.size.short_side} to {detector.size.long_side} px"
    )


def about_run(clock: Clock, schedule: Schedule) -> str:
    """How long it learns, and from how much at a time, in one line."""
    if clock.most_steps is None:
        length = f"{clock.most_minutes:g} minutes"
    else:
        length = f"{clock.most_steps} steps"
        if not schedule.endless:
            passes = clock.most_steps / schedule.steps_per_pass
            length += f" ({passes:.3g} times through the pictures)"
    batch = f"batch {schedule.batch}"
    if schedule.accumulate > 1:
        batch += f", {schedule.accumulate} of them a step"
    if schedule.world_size > 1:
        batch += f", in each of {schedule.world_size} processes"
    return f"running  {length}, {batch}"


def about_device(device: torch.device, precision: str, workers: int) -> str:
    """What it runs on, in one line."""
    threads = ""
    if device.type == "cpu":
        count = torch.get_num_threads()
        threads = f" with {count} thread{'s' * (count != 1)}"
    helpers = f"{workers} worker{'s' * (workers != 1)}" if workers else "no worker"
    return f"on       {device}{threads} in {precision}, {helpers} preparing batches"


def forecast(clock: Clock, seconds: float, device: torch.device) -> str:
    """What the first steps tell: seconds a step, memory, minutes to the end."""
    memory = peak_memory(device)
    return (
        f"{seconds:.2f} s a step"
        + (f", {memory / 2**30:.1f} GiB of memory" if memory else "")
        + f", {clock.minutes_left(seconds):.1f} minutes to go (without evaluation)"
    )


def peak_memory(device: torch.device) -> int | None:
    """The most bytes this process has taken, on its GPU if it has one; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # Windows has none
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
