"""The exercises of lesson 11 about a step of training: clipping, and the learning rate.

Those about average precision are in `lesson_11_precision`, and the one about learning curves is in
`lesson_11_faults`.
"""

import math
from collections.abc import Callable

import torch

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.training.optim import set_lr


def my_clip(weight_grad, bias_grad, max_norm):
    """(weight_grad (a, b), bias_grad (b,), max_norm) -> both, together no longer than max_norm"""
    norm = (weight_grad.square().sum() + bias_grad.square().sum()).sqrt()
    factor = 1.0
    if norm > max_norm:
        factor = max_norm / norm
    return weight_grad * factor, bias_grad * factor


def my_learning_rate(step, n_steps, warmup_steps, lr):
    """(step from 1 to n_steps, n_steps, warmup_steps, the highest rate) -> the rate of this step"""
    progress = (step - 1) / n_steps
    factor = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
    if step < warmup_steps:
        factor = factor * step / warmup_steps
    return lr * factor


def clip_by(norm_of: Callable) -> Callable:
    """Clipping by another norm.

    Args:
        norm_of: A function (all numbers of both gradients (n,)) -> their norm.

    Returns:
        A function as `my_clip`.
    """

    def clip(weight_grad, bias_grad, max_norm):
        norm = norm_of(torch.cat([weight_grad.flatten(), bias_grad]))
        factor = min(1.0, max_norm / max(float(norm), 1e-12))
        return weight_grad * factor, bias_grad * factor

    return clip


def _each_alone(weight_grad, bias_grad, max_norm):
    clipped = clip_by(torch.linalg.vector_norm)
    nothing = torch.zeros(0, dtype=weight_grad.dtype)
    weight, _ = clipped(weight_grad, nothing, max_norm)
    _, bias = clipped(nothing, bias_grad, max_norm)
    return weight, bias


def _norm(weight_grad, bias_grad):
    return torch.cat([weight_grad.flatten(), bias_grad]).norm()


def _gradients() -> Cases:
    generator = torch.Generator().manual_seed(11)

    def random(rows: int, columns: int, scale: float, max_norm: float) -> tuple:
        weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        bias = torch.randn(columns, generator=generator, dtype=torch.float64)
        return scale * weight, scale * bias, max_norm

    def tensor(numbers) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.float64)

    weight, bias, _ = random(6, 3, 2.0, 0.5)
    return {
        "3 and 4: together the norm is 5": (tensor([[3.0]]), tensor([4.0]), 1.0),
        "short enough already": (*random(2, 5, 0.01, 1.5)[:2], 1.5),
        "exactly as long as allowed": (tensor([[1.0], [2.0]]), tensor([2.0]), 3.0),
        "a long gradient, many numbers": random(4, 7, 20.0, 0.1),
        "each is short enough alone, together they are not": (
            tensor([[0.6, 0.0, 0.0], [0.0, 0.0, 0.6], [0.0, 0.0, 0.0]]),
            tensor([0.0, 0.9, 0.0]),
            1.0,
        ),
        "no gradient at all": (tensor([[0.0] * 4] * 5), tensor([0.0] * 4), 0.25),
        "only the bias has a gradient, shorter than 1": (0 * weight, bias / bias.norm() / 2, 0.25),
        "only the weight has a gradient": (9 * random(7, 2, 1.0, 1.0)[0], tensor([0.0, 0.0]), 2.0),
        "a limit above 1": random(3, 6, 5.0, 4.0),
    }


clip = Exercise(
    my_clip,
    _gradients,
    {
        "each gradient was clipped by itself; there is one norm, of all numbers together": (
            _each_alone
        ),
        "short gradients were made longer; clipping only shortens": lambda weight, bias, limit: (
            weight * limit / _norm(weight, bias),
            bias * limit / _norm(weight, bias),
        ),
        "each number was clipped by itself, which changes the gradient's direction": (
            lambda weight, bias, limit: (weight.clamp(-limit, limit), bias.clamp(-limit, limit))
        ),
        "the root of the sum of squares is missing": clip_by(lambda g: g.square().sum()),
        "absolute values were added up; the norm is the root of the sum of squares": clip_by(
            lambda g: g.abs().sum()
        ),
        "the norm was taken to be the largest number": clip_by(lambda g: g.abs().max()),
        "squares were averaged; the norm has their sum": clip_by(
            lambda g: g.square().mean().sqrt()
        ),
        "the norms of both were added; add their squares, then take the root": (
            lambda weight, bias, limit: clip_by(lambda g: weight.norm() + bias.norm())(
                weight, bias, limit
            )
        ),
        "only the weight's gradient was measured": lambda weight, bias, limit: clip_by(
            lambda g: weight.norm()
        )(weight, bias, limit),
        "the weight's gradient was clipped, but not the bias's": lambda weight, bias, limit: (
            my_clip(weight, bias, limit)[0],
            bias,
        ),
        "nothing was clipped": lambda weight, bias, limit: (weight, bias),
        "long gradients were given the norm 1 instead of max_norm": lambda weight, bias, limit: (
            tuple(my_clip(weight, bias, 1.0) if _norm(weight, bias) > limit else (weight, bias))
        ),
        "the gradients were divided by max_norm, too; the factor is max_norm / norm": (
            lambda weight, bias, limit: tuple(
                g / limit if _norm(weight, bias) > limit else g
                for g in my_clip(weight, bias, limit)
            )
        ),
    },
    results=("weight gradient", "bias gradient"),
)


def rate_by(decay: Callable, warmup: Callable | None = None) -> Callable:
    """Learning rates by rules of one's own.

    Args:
        decay: A function (progress of the run from 0 to 1) -> factor.
        warmup: A function (step, warmup_steps) -> factor; the right one if None.

    Returns:
        A function as `my_learning_rate`.
    """
    warmup = warmup or _warm_up

    def rate(step, n_steps, warmup_steps, lr):
        return lr * decay((step - 1) / n_steps) * warmup(step, warmup_steps)

    return rate


def _warm_up(step: int, warmup_steps: int) -> float:
    return min(1.0, step / max(warmup_steps, 1))


def _cosine(progress: float) -> float:
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def _warm_up_alone(step, n_steps, warmup_steps, lr):
    """Before the last step of the warm-up there is no decay yet."""
    if step < warmup_steps:
        return lr * step / warmup_steps
    return lr * _cosine((step - 1) / n_steps)


def _whole_warm_up_alone(step, n_steps, warmup_steps, lr):
    """Nor is there any in the last step of the warm-up."""
    if step == warmup_steps:
        return lr
    return _warm_up_alone(step, n_steps, warmup_steps, lr)


def _decay_after_warm_up(step, n_steps, warmup_steps, lr):
    """The cosine begins where the warm-up ends."""
    progress = max(step - 1 - warmup_steps, 0) / max(n_steps - warmup_steps, 1)
    return lr * _cosine(progress) * _warm_up(step, warmup_steps)


def _steps_of_a_run() -> Cases:
    # (step, n_steps, warmup_steps, lr)
    return {
        "the first step, no warm-up": (1, 8, 0, 1.0),
        "half of the run": (6, 10, 2, 1.0),
        "the first step of a warm-up": (1, 40, 4, 2.0),
        "in the middle of a warm-up": (5, 200, 10, 1.0),
        "the last step of a warm-up": (12, 100, 12, 0.5),
        "the step after a warm-up": (8, 30, 7, 4.0),
        "the last step of a long run": (1000, 1000, 50, 3.0),
        "the last step of a short run": (4, 4, 1, 1.5),
        "a third of the run": (21, 60, 3, 1.0),
        "nine tenths of the run": (91, 101, 5, 2.5),
        "a warm-up of half the run": (15, 50, 25, 1.0),
        "a run of one step": (1, 1, 0, 0.25),
        "a warm-up longer than the run": (9, 9, 90, 6.0),
    }


learning_rate = Exercise(
    my_learning_rate,
    _steps_of_a_run,
    {
        "there is no warm-up": rate_by(_cosine, lambda step, warmup_steps: 1.0),
        "steps count from 1: the first step of a warm-up must not have the rate 0": rate_by(
            _cosine,
            lambda step, warmup_steps: _warm_up(step - 1, warmup_steps) if warmup_steps else 1,
        ),
        "there is no cosine yet during your warm-up; the two factors are multiplied": (
            _warm_up_alone
        ),
        "there is no cosine up to the end of your warm-up; the two factors are multiplied": (
            _whole_warm_up_alone
        ),
        "the rate was cut off at a hundredth; the whole cosine runs between 0.01 and 1": (
            rate_by(lambda progress: max(0.01, (1 + math.cos(math.pi * progress)) / 2))
        ),
        "the cosine begins only after the warm-up; it runs over the whole run": (
            _decay_after_warm_up
        ),
        "the rate falls to 0 instead of a hundredth": rate_by(
            lambda progress: (1 + math.cos(math.pi * progress)) / 2
        ),
        "the cosine was not moved up and halved, so that rates become negative": rate_by(
            lambda progress: math.cos(math.pi * progress)
        ),
        "the cosine runs through a whole turn, so that the rate rises again; half a turn is pi": (
            rate_by(lambda progress: _cosine(2 * progress))
        ),
        "the cosine runs through a quarter of a turn only; half a turn is pi": rate_by(
            lambda progress: 0.01 + 0.99 * math.cos(math.pi * progress / 2)
        ),
        "the decay is a straight line instead of a cosine": rate_by(
            lambda progress: 1 - 0.99 * progress
        ),
        "the rate falls once, in one step; that is the other schedule": rate_by(
            lambda progress: 0.1 if progress >= 0.8 else 1.0
        ),
        "the cosine was given the share of the run itself; half a turn is pi": rate_by(
            lambda progress: 0.01 + 0.99 * (1 + math.cos(progress)) / 2
        ),
        "the cosine was given degrees; math.cos takes radians": rate_by(
            lambda progress: 0.01 + 0.99 * (1 + math.cos(180 * progress)) / 2
        ),
        "before step 1 nothing of the run is over: progress is (step - 1) / n_steps": (
            lambda step, n_steps, warmup_steps, lr: (
                lr * _cosine(step / n_steps) * _warm_up(step, warmup_steps)
            )
        ),
        "the highest rate is missing as a factor": lambda step, n_steps, warmup_steps, lr: (
            my_learning_rate(step, n_steps, warmup_steps, 1.0)
        ),
    },
    library=(set_lr,),
)
