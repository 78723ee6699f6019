"""An exercise: runs a learner's answer, says whether it is right and, if not, why.

An answer is run on several inputs of different shapes, random where they can be, and compared with
the reference solution. If it is wrong, it is compared with the usual mistakes as well: one that
gives the very same wrong numbers is named.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEEDS = range(5)
TOLERANCE = 1e-5  # answers may compute in 32 bits


@dataclass(frozen=True)
class Exercise:
    """What an answer is given, what it should return, and what people return instead."""

    takes: str  # the answer's arguments and result, with their shapes
    solution: Callable
    inputs: Callable[[int], tuple]  # seed -> the arguments of one case
    mistakes: dict[str, Callable]  # what to tell the learner -> a function that makes the mistake

    def __call__(self, answer: Callable) -> None:
        """Check an answer and print the verdict."""
        _, said = self.verdict(answer)
        print(said)

    def verdict(self, answer: Callable) -> tuple[bool, str]:
        """Whether an answer is right, and what to tell the learner in a line or two."""
        cases = [self.inputs(seed) for seed in SEEDS]
        right = [as_tensor(self.solution(*fresh(case))) for case in cases]
        try:
            found = [as_tensor(answer(*fresh(case))) for case in cases]
        except NotImplementedError:
            return False, "not attempted yet: write your answer above, then run both cells again"
        except Exception as error:  # whatever it is, it is to be explained
            reason = f"{type(error).__name__}: {error}"
            return False, f"not yet: your function raised {reason}\nexpected: {self.takes}"
        for ours, theirs in zip(right, found, strict=True):
            if theirs is None:
                reason = "your function returned no number or tensor"
                return False, f"not yet: {reason}; expected: {self.takes}"
            if ours.shape != theirs.shape:
                shapes = f"{tuple(theirs.shape)}, but {tuple(ours.shape)}"
                return False, f"not yet: the shape is {shapes} was expected: {self.takes}"
        difference = largest_difference(right, found)
        if difference <= TOLERANCE:
            return True, f"passed: {len(cases)} cases, largest difference below {TOLERANCE:.0e}"
        said = f"not yet: the largest difference is {difference:.3g}"
        for name, mistaken in self.mistakes.items():
            theirs = [as_tensor(mistaken(*fresh(case))) for case in cases]
            if same_shapes(theirs, found) and largest_difference(theirs, found) <= TOLERANCE:
                return False, f"{said}\nit looks as if {name}"
        return False, said


def fresh(case: tuple) -> tuple:
    """The arguments of a case, copied: an answer may change what it is given."""
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def as_tensor(result) -> Tensor | None:
    """A result as a tensor in 64 bits, or None if it cannot be one."""
    try:
        if result is None:
            return None
        if not isinstance(result, Tensor):
            result = np.asarray(result, dtype=np.float64)
        return torch.as_tensor(result).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def same_shapes(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(a.shape == b.shape for a, b in zip(first, second, strict=True))


def largest_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest difference of any two numbers; infinite where only one of them is finite."""
    largest = 0.0
    for a, b in zip(first, second, strict=True):
        gap = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=math.inf)
        largest = max(largest, gap.max().item() if gap.numel() else 0.0)
    return largest
