"""The lessons and their exercises, as the headings of the notebooks name them."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from ddetr_edu.files import find_shipped

LESSON_NAME = re.compile(r"\d\d_\w+\.ipynb")
TITLE = re.compile(r"# \d\d · (.+)")
EXERCISE = re.compile(r"### Exercise: `my_(\w+)`\s+\((★+), (\d+) min")


class CatalogueExercise(NamedTuple):
    """An exercise, before it is solved."""

    name: str  # the learner writes my_name, and checks.name checks it
    stars: int  # 1 to 3, by difficulty
    minutes: int


class Lesson(NamedTuple):
    """A notebook of the course."""

    number: str  # of two digits
    title: str
    path: Path
    exercises: tuple[CatalogueExercise, ...]


def lessons_folder() -> Path:
    """The lessons that come with the library: to be copied, not to be worked in.

    Raises:
        FileNotFoundError: If there are none.
    """
    folder = find_shipped("lessons")
    if folder is None:
        raise FileNotFoundError(
            "the lessons are missing: there is no folder lessons beside or in ddetr_edu; clone the "
            "repository or install the library again"
        )
    return folder


def read_lessons(folder: Path) -> list[Lesson]:
    """The lessons of a folder, in order.

    Args:
        folder: From `lessons_folder`.

    Returns:
        One entry for each lesson, with its exercises.

    Raises:
        ValueError: Naming the file, if a notebook is damaged.
    """
    lessons = []
    for path in folder.glob("*.ipynb"):
        if not LESSON_NAME.fullmatch(path.name):  # a learner's copy of one, for example
            continue
        cells = read_notebook(path)["cells"]
        prose = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
        title = TITLE.match(prose[0]) if prose else None
        found = [match for text in prose if (match := EXERCISE.match(text))]
        exercises = (CatalogueExercise(m[1], len(m[2]), int(m[3])) for m in found)
        heading = title[1] if title else path.stem
        lessons.append(Lesson(path.name[:2], heading, path, tuple(exercises)))
    return sorted(lessons)


def read_notebook(path: Path) -> dict:
    """A notebook, with each cell's source as one string.

    Args:
        path: The file.

    Returns:
        What is in it.

    Raises:
        ValueError: If it is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
            cell["cell_type"]  # noqa: B018
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is no notebook in version 4 of Jupyter's format") from None
    return notebook
