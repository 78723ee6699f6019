"""An exercise: runs a learner's answer, says whether it is right and, if not, why.

An answer is run on several inputs of different shapes, random where they can be, and compared with
the reference solution. If it is wrong, it is also compared with the usual mistakes: one that gives
exactly the same wrong numbers is named.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SEEDS = range(5)
TOLERANCE = 1e-5  # answers may compute in fp32


class CheckResult(NamedTuple):
    """Whether an answer is right, and what to tell the learner."""

    passed: bool
    message: str  # one or two lines


@dataclass(frozen=True)
class Exercise:
    """A function for the learner to write, with everything that checking an answer needs."""

    solution: Callable  # the reference; its docstring is the signature that the learner is given
    make_inputs: Callable[[int], tuple]  # seed -> the arguments of one test case
    mistakes: dict[str, Callable]  # what to tell the learner -> a function that makes the mistake

    @property
    def signature(self) -> str:
        """The arguments and the result of the function to write, with their shapes."""
        return self.solution.__doc__ or ""

    def __call__(self, answer: Callable) -> None:
        """Check an answer and print the message.

        Args:
            answer: The learner's function.
        """
        print(self.check(answer).message)

    def check(self, answer: Callable) -> CheckResult:
        """Compare an answer with the solution and, if it is wrong, with the usual mistakes.

        Args:
            answer: The learner's function. It gets copies, so it may change its arguments.

        Returns:
            Whether the answer passed, and a message for the learner. Nothing that the answer
            raises gets out; it is part of the message.
        """
        cases = [self.make_inputs(seed) for seed in SEEDS]
        expected = self._results(self.solution, cases)
        actual = []
        for case, reference in zip(cases, expected, strict=True):
            try:
                result = answer(*copy_arguments(case))
            except NotImplementedError:
                message = "not attempted yet: write your answer above, then run both cells again"
                return CheckResult(False, message)
            except Exception as error:  # whatever it is, the learner should see it explained
                reason = f"your function raised {type(error).__name__}: {error}"
                return CheckResult(False, f"not yet: {reason}\nexpected: {self.signature}")
            try:
                tensor = to_float64(result)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                reason = "your function returned no number or tensor"
                return CheckResult(False, f"not yet: {reason}; expected: {self.signature}")
            if tensor.shape != reference.shape:
                shapes = f"{tuple(tensor.shape)}, but {tuple(reference.shape)}"
                message = f"not yet: the shape is {shapes} was expected: {self.signature}"
                return CheckResult(False, message)
            actual.append(tensor)

        difference = max_abs_difference(expected, actual)
        if difference <= TOLERANCE:
            message = f"passed: {len(cases)} cases, largest difference below {TOLERANCE:.0e}"
            return CheckResult(True, message)
        message = f"not yet: the largest difference is {difference:.3g}"
        for description, mistake in self.mistakes.items():
            mistaken = self._results(mistake, cases)
            if same_shapes(mistaken, actual) and max_abs_difference(mistaken, actual) <= TOLERANCE:
                return CheckResult(False, f"{message}\nit looks as if {description}")
        return CheckResult(False, message)

    @staticmethod
    def _results(function: Callable, cases: list[tuple]) -> list[Tensor]:
        return [to_float64(function(*copy_arguments(case))) for case in cases]


def copy_arguments(case: tuple) -> tuple:
    """Copy the tensors among the arguments of a test case: an answer may change what it is given.

    Args:
        case: The arguments.

    Returns:
        The same arguments, with tensors cloned.
    """
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def to_float64(result: object) -> Tensor:
    """Convert what a function returned to a float64 tensor.

    Args:
        result: A tensor, a number, an array, or nested sequences of numbers.

    Returns:
        A tensor without gradient.

    Raises:
        TypeError: If there is no result, or nothing like a number in it.
        ValueError: If a sequence is ragged.
    """
    if result is None:
        raise TypeError("the result is None")
    if not isinstance(result, Tensor):
        result = np.asarray(result, dtype=np.float64)
    return torch.as_tensor(result).detach().to(torch.float64)


def same_shapes(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two lists of tensors have the same shapes, pair by pair.

    Args:
        first: Tensors of any shapes.
        second: As many others.

    Returns:
        True if every pair has one shape.
    """
    return all(a.shape == b.shape for a, b in zip(first, second, strict=True))


def max_abs_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest absolute difference between two lists of tensors.

    Args:
        first: Tensors of any shapes.
        second: As many others, of the same shapes.

    Returns:
        The largest difference of any two numbers; infinity where only one of them is finite, or
        either is NaN.
    """
    largest = 0.0
    for a, b in zip(first, second, strict=True):
        difference = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=math.inf)
        largest = max(largest, difference.max().item() if difference.numel() else 0.0)
    return largest
