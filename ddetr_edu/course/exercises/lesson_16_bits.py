"""The exercise of lesson 16 about significant bits: what a number format does to a number."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise


def my_round_bits(x, bits):
    """(numbers (n,), bits) -> (n,), the nearest numbers with that many significant bits"""
    _, exponent = torch.frexp(x)  # 2 ** exponent is the first power of 2 above the absolute value
    step = 2.0 ** (exponent - bits)  # the distance of neighbouring numbers
    return (x / step).round() * step


def rounded_by(step_of: Callable, round_: Callable = torch.round) -> Callable:
    """Numbers rounded by rules of one's own.

    Args:
        step_of: A function (x, bits) -> the distance of neighbouring numbers.
        round_: To whole numbers.

    Returns:
        A function as `my_round_bits`.
    """

    def rounded(x, bits):
        step = step_of(x, bits)
        return round_(x / step) * step

    return rounded


def _step(x: Tensor, bits: int) -> Tensor:
    return torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - bits)


def _step_of_largest(x: Tensor, bits: int) -> Tensor:
    return _step(x.abs().max(), bits)


def _decimal_step(x: Tensor, digits: int) -> Tensor:
    size = x.abs().clamp(min=1e-30).log10().floor()
    return 10 ** (size + 1 - digits)


def _away_from_zero(x: Tensor) -> Tensor:
    return x.sign() * (x.abs() + 0.5).floor()


def _numbers() -> Cases:
    random = torch.Generator().manual_seed(0)
    numbers = {  # numbers, bits
        "one significant bit": ([1.625, 1.25, 3.5, 6.0], 1),
        "ties go to the even one": ([1.25, 1.75, 0.875], 2),
        "small and negative numbers": ([0.28125, -0.40625, 0.109375, -0.34375, 0.0], 2),
        "larger numbers": ([17.0, 13.0], 1),
        "zero, and numbers with that few bits already": ([0.0, 1.0, -2.0, 0.75, 96.0, -0.5], 3),
        "as many as bf16 has": (
            (200 * torch.rand(11, generator=random, dtype=torch.float64) - 100).tolist(),
            8,
        ),
        "as many as fp16 has": (torch.rand(7, generator=random, dtype=torch.float64).tolist(), 11),
        "one number": ([-7.0], 2),
    }
    return {
        name: (torch.tensor(values, dtype=torch.float64), bits)
        for name, (values, bits) in numbers.items()
    }


round_bits = Exercise(
    my_round_bits,
    _numbers,
    {
        "bits were cut off; the nearest number may lie above": rounded_by(_step, torch.trunc),
        "all were rounded down; the nearest number may lie above": rounded_by(_step, torch.floor),
        "all were rounded up; the nearest number may lie below": rounded_by(_step, torch.ceil),
        "these have that many bits after the point; significant bits begin at the first 1": (
            rounded_by(lambda x, bits: torch.tensor(2.0**-bits))
        ),
        "there is one bit too few; the first 1 is a significant bit, too": rounded_by(
            lambda x, bits: 2 * _step(x, bits)
        ),
        "there is one bit too many; the first 1 is a significant bit, too": rounded_by(
            lambda x, bits: _step(x, bits) / 2
        ),
        "all numbers got the step of the largest; each has its own": rounded_by(_step_of_largest),
        "these are significant decimal digits": rounded_by(_decimal_step),
        "halves were rounded away from zero; between two neighbours, take the even multiple": (
            rounded_by(_step, _away_from_zero)
        ),
        "halves were rounded up; between two neighbours, take the even multiple": rounded_by(
            _step, lambda multiples: (multiples + 0.5).floor()
        ),
        "a logarithm was taken of negative numbers, or of zero, which have none": rounded_by(
            lambda x, bits: 2.0 ** (torch.log2(x).floor() + 1 - bits)
        ),
        "zero became NaN: it has no logarithm, and needs no rounding": rounded_by(
            lambda x, bits: 2.0 ** (torch.log2(x.abs()).floor() + 1 - bits)
        ),
        "the exponent was rounded towards zero; below 1 it is negative: round it down": rounded_by(
            lambda x, bits: 2.0 ** (torch.log2(x.abs().clamp(min=1e-30)).trunc() + 1 - bits)
        ),
        "the exponent was rounded to the nearest whole number: round it down": rounded_by(
            lambda x, bits: 2.0 ** (torch.log2(x.abs().clamp(min=1e-30)).round() + 1 - bits)
        ),
        "the sign was lost": lambda x, bits: my_round_bits(x, bits).abs(),
        "these are multiples of the step, not numbers: multiply by it again": lambda x, bits: (
            x / _step(x, bits)
        ).round(),
    },
)
