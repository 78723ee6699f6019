"""The exercises of lesson 17 about stated numbers, and about trials of an implementation.

That about an unknown attention is in `lesson_17_mystery`.
"""

import itertools
import math
from collections.abc import Callable

import torch

from ddetr_edu.course.claim import agrees as agrees_of_the_library
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.locating import RIGHT, WRONG, Locate


def my_agrees(stated, measured):
    """("19,891" or "27.0", a number) -> True if the number, rounded likewise, is the stated one"""
    stated = stated.replace(",", "")
    _, _, decimals = stated.partition(".")
    return round(measured, len(decimals)) == float(stated)


def _numbers() -> Cases:
    return {
        "a whole number": ("128", 128.0),
        "a whole number that is 56 too small": ("19,891", 19947.0),
        "one decimal, rounded down": ("27.0", 27.04),
        "one decimal, rounded up": ("29.0", 28.96),
        "one decimal, too far off": ("27.5", 27.56),
        "rounded up to a whole number": ("1,247", 1246.6875),
        "rounded down to a whole number": ("155", 155.4),
        "156 would be right": ("155", 155.84),
        "six decimals, rounded up": ("0.500667", 0.5 + 0.1 / 150),
        "six decimals, cut off": ("0.500666", 0.5 + 0.1 / 150),
        "negative": ("-4.595", -4.59512),
        "negative, cut off": ("-11.51", -11.5187),
        "near, but not to two decimals": ("8.11", 8.08),
        "one percent off": ("83,000", 83333.0),
        "one digit": ("0.7", 0.66),
        "two digits, the last one a zero": ("0.70", 0.66),
        "next to nothing": ("0.00", 0.004),
        "right to one digit more": ("2.50", 2.50004),
        "not quite nothing": ("0.00", 0.006),
        "off by less than a unit of the last digit": ("2.10", 2.107),
    }


def agrees_by(rounding: Callable, decimals_of: Callable | None = None) -> Callable:
    """Compare with a rounding of one's own.

    Args:
        rounding: A function (measured, decimals) -> the number to be compared.
        decimals_of: A function (stated, without commas) -> how many decimals; those after the point
            if None.

    Returns:
        A function (stated, measured) -> whether they agree.
    """
    count = decimals_of or (lambda stated: len(stated.partition(".")[2]))

    def answer(stated, measured):
        stated = stated.replace(",", "")
        return rounding(measured, count(stated)) == float(stated)

    return answer


def within(tolerance: Callable) -> Callable:
    """Compare with a tolerance.

    Args:
        tolerance: A function (stated number, its decimals) -> the largest difference.

    Returns:
        A function (stated, measured) -> whether they agree.
    """

    def answer(stated, measured):
        stated = stated.replace(",", "")
        number, decimals = float(stated), len(stated.partition(".")[2])
        return abs(measured - number) <= tolerance(number, decimals)

    return answer


def _cut_off(measured, decimals):
    return round(math.trunc(measured * 10**decimals) / 10**decimals, decimals)


def _rounded_up(measured, decimals):
    return round(math.ceil(measured * 10**decimals) / 10**decimals, decimals)


agrees = Exercise(
    my_agrees,
    _numbers,
    {
        "the two numbers have to be exactly equal; a stated number is rounded": agrees_by(
            lambda measured, decimals: measured
        ),
        "one percent of difference is allowed; what is allowed depends on the digits stated": (
            within(lambda number, decimals: 0.01 * abs(number))
        ),
        "digits are cut off; 1246.69 is rounded to 1,247": agrees_by(_cut_off),
        "numbers are always rounded up": agrees_by(_rounded_up),
        "decimals are not compared; 27.0 states one": within(lambda number, decimals: 0.5),
        "decimals are not counted: the number is rounded to a whole one": agrees_by(
            lambda measured, decimals: round(measured)
        ),
        "all characters of a number without a point count as decimals; 1,247 states none": (
            agrees_by(round, lambda stated: len(stated.split(".")[-1]))
        ),
        "decimals are counted in the float: 1,247 becomes 1247.0, and 0.70 becomes 0.7": (
            agrees_by(round, lambda stated: len(str(float(stated)).partition(".")[2]))
        ),
        "zeros at the end are not counted; 0.70 states two decimals": agrees_by(
            round, lambda stated: len(stated.partition(".")[2].rstrip("0"))
        ),
        "a whole unit of the last digit is allowed; half of one is what rounding can do": within(
            lambda number, decimals: 10**-decimals
        ),
        "one digit too many is compared": agrees_by(
            lambda measured, decimals: round(measured, decimals + 1)
        ),
        "one digit too few is compared": agrees_by(
            lambda measured, decimals: round(measured, decimals - 1)
        ),
        "the comma was taken for a decimal point; 19,891 is nearly twenty thousand": (
            lambda stated, measured: my_agrees(stated.replace(",", "."), measured)
        ),
        "True and False are the wrong way round": (
            lambda stated, measured: not my_agrees(stated, measured)
        ),
        "everything is accepted": lambda stated, measured: True,
    },
    library=(agrees_of_the_library,),
)


def my_trial(locate):
    """locate, a function (reference (2,), offset (2,), (H, W)) -> location (2,) -> is it right?"""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        height, width = torch.randint(2, 20, (2,), generator=generator).tolist()
        reference = torch.rand(2, generator=generator)
        offset = 5 * torch.randn(2, generator=generator)
        expected = reference + offset / torch.tensor([width, height])
        found = locate(reference, offset, (height, width))
        if (found - expected).abs().max() > 1e-4:
            return False
    return True


def _implementations() -> Cases:
    return {name: (locate,) for name, locate in {**RIGHT, **WRONG}.items()}


# A right trial differs from those below by the inputs that it tries: (H, W), (x, y) and (dx, dy).
SHAPES, REFERENCES = ((4, 7), (9, 3)), ((0.3, 0.6), (0.8, 0.45))
OFFSETS = ((1.25, 0.4), (-3.3, 2.0), (6.0, -9.5))


def trial_with(
    shapes=SHAPES, references=REFERENCES, offsets=OFFSETS, atol: float = 1e-5, axes=(0, 1)
) -> Callable[[Locate], bool]:
    """A trial that tries certain inputs.

    Args:
        shapes: (H, W) of the maps.
        references: (x, y).
        offsets: (dx, dy).
        atol: The largest difference that is allowed.
        axes: Which of x and y are compared.

    Returns:
        A function: locate -> whether it passes for all combinations.
    """

    def trial(locate):
        for (height, width), reference, offset in itertools.product(shapes, references, offsets):
            start, step = torch.tensor(reference), torch.tensor(offset)
            expected = start + step / torch.tensor([width, height])
            off = (locate(start, step, (height, width)) - expected).abs()
            if any(off[axis] > atol for axis in axes):
                return False
        return True

    return trial


def _by_height_and_width(locate: Locate) -> bool:
    """The trial of somebody who has the order wrong."""
    turned = lambda start, step, shape: locate(start, step, shape[::-1])  # noqa: E731
    return trial_with()(turned)


trial = Exercise(
    my_trial,
    _implementations,
    {
        "all your maps are square: there (W, H) and (H, W) are the same": trial_with(
            shapes=((4, 4), (9, 9))
        ),
        "all your maps are wider than high: try one that is higher than wide, too": trial_with(
            shapes=((4, 7), (3, 9))
        ),
        "all your maps are higher than wide: try one that is wider than high, too": trial_with(
            shapes=((7, 4), (9, 3))
        ),
        "all your offsets are zero: then it does not matter what becomes of them": trial_with(
            offsets=((0.0, 0.0),)
        ),
        "dx and dy are always equal: take different ones": trial_with(
            offsets=((1.25, 1.25), (-3.3, -3.3))
        ),
        "every reference point is the middle: take another": trial_with(references=((0.5, 0.5),)),
        "x and y of every reference point are equal: take different ones": trial_with(
            references=((0.3, 0.3), (0.8, 0.8))
        ),
        "all locations lie inside the map: let one fall outside": trial_with(
            offsets=((0.25, 0.4), (-0.3, 0.45))
        ),
        "all offsets are whole pixels: take fractions as well": trial_with(
            offsets=((1.0, 3.0), (-3.0, 2.0), (6.0, -9.0))
        ),
        "numbers have to be exactly equal: rounding alone makes a right one fail": trial_with(
            atol=0
        ),
        "too large a difference is allowed": trial_with(atol=0.2),
        "only x is compared": trial_with(axes=(0,)),
        "only y is compared": trial_with(axes=(1,)),
        "your own expectation divides by (H, W)": _by_height_and_width,
        "True and False are the wrong way round: True is for the right ones": (
            lambda locate: not my_trial(locate)
        ),
        "every implementation passes": lambda locate: True,
    },
)
