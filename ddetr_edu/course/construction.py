"""An exercise with many right answers: what was built is measured, not compared with a solution."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ddetr_edu.course.answers import NotNumbers, read_results
from ddetr_edu.course.exercise import Exercise, Outcome


@dataclass(frozen=True)
class Construction(Exercise):
    """A function for the learner to write whose results need only have a certain property."""

    # (each result as a tensor, then the arguments) -> what is wrong, in words; empty if it is right
    judge: Callable[..., str] = field(kw_only=True)

    def _compare(self, result: object, arguments: tuple) -> Outcome:
        """Measure what an answer returned."""
        try:
            numbers = read_results(result, self.results)
        except NotNumbers as error:
            return Outcome(None, self._refuse(error), type(error))
        return Outcome(numbers, self.judge(*(given.values for given in numbers), *arguments))
