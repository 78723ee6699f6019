"""`ddetr course grade`."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from ddetr_edu.course.grading import GradedLearner

NEEDED = ("jupyter_client", "ipykernel")


def run(
    dir: Positional[Path], json: bool = False, timeout: float = 120.0, lessons: tuple[str, ...] = ()
) -> None:
    """Run learners' copies of the lessons, check every answer and print a report for a teacher.

    This runs the learners' code with your rights. Nothing in their folders is changed: a copy of
    the files runs in a temporary folder, without the folders beside them.

    Results: passed; not yet (the check says why); not attempted; raised (there is nothing to check,
    because the cell raised); timed out; missing (the notebook is not there).

    Args:
        dir: A learner's copy of the lessons, or a folder with one such folder for each learner.
        json: Print one JSON object instead of the report.
        timeout: The seconds after which a cell or a check is interrupted.
        lessons: The numbers of the lessons to grade, such as 03 04; all of them if not given.
    """
    from ddetr_edu.course.catalogue import lessons_folder, read_lessons
    from ddetr_edu.course.grading import find_learners, grade_learner

    if timeout <= 0:
        raise ValueError(f"--timeout must be more than 0 seconds, not {timeout:g}")
    chosen = read_lessons(lessons_folder())
    numbers = [lesson.number for lesson in chosen]
    if unknown := [number for number in lessons if number not in numbers]:
        raise ValueError(f"there is no lesson {unknown[0]}; there are {', '.join(numbers)}")
    if lessons:
        chosen = [lesson for lesson in chosen if lesson.number in lessons]
    learners = find_learners(dir)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"grading runs notebooks, which needs {' and '.join(missing)}; run: uv sync, or "
            f"pip install {' '.join(missing)}"
        )
    say("this runs the code in the learners' notebooks, with your rights on this machine")
    graded = []
    for name, folder in learners.items():
        graded.append(grade_learner(name, folder, chosen, timeout, say))
        if not json:
            print(report(graded[-1]), flush=True)
    if json:
        print(as_json(graded))


def say(sentence: str) -> None:
    """Tell how it goes, apart from the report."""
    print(f"ddetr course grade: {sentence}", file=sys.stderr, flush=True)


def report(learner: "GradedLearner") -> str:
    """A learner's results as lines for people."""
    marks = learner.marks
    width = max((len(mark.exercise.name) for mark in marks), default=0)
    lines = [f"{learner.name}: {learner.passed} of {len(marks)} exercises passed"]
    for lesson, file, lesson_marks, notes in learner.lessons:
        if file is None:
            continue
        lines.append(f"  {lesson.number} {lesson.title} ({file.name})")
        for (name, stars, _), result, message in lesson_marks:
            first_line = message.split("\n")[0]
            # The message of a check begins with the result.
            shown = first_line if first_line.startswith(result) else f"{result}: {first_line}"
            lines.append(f"    {name:{width}s}  {'★' * stars:3s}  {shown}")
        lines += [f"    {note}" for note in notes]
    if missing := [graded.lesson.number for graded in learner.lessons if graded.file is None]:
        lines.append(f"  missing: {', '.join(missing)}")
    return "\n".join(lines)


def as_json(learners: "list[GradedLearner]") -> str:
    """The same as one JSON object."""
    rows = []
    for learner in learners:
        lessons = []
        for lesson, file, marks, notes in learner.lessons:
            exercises = [
                {
                    "exercise": mark.exercise.name,
                    "stars": mark.exercise.stars,
                    "minutes": mark.exercise.minutes,
                    "result": mark.result,
                    "message": mark.message,
                }
                for mark in marks
            ]
            lessons.append(
                {
                    "lesson": lesson.number,
                    "title": lesson.title,
                    "file": file.name if file else None,
                    "exercises": exercises,
                    "notes": notes,
                }
            )
        rows.append(
            {
                "learner": learner.name,
                "folder": str(learner.folder),
                "passed": learner.passed,
                "exercises": len(learner.marks),
                "lessons": lessons,
            }
        )
    return json.dumps({"learners": rows}, indent=2, ensure_ascii=False)
