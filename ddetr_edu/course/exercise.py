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

from ddetr_edu.course.answers import NotNumbers, Numbers, read_results
from ddetr_edu.course.check_result import CheckResult
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
UNTOUCHED = "not attempted yet: write your answer above, then run both cells again"

Cases = dict[str, tuple]  # {what a case tries: the arguments}


class Outcome(NamedTuple):
    """What an answer did in one case."""

    numbers: list[Numbers] | None  # its results; None if it raised, or returned no numbers
    problem: str  # empty if it is right
    error: type[Exception] | None = None  # of what it raised; NotNumbers if it returned no numbers


@dataclass(frozen=True)
class Exercise:
    """A function for the learner to write, with everything that checking an answer needs."""

    solution: Callable  # the reference, my_name; its docstring is what the learner's stub says
    cases: Callable[[], Cases]  # simple ones first; no two have the same sizes
    mistakes: dict[str, Callable]  # what to tell the learner -> a function that makes the mistake
    # What does the same in the library; a lesson shows it only after the exercise.
    library: tuple[Callable, ...] = ()
    # What the solution returns has these names if it is a tuple of several results.
    results: tuple[str, ...] = ()
    precision: float = TOLERANCE  # how far right numbers up to 1 may be off

    @property
    def name(self) -> str:
        """The exercise's name: the learner's function has it with "my_" before it."""
        return self.solution.__name__.removeprefix("my_")

    @property
    def signature(self) -> str:
        """The arguments and the result of the function to write, with their shapes."""
        return self.solution.__doc__ or ""

    def __call__(self, answer: Callable) -> None:
        """Check an answer, print the message and keep the result as the learner's progress.

        Args:
            answer: The learner's function.
        """
        self.check(answer).report(self.name)

    def check(self, answer: Callable) -> CheckResult:
        """Compare an answer with the solution and, if it is wrong, with the usual mistakes.

        Args:
            answer: The learner's function. It may return tensors of any type, arrays, lists or
                numbers, but must leave its arguments as they are.

        Returns:
            Whether the answer passed, and a message for the learner. Nothing that the answer
            raises gets out; it is part of the message.
        """
        if not callable(answer):
            advice = f"pass your function itself: checks.{self.name}(my_{self.name})"
            return CheckResult(False, f"not yet: this is no function; {advice}")
        cases = self.cases()
        outcomes: dict[str, Outcome] = {}
        for case, arguments in cases.items():
            outcomes[case] = self._try(answer, arguments)
            if outcomes[case].problem == UNTOUCHED:
                return CheckResult(False, UNTOUCHED, attempted=False)
        if not any(outcome.problem for outcome in outcomes.values()):
            return CheckResult(True, f"passed: all {len(cases)} cases are right")
        return CheckResult(False, self._explain(cases, outcomes))

    def accepts(self, answer: Callable) -> bool:
        """Whether a function is a right answer, without a word on why not: much faster.

        Args:
            answer: As of `check`.

        Returns:
            Whether it passes.
        """
        return not any(self._try(answer, arguments).problem for arguments in self.cases().values())

    def _run(self, function: Callable, arguments: tuple) -> object:
        """What is compared: here, what the function returns."""
        return function(*arguments)

    def _refuse(self, error: NotNumbers) -> str:
        """What to say about a result that cannot be compared."""
        advice = ": is a `return` missing?" if str(error) == "None" else ""
        return f"your function returned {error}{advice}\n  expected: {self.signature}"

    def _try(self, answer: Callable, arguments: tuple) -> Outcome:
        """Run an answer on one case."""
        given = copy.deepcopy(arguments)
        try:
            result = self._run(answer, given)
        except NotNumbers as error:
            return Outcome(None, self._refuse(error), type(error))
        except Exception as error:  # whatever it is, the learner should see it explained
            if is_untouched(answer, error):
                return Outcome(None, UNTOUCHED)
            return Outcome(None, describe_error(answer, error), type(error))
        outcome = self._compare(result, arguments)
        if changed := changed_arguments(self.solution, arguments, given):
            names = " and ".join(f"`{name}`" for name in changed)
            advice = f"your function changed its argument {names} in place; work on a copy"
            problems = filter(None, [outcome.problem, advice])
            return outcome._replace(problem="\n  ".join(problems))
        return outcome

    def _compare(self, result: object, arguments: tuple) -> Outcome:
        """Compare what an answer returned with the solution's result."""
        solved = self._run(self.solution, copy.deepcopy(arguments))
        expected = [result.values for result in read_results(solved, self.results)]
        try:
            numbers = read_results(result, self.results)
        except NotNumbers as error:
            return Outcome(None, self._refuse(error), type(error))
        prefixes = [f"{name}: " for name in self.results] or [""]
        for prefix, right, given in zip(prefixes, expected, numbers, strict=True):
            if given.values.shape != right.shape:
                shapes = f"{tuple(given.values.shape)}, but {tuple(right.shape)} was expected"
                return Outcome(numbers, f"{prefix}the shape is {shapes}: {self.signature}")
        allowed = tolerance(expected, max(given.eps for given in numbers), self.precision)
        if not self.results and (
            isinstance(solved, int) or not torch.as_tensor(solved).is_floating_point()
        ):
            allowed = TOLERANCE  # whole numbers are not rounded
        for prefix, right, given in zip(prefixes, expected, numbers, strict=True):
            wrong = wrong_numbers(right, given.values, allowed)
            if wrong.any():
                difference = describe_difference(right, given.values, wrong)
                return Outcome(numbers, prefix + difference)
        return Outcome(numbers, "")

    def _explain(self, cases: Cases, outcomes: dict[str, Outcome]) -> str:
        """What to tell a learner whose answer is wrong in at least one case."""
        right = [case for case, outcome in outcomes.items() if not outcome.problem]
        wrong = [case for case, outcome in outcomes.items() if outcome.problem]
        count = f"right in {len(right)} of {len(cases)} cases" if right else "wrong in all cases"
        lines = [
            f"not yet: {count}; look at this one: {wrong[0]}",
            f"  input: {self._describe_input(cases[wrong[0]])}",
            f"  {outcomes[wrong[0]].problem}",
        ]
        if right:
            lines += [f"  right: {'; '.join(right)}", f"  wrong: {'; '.join(wrong)}"]
        lines.append(f"  to try it: {self._how_to_try(wrong[0])}")
        lines += [f"it looks as if {mistake}" for mistake in self._mistakes_like(cases, outcomes)]
        return "\n".join(lines)

    def _describe_input(self, arguments: tuple) -> str:
        """The arguments of a case, in a few words."""
        return describe_arguments(self.solution, arguments)

    def _how_to_try(self, case: str) -> str:
        """The code with which a learner gets hold of a case."""
        return f'arguments = checks.{self.name}.cases()["{case}"]'

    def _mistakes_like(self, cases: Cases, outcomes: dict[str, Outcome]) -> list[str]:
        """The first of the usual mistakes that does the same in all cases, if one does."""
        for description, mistake in self.mistakes.items():
            if all(self._is_same(mistake, cases[case], outcomes[case]) for case in cases):
                return [description]
        return []

    def _is_same(self, mistake: Callable, arguments: tuple, outcome: Outcome) -> bool:
        """Whether a mistake returns the numbers, or raises the error, of an answer in one case."""
        try:
            mistaken = read_results(self._run(mistake, copy.deepcopy(arguments)), self.results)
        except Exception as error:
            return type(error) is outcome.error
        return outcome.numbers is not None and self._agree(mistaken, outcome.numbers)

    def _agree(self, mistaken: list[Numbers], numbers: list[Numbers]) -> bool:
        """Whether two functions returned the same, up to rounding."""
        eps = max(given.eps for given in numbers)
        allowed = tolerance([result.values for result in mistaken], eps, self.precision)
        pairs = zip(mistaken, numbers, strict=True)
        return all(same_numbers(one.values, other.values, allowed) for one, other in pairs)


def tolerance(expected: list[Tensor], eps: float, precision: float) -> float:
    """The largest difference that counts as right.

    Args:
        expected: The right results, each of any shape.
        eps: The relative precision of the answer's type.
        precision: How far right numbers up to 1 may be off, whatever their type.

    Returns:
        A difference that rounding explains.
    """
    finite = [values[values.isfinite()].abs() for values in expected]
    scale = max((values.max().item() for values in finite if values.numel()), default=0.0)
    return max(precision * max(1.0, scale), ROUNDINGS * min(eps, COARSEST_EPS) * scale)


def same_numbers(one: Tensor, other: Tensor, allowed: float) -> bool:
    """Whether two results are equal up to rounding, NaN included.

    Args:
        one: Of any shape.
        other: Likewise.
        allowed: From `tolerance`.

    Returns:
        True if shape and numbers agree.
    """
    if one.shape != other.shape:
        return False
    both_nan = one.isnan() & other.isnan()
    return not (wrong_numbers(one, other, allowed) & ~both_nan).any()
