"""What the tests of lessons share: reading notebooks, as committed where a learner is at work."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from ddetr_edu.course.notebooks import learners_cells

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))


def as_committed(path: Path) -> str:
    """A file as git has it, staged or committed; as it is if git does not know it yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    name = path.relative_to(ROOT).as_posix()
    shown = subprocess.run(["git", "show", f":{name}"], cwd=ROOT, capture_output=True)
    return (path.read_bytes() if shown.returncode else shown.stdout).decode()


def read(path: Path) -> nbformat.NotebookNode:
    """A lesson as it is or, where a learner is at work in it, as it was committed."""
    notebook = nbformat.read(path, as_version=4)
    if learners_cells(notebook.cells):
        notebook = nbformat.reads(as_committed(path), as_version=4)
    return notebook


def text(notebook, kind: str = "markdown") -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def check_names(notebook) -> list[str]:
    """The exercises of a lesson, in order."""
    return re.findall(r"checks\.(\w+)\(my_", text(notebook, "code"))
