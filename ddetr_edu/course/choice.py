"""A question whose answers are chosen from a list, for what is seen in a figure or a table."""

from collections.abc import Mapping
from dataclasses import dataclass

from ddetr_edu.course.answers import describe
from ddetr_edu.course.check_result import CheckResult

EMPTY = "None,  # put your answer here"


@dataclass(frozen=True)
class Choice:
    """Several things to name, each with one word of a list.

    A wrong word is answered with what speaks against it, never with the right one.
    """

    name: str  # the learner's dictionary is my_name
    solution: dict[str, str]  # what is to be named -> the right word
    words: dict[str, str]  # a word that may be chosen -> what it means
    against: dict[tuple[str, str], str]  # (what is to be named, a wrong word) -> why it is wrong

    @property
    def stub(self) -> str:
        """The code that the learner is given."""
        return self._code({key: EMPTY for key in self.solution})

    @property
    def solution_code(self) -> str:
        """The code of the solution."""
        return self._code({key: f'"{word}",' for key, word in self.solution.items()})

    def _code(self, values: dict[str, str]) -> str:
        lines = [f'    "{key}": {value}' for key, value in values.items()]
        return "\n".join([f"my_{self.name} = {{", *lines, "}"])

    def __call__(self, answer: Mapping[str, str | None]) -> None:
        """Check an answer, print the message and keep the result as the learner's progress.

        Args:
            answer: A word for each thing to name.
        """
        self.check(answer).report(self.name)

    def check(self, answer: object) -> CheckResult:
        """Compare an answer with the solution.

        Args:
            answer: A dictionary; upper case and spaces around a word do not matter.

        Returns:
            Whether all words are right, and a message for the learner.
        """
        if not isinstance(answer, Mapping):
            keys = ", ".join(f'"{key}"' for key in self.solution)
            advice = f"a dictionary with a word for each of {keys} was expected"
            return CheckResult(False, f"not yet: this is {describe(answer)}; {advice}")
        given = {key: answer.get(key) for key in self.solution}
        if all(word is None for word in given.values()):
            advice = "replace each None above by a word, then run both cells again"
            return CheckResult(False, f"not attempted yet: {advice}", attempted=False)
        extra = [key for key in answer if key not in given]
        lines = [f'  "{key}" is not one of the questions; remove it' for key in extra]
        wrong = [key for key, word in given.items() if not self._is_right(key, word)]
        lines += [f"  {key}: {self._explain(key, given[key])}" for key in wrong]
        if not lines:
            return CheckResult(True, f"passed: all {len(self.solution)} answers are right")
        right = len(self.solution) - len(wrong)
        count = f"{right} of {len(self.solution)} answers are right{', but' * (not wrong)}"
        return CheckResult(False, "\n".join([f"not yet: {count}", *lines]))

    def _is_right(self, key: str, word: object) -> bool:
        return isinstance(word, str) and word.strip().lower() == self.solution[key].lower()

    def _explain(self, key: str, word: object) -> str:
        """What is wrong with a wrong word."""
        if word is None:
            return "no answer yet"
        chosen = word.strip().lower() if isinstance(word, str) else None
        for known in self.words:
            if known.lower() == chosen:
                return f'"{known}" is not it: {self.against[key, known]}'
        listed = ", ".join(f'"{known}"' for known in self.words)
        shown = f'"{word}"' if isinstance(word, str) else describe(word)
        return f"{shown} is not among the words: {listed}"


def objections(
    solution: Mapping[str, str], shows: Mapping[str, str], look: Mapping[str, str]
) -> dict[tuple[str, str], str]:
    """What speaks against each wrong word: what it would look like, and where to look instead.

    Args:
        solution: {what is to be named: the right word}.
        shows: {word: what would be seen if it were the right one}.
        look: {what is to be named: where to look}.

    Returns:
        As `Choice.against`.
    """
    return {
        (key, word): f"{seen}; {look[key]}"
        for key, right in solution.items()
        for word, seen in shows.items()
        if word != right
    }
