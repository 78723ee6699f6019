"""An exercise: runs a learner's answer, says whether it is right and, if not, where and why.

An answer is run on several cases, each with a name that says what it tries, and compared with the
reference solution. If it is wrong, it is also compared with the usual mistakes: one that gives
exactly the same wrong numbers is named.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ddetr_edu.course.answers import NotNumbers, Numbers, read_numbers
from ddetr_edu.course.feedback import (
    changed_arguments,
    describe_arguments,
    describe_difference,
    describe_error,
    is_untouched,
    wrong_numbers,
)

TOLERANCE = 1e-5  # answers may compute in fp32
ROUNDINGS = 16  # how many rounding errors of their type answers in 16 bits may add up
COARSEST_EPS = torch.finfo(torch.bfloat16).eps  # with fewer bits, nothing could be told apart

Cases = dict[str, tuple]  # {what a case tries: the arguments}


class CheckResult(NamedTuple):
    """Whether an answer is right, and what to tell the learner."""

    passed: bool
    message: str  # one line if it passed, several if not


class Outcome(NamedTuple):
    """What an answer did in one case."""

    numbers: Numbers | None  # what it returned; None if it raised, or returned no numbers
    problem: str  # empty if it is right


@dataclass(frozen=True)
class Exercise:
    """A function for the learner to write, with everything that checking an answer needs."""

    solution: Callable  # the reference; its docstring is the signature that the learner is given
    cases: Callable[[], Cases]  # simple ones first; no two have the same sizes
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
            answer: The learner's function. It may return tensors of any type, arrays, lists or
                numbers, but must leave its arguments as they are.

        Returns:
            Whether the answer passed, and a message for the learner. Nothing that the answer
            raises gets out; it is part of the message.
        """
        name = self.solution.__name__
        if not callable(answer):
            advice = f"pass your function itself: checks.{name}(my_{name})"
            return CheckResult(False, f"not yet: this is no function; {advice}")
        cases = self.cases()
        outcomes: dict[str, Outcome] = {}
        for case, arguments in cases.items():
            given = copy.deepcopy(arguments)
            try:
                result = answer(*given)
            except Exception as error:  # whatever it is, the learner should see it explained
                if is_untouched(answer, error):
                    advice = "write your answer above, then run both cells again"
                    return CheckResult(False, f"not attempted yet: {advice}")
                outcomes[case] = Outcome(None, describe_error(answer, error))
                continue
            outcomes[case] = self._compare(result, arguments)
            if changed := changed_arguments(self.solution, arguments, given):
                names = " and ".join(f"`{name}`" for name in changed)
                advice = f"your function changed its argument {names} in place; work on a copy"
                problem = "\n  ".join(filter(None, [outcomes[case].problem, advice]))
                outcomes[case] = Outcome(outcomes[case].numbers, problem)
        if not any(outcome.problem for outcome in outcomes.values()):
            return CheckResult(True, f"passed: all {len(cases)} cases are right")
        return CheckResult(False, self._explain(cases, outcomes))

    def _compare(self, result: object, arguments: tuple) -> Outcome:
        """Compare what an answer returned with the solution's result."""
        expected = read_numbers(solved := self.solution(*copy.deepcopy(arguments))).values
        try:
            numbers = read_numbers(result)
        except NotNumbers as error:
            advice = ": is a `return` missing?" if result is None else ""
            return Outcome(
                None, f"your function returned {error}{advice}\n  expected: {self.signature}"
            )
        if numbers.values.shape != expected.shape:
            shapes = f"{tuple(numbers.values.shape)}, but {tuple(expected.shape)} was expected"
            return Outcome(numbers, f"the shape is {shapes}: {self.signature}")
        whole = isinstance(solved, int) or not torch.as_tensor(solved).is_floating_point()
        wrong = wrong_numbers(
            expected, numbers.values, TOLERANCE if whole else tolerance(expected, numbers.eps)
        )
        if wrong.any():
            return Outcome(numbers, describe_difference(expected, numbers.values, wrong))
        return Outcome(numbers, "")

    def _explain(self, cases: Cases, outcomes: dict[str, Outcome]) -> str:
        """What to tell a learner whose answer is wrong in at least one case."""
        right = [case for case, outcome in outcomes.items() if not outcome.problem]
        wrong = [case for case, outcome in outcomes.items() if outcome.problem]
        count = f"right in {len(right)} of {len(cases)} cases" if right else "wrong in all cases"
        lines = [
            f"not yet: {count}; look at this one: {wrong[0]}",
            f"  input: {describe_arguments(self.solution, cases[wrong[0]])}",
            f"  {outcomes[wrong[0]].problem}",
        ]
        if right:
            lines += [f"  right: {'; '.join(right)}", f"  wrong: {'; '.join(wrong)}"]
        lines.append(
            f'  to try it: arguments = checks.{self.solution.__name__}.cases()["{wrong[0]}"]'
        )
        lines += [f"it looks as if {mistake}" for mistake in self._mistakes_like(cases, outcomes)]
        return "\n".join(lines)

    def _mistakes_like(self, cases: Cases, outcomes: dict[str, Outcome]) -> list[str]:
        """The first of the usual mistakes that gives the same results in all cases, if one does."""
        for description, mistake in self.mistakes.items():
            if all(same_result(mistake, cases[case], outcomes[case].numbers) for case in cases):
                return [description]
        return []


def tolerance(expected: Tensor, eps: float) -> float:
    """The largest difference that counts as right.

    Args:
        expected: The right result, of any shape.
        eps: The relative precision of the answer's type.

    Returns:
        A difference that rounding explains.
    """
    scale = expected.abs().max().item() if expected.numel() else 0.0
    return max(TOLERANCE * max(1.0, scale), ROUNDINGS * min(eps, COARSEST_EPS) * scale)


def same_result(mistake: Callable, arguments: tuple, numbers: Numbers | None) -> bool:
    """Whether a mistake leads to the result that an answer has in one case.

    Args:
        mistake: A function that makes the mistake.
        arguments: Those of the case.
        numbers: What the answer returned, or None if it raised.

    Returns:
        True if shape and numbers agree, or both raised.
    """
    try:
        mistaken = read_numbers(mistake(*copy.deepcopy(arguments))).values
    except Exception:
        return numbers is None
    if numbers is None or mistaken.shape != numbers.values.shape:
        return False
    both_nan = mistaken.isnan() & numbers.values.isnan()
    wrong = wrong_numbers(mistaken, numbers.values, tolerance(mistaken, numbers.eps))
    return not (wrong & ~both_nan).any()
