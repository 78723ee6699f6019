"""Grade learners' copies of the lessons: run each in a kernel of its own, then check each answer.

Neither what a cell prints nor a missing cell changes a mark: at the end of a notebook, the check
that comes with the library is called on what the learner's name stands for.
"""

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ddetr_edu.course.catalogue import CatalogueExercise, Lesson, read_notebook
from ddetr_edu.course.lesson_kernel import CellError, KernelStopped, LessonKernel
from ddetr_edu.course.notebooks import LESSON_CELL

PASSED, NOT_YET, NOT_ATTEMPTED = "passed", "not yet", "not attempted"
RAISED, TIMED_OUT, MISSING = "raised", "timed out", "missing"
UNDEFINED = "undefined"  # not attempted, unless the cell that defines it raised

CHECK = re.compile(r"checks\.\w+\(my_\w+\);?")  # a cell that does nothing else
GUESSES = re.compile(r"(guess_\w+ = .*\n?)+")


class Mark(NamedTuple):
    """What became of one exercise."""

    exercise: CatalogueExercise
    result: str  # one of the six above
    message: str  # of the check, or why there is none


class GradedLesson(NamedTuple):
    """A learner's notebook, or its absence."""

    lesson: Lesson
    file: Path | None  # None if it is missing
    marks: list[Mark]
    notes: list[str]  # cells that raised or were interrupted


class GradedLearner(NamedTuple):
    """A learner's folder."""

    name: str
    folder: Path
    lessons: list[GradedLesson]

    @property
    def marks(self) -> list[Mark]:
        """Those of all lessons."""
        return [mark for lesson in self.lessons for mark in lesson.marks]

    @property
    def passed(self) -> int:
        """How many exercises were passed."""
        return sum(mark.result == PASSED for mark in self.marks)


def find_learners(folder: Path) -> dict[str, Path]:
    """The folders with lessons in them.

    Args:
        folder: A learner's copy, or a folder with one such folder for each learner.

    Returns:
        {the learner's name: folder}; a folder's name is the learner's.

    Raises:
        ValueError: If there are no lessons.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with a copy of the lessons")
    if find_lessons(folder):
        return {folder.resolve().name: folder}
    # Jupyter keeps checkpoints in a folder whose name begins with a dot.
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    learners = {path.name: path for path in sorted(inner) if find_lessons(path)}
    if not learners:
        raise ValueError(
            f"{folder} has no lessons, and none of the folders in it has; give the folder that "
            "`ddetr course copy` made"
        )
    return learners


def find_lessons(folder: Path) -> dict[str, Path]:
    """The lessons in a folder, even those that were renamed.

    Args:
        folder: A learner's.

    Returns:
        {number: file}. Of two files of one lesson, the one with the shorter name: Jupyter gives a
        duplicate a longer one.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.ipynb"), key=lambda path: (len(path.name), path.name)):
        number = lesson_number(path)
        if number is not None:
            found.setdefault(number, path)
    return found


def lesson_number(path: Path) -> str | None:
    """Which lesson a notebook is.

    Args:
        path: Its file.

    Returns:
        Two digits: those with which most of its cells' ids begin or else, because some editors
        remove ids, those of its name. None if it is no lesson.
    """
    try:
        ids = [str(cell.get("id")) for cell in read_notebook(path)["cells"]]
    except ValueError:
        ids = []
    numbers = Counter(id_[:2] for id_ in ids if LESSON_CELL.match(id_))
    if numbers:
        return numbers.most_common(1)[0][0]
    named = re.match(r"(\d\d)_", path.name)
    return named[1] if named else None


def grade_learner(
    name: str, folder: Path, lessons: list[Lesson], seconds: float, say: Callable[[str], None]
) -> GradedLearner:
    """Grade all lessons of a learner. The files of the folder are copied and not changed.

    Args:
        name: The learner's.
        folder: With the learner's notebooks. Files beside them can be read by their code, folders
            cannot.
        lessons: Those that came with the library.
        seconds: After which a cell or a check is interrupted.
        say: Called with a sentence before each notebook that is run.

    Returns:
        The marks.
    """
    files = find_lessons(folder)
    graded = []
    with tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True) as temporary:
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy(path, temporary)
        for lesson in lessons:
            if lesson.number not in files:
                marks = [Mark(exercise, MISSING, "") for exercise in lesson.exercises]
                graded.append(GradedLesson(lesson, None, marks, []))
                continue
            file = files[lesson.number]
            marks, notes = grade_notebook(file, lesson, Path(temporary), seconds, say)
            graded.append(GradedLesson(lesson, file, marks, notes))
    return GradedLearner(name, folder, graded)


def grade_notebook(
    file: Path, lesson: Lesson, folder: Path, seconds: float, say: Callable[[str], None]
) -> tuple[list[Mark], list[str]]:
    """Run a notebook and check its answers.

    Args:
        file: The learner's notebook.
        lesson: Which lesson it is.
        folder: In which it runs.
        seconds: After which a cell or a check is interrupted.
        say: Called with a sentence if the notebook is run; one without answers is not.

    Returns:
        A mark for each exercise, and remarks on cells that raised or were interrupted.
    """
    try:
        code = code_of(file)
    except ValueError as error:
        return [Mark(exercise, RAISED, str(error)) for exercise in lesson.exercises], []
    given = set(code_of(lesson.path))
    own = [source for source in code if source not in given]
    if all(GUESSES.fullmatch(source) for source in own):
        advice = "the code is that of the lesson"
        return [Mark(exercise, NOT_ATTEMPTED, advice) for exercise in lesson.exercises], []
    say(f"running {file}")
    marks = []
    with LessonKernel(folder) as kernel:
        errors, stopped = run_cells(kernel, code, seconds)
        for exercise in lesson.exercises:
            try:
                if not stopped:
                    marks.append(check_answer(kernel, exercise, errors, seconds))
                    continue
            except KernelStopped as stop:
                stopped = f"the notebook was stopped in the check of {exercise.name}: {stop}"
            marks.append(Mark(exercise, RAISED, stopped))
    notes = [f"the cell {shorten(cell)!r}: {error.message}" for cell, error in errors.items()]
    return marks, notes + ([stopped] if stopped else [])


def run_cells(
    kernel: LessonKernel, code: list[str], seconds: float
) -> tuple[dict[str, CellError], str]:
    """Run a notebook, except for the cells that do nothing but check an answer.

    Args:
        kernel: The kernel.
        code: The code of the cells.
        seconds: After which a cell is interrupted.

    Returns:
        {a cell's code: why it did not run to its end}, and why the kernel stopped, if it did.
    """
    errors: dict[str, CellError] = {}
    for source in code:
        if CHECK.fullmatch(source):
            continue
        try:
            error = kernel.execute(source, seconds)
        except KernelStopped as stop:
            return errors, f"the notebook was stopped in the cell {shorten(source)!r}: {stop}"
        if error is not None:
            errors[source] = error
    return errors, ""


def code_of(file: Path) -> list[str]:
    """The code cells of a notebook, without those that are empty."""
    cells = read_notebook(file)["cells"]
    sources = [cell["source"].strip() for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if source]


def shorten(source: str) -> str:
    """The first line of a cell, to name it."""
    line = source.split("\n")[0]
    return line if len(line) <= 50 else f"{line[:47]}..."


def check_answer(
    kernel: LessonKernel, exercise: CatalogueExercise, errors: dict[str, CellError], seconds: float
) -> Mark:
    """Check an answer in the kernel in which its notebook has run.

    The result comes back in a file whose name nothing in the notebook can know.

    Args:
        kernel: The kernel.
        exercise: Which answer.
        errors: {a cell's code: why it did not run to its end}.
        seconds: After which the check is interrupted.

    Returns:
        The mark.

    Raises:
        KernelStopped: If the kernel died, or could not be interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="ddetr-") as folder:
        path = Path(folder) / "result.json"
        call = f"write_result({exercise.name!r}, globals(), {str(path)!r})"
        module = "__import__('ddetr_edu.course.grading', fromlist=['grading'])"
        error = kernel.execute(f"{module}.{call}", seconds)
        if error is not None:
            result = TIMED_OUT if error.timed_out else RAISED
            return Mark(exercise, result, f"my_{exercise.name} in the check: {error.message}")
        written = json.loads(path.read_text(encoding="utf-8"))
    if written["result"] != UNDEFINED:
        return Mark(exercise, written["result"], written["message"])
    definition = re.compile(rf"^(?:def|class) my_{exercise.name}\b|^my_{exercise.name}\b.*=", re.M)
    for source, error in errors.items():
        if definition.search(source):
            return Mark(exercise, TIMED_OUT if error.timed_out else RAISED, error.message)
    return Mark(exercise, NOT_ATTEMPTED, written["message"])


def write_result(name: str, names: dict, path: str) -> None:
    """Check an answer and write the result: this runs in the learner's kernel.

    Args:
        name: The exercise.
        names: The notebook's variables.
        path: The file to write.
    """
    result, message = _check(name, names)
    Path(path).write_text(json.dumps({"result": result, "message": message}), encoding="utf-8")


def _check(name: str, names: dict) -> tuple[str, str]:
    from ddetr_edu.course import checks

    if f"my_{name}" not in names:
        return UNDEFINED, f"the notebook defines no my_{name}"
    try:
        checked = getattr(checks, name).check(names[f"my_{name}"])
    except KeyboardInterrupt:
        raise  # it took too long
    except BaseException as error:  # SystemExit, for example: learners may write anything
        return RAISED, f"{type(error).__name__}: {error}"
    if not checked.attempted:
        return NOT_ATTEMPTED, checked.message
    return PASSED if checked.passed else NOT_YET, checked.message
