"""A puzzle: a kernel for the warp of `warp.py`, which has to be right and to cost little."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ddetr_edu.course.answers import Numbers, read_results
from ddetr_edu.course.check_result import CheckResult
from ddetr_edu.course.exercise import Cases, Exercise, Outcome, same_numbers, tolerance
from ddetr_edu.course.feedback import describe_difference, wrong_numbers
from ddetr_edu.course.warp import Array, Score, Warp


@dataclass(frozen=True)
class Puzzle(Exercise):
    """A kernel for the learner to write: a function of a warp, arrays and numbers.

    The arguments of a case are a new warp, the arrays, one of them an output, and numbers. An
    answer is right if it writes what the solution writes, at no higher a score, and has got
    around no price (`describe_unpaid`).
    """

    results: tuple[str, ...] = ("output", "score")

    def check(self, answer: Callable) -> CheckResult:
        """Compare an answer with the solution, and say its score.

        Args:
            answer: The learner's kernel.

        Returns:
            Whether it is right and its score no higher than the solution's, and a message.
        """
        result = super().check(answer)
        if not result.passed:
            return result
        case, arguments = list(self.cases().items())[-1]
        score, best = self.score(answer, arguments), self.score(self.solution, arguments)
        if problem := describe_unpaid(score, best):
            return CheckResult(False, problem)
        scores = [f"  your score: {score}", f"  allowed:    {best}"]
        if score.total < best.total:
            scores.append("  yours costs less than the solution in this lesson")
        return CheckResult(True, "\n".join([f"{result.message}; the last one, {case}:", *scores]))

    def score(self, kernel: Callable, arguments: tuple) -> Score:
        """What a kernel costs in one case.

        Args:
            kernel: The kernel.
            arguments: Of the case; they are not changed.

        Returns:
            Its score.
        """
        return run_kernel(kernel, copy.deepcopy(arguments))[1]

    def _run(self, function: Callable, arguments: tuple) -> tuple[Tensor, Tensor]:
        """What is compared: what a kernel wrote, and each part of its score."""
        output, score = run_kernel(function, arguments)
        return output, torch.tensor(list(asdict(score).values()))

    def _compare(self, result: object, arguments: tuple) -> Outcome:
        """Compare what an answer wrote with what the solution writes, and then the scores."""
        output, score = read_results(result, self.results)
        expected, best = self._run(self.solution, copy.deepcopy(arguments))
        wrong = wrong_numbers(
            expected, output.values, tolerance([expected], output.eps, self.precision)
        )
        problem = ""
        if wrong.any():
            problem = describe_difference(expected, output.values, wrong)
        elif score.values.sum() > best.sum():
            problem = (
                "all numbers are right, but this costs too much\n"
                f"  your score: {as_score(score.values)}\n  allowed:    {as_score(best)}"
            )
        return Outcome([output, score], problem)

    def _mistakes_like(self, cases: Cases, outcomes: dict[str, Outcome]) -> list[str]:
        """A mistake with the same numbers and score or, where numbers are wrong, any score."""
        found = super()._mistakes_like(cases, outcomes)
        unscored = {
            case: outcome._replace(numbers=outcome.numbers and outcome.numbers[:1])
            for case, outcome in outcomes.items()
        }
        is_right = all(self._is_same(self.solution, cases[case], unscored[case]) for case in cases)
        return found if found or is_right else super()._mistakes_like(cases, unscored)

    def _agree(self, mistaken: list[Numbers], numbers: list[Numbers]) -> bool:
        """Whether two kernels wrote the same, up to rounding, at the same cost if it is given."""
        output, written = mistaken[0].values, numbers[0].values
        if not same_numbers(output, written, tolerance([output], numbers[0].eps, self.precision)):
            return False
        costs = zip(mistaken[1:], numbers[1:], strict=False)
        return all(torch.equal(one.values, other.values) for one, other in costs)


def run_kernel(kernel: Callable, arguments: tuple) -> tuple[Tensor, Score]:
    """Run a kernel.

    Args:
        kernel: The kernel.
        arguments: A warp, arrays and numbers. The output is written to.

    Returns:
        The numbers of the output, and what the kernel costs.
    """
    kernel(*arguments)
    (warp,) = (a for a in arguments if isinstance(a, Warp))
    (output,) = (a for a in arguments if isinstance(a, Array) and a.is_output)
    return output.values, warp.score


def describe_unpaid(score: Score, best: Score) -> str:
    """What a kernel has got for nothing, since torch can do more than a warp.

    Args:
        score: Of a kernel whose numbers are right.
        best: Of the solution. None of the puzzles that it solves by shuffles or by `corners` can be
            solved without, at no higher a score.

    Returns:
        The objection, or "".
    """
    problem = ""
    reads, writes = (
        score.sectors_read + score.shared_rounds,
        score.sectors_written + score.additions,
    )
    if not reads or not writes:
        problem = (
            "memory was used without paying for it: a kernel reads and writes arrays only by the "
            "warp's own calls, such as `warp.load`"
        )
    elif best.instructions and not score.instructions:
        problem = (
            "the corners were not found by `warp.corners`, so their arithmetic was not paid for: "
            "it costs 20 each time"
        )
    elif best.shuffles and not score.shuffles + score.shared_rounds:
        problem = (
            "lanes got the numbers of other lanes without a shuffle. A sum over lanes, such as "
            "`a.sum()`, or an index, such as `a[5]`, is nothing that a warp can do"
        )
    if not problem:
        return ""
    return f"not yet: all numbers are right, but {problem}\n  your score: {score}"


def as_score(parts: Tensor) -> Score:
    """The score whose parts are given.

    Args:
        parts: A number for each field of `Score`.

    Returns:
        The score.
    """
    return Score(*(int(part) for part in parts))
