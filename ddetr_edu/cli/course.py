"""`ddetr course`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ddetr_edu.cli.common import shell_command

if TYPE_CHECKING:
    from ddetr_edu.course.catalogue import Lesson
    from ddetr_edu.course.learner_progress import Progress, Tries


def run(json: bool = False) -> None:
    """List the lessons and exercises, what you have passed, and what to open next.

    A copy of the lessons to work in:  ddetr course copy DIR

    For a teacher, a report on such a copy:  ddetr course grade DIR

    Args:
        json: Print one JSON object instead of the table.
    """
    from ddetr_edu.course.catalogue import lessons_folder, read_lessons
    from ddetr_edu.course.learner_progress import progress_file, read_progress

    lessons, progress = read_lessons(lessons_folder()), read_progress()
    if json:
        print(as_json(lessons, progress))
        return
    print(table(lessons, progress))
    if progress.unreadable:
        n = progress.unreadable
        print(f"{n} damaged line{'s' * (n != 1)} of {progress_file()} could not be read")
    print(f"\n{advice(lessons, progress)}")


def table(lessons: "list[Lesson]", progress: "Progress") -> str:
    """The lessons, and a line for each exercise.

    Args:
        lessons: From `read_lessons`.
        progress: From `read_progress`.

    Returns:
        Lines for people, with the totals in the last one.
    """
    exercises = [exercise for lesson in lessons for exercise in lesson.exercises]
    width = max((len(exercise.name) for exercise in exercises), default=0)
    lines = []
    for lesson in lessons:
        lines.append(f"{lesson.number} {lesson.title}")
        for name, stars, minutes in lesson.exercises:
            state = describe(progress.exercises.get(name))
            lines.append(f"   {name:{width}s}  {'★' * stars:3s}  {minutes:3d} minutes  {state}")
    tried = [progress.exercises[e.name] for e in exercises if e.name in progress.exercises]
    passed = sum(tries.first_passed is not None for tries in tried)
    lines.append(
        f"{len(lessons)} lessons, {len(exercises)} exercises: {passed} passed, "
        f"{len(tried) - passed} tried, {len(exercises) - len(tried)} not attempted"
    )
    return "\n".join(lines)


def describe(tries: "Tries | None") -> str:
    """What was done with an exercise, in a few words."""
    if tries is None:
        return "not attempted"
    if tries.first_passed is None:
        return "tried once" if tries.times == 1 else f"tried {tries.times} times"
    return f"passed on {tries.first_passed}"


def advice(lessons: "list[Lesson]", progress: "Progress") -> str:
    """The first exercise that is not passed, and the command that opens its lesson."""
    found = next_exercise(lessons, progress)
    if found is None:
        return "You have passed all exercises."
    lesson, name = found
    copies = [path for folder in progress.copies if (path := folder / lesson.path.name).is_file()]
    sentence = f"The next exercise is {name} in lesson {lesson.number}."
    if copies:
        return f"{sentence} To open it:\n  {shell_command('jupyter', 'lab', shown(copies[0]))}"
    return (
        f"{sentence} To make a copy of the lessons to work in, and open it:\n"
        f"  {shell_command('ddetr', 'course', 'copy', 'my-course')}\n"
        f"  {shell_command('jupyter', 'lab', Path('my-course', lesson.path.name))}"
    )


def next_exercise(lessons: "list[Lesson]", progress: "Progress") -> "tuple[Lesson, str] | None":
    """The first exercise that is not passed, with its lesson; None if all are."""
    for lesson in lessons:
        for exercise in lesson.exercises:
            tries = progress.exercises.get(exercise.name)
            if tries is None or tries.first_passed is None:
                return lesson, exercise.name
    return None


def shown(path: Path) -> Path:
    """A path as short as it can be written here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def as_json(lessons: "list[Lesson]", progress: "Progress") -> str:
    """The same as one JSON object."""
    rows = []
    for lesson in lessons:
        exercises = []
        for name, stars, minutes in lesson.exercises:
            tries = progress.exercises.get(name)
            exercises.append(
                {
                    "exercise": name,
                    "stars": stars,
                    "minutes": minutes,
                    "tries": tries.times if tries else 0,
                    "passed": bool(tries and tries.first_passed),
                    "first_passed": tries.first_passed if tries else None,
                }
            )
        rows.append({"lesson": lesson.number, "title": lesson.title, "exercises": exercises})
    found = next_exercise(lessons, progress)
    return json.dumps(
        {"lessons": rows, "next": found[1] if found else None}, indent=2, ensure_ascii=False
    )
