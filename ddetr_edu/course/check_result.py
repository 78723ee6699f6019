"""What a check found: printed for the learner and, if there was an answer, kept as progress."""

from typing import NamedTuple

from ddetr_edu.course.learner_progress import record


class CheckResult(NamedTuple):
    """Whether an answer is right, and what to tell the learner."""

    passed: bool
    message: str  # one line if it passed, several if not
    attempted: bool = True  # False if the answer is still the one that the lesson gives

    def report(self, exercise: str) -> None:
        """Print the message and, unless nothing was attempted, keep the result as progress.

        Args:
            exercise: Its name.
        """
        print(self.message)
        if self.attempted:
            record(exercise, self.passed)
