"""A copy of the lessons to work in, so that those that came with the library stay as they are."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from ddetr_edu.course.catalogue import read_notebook
from ddetr_edu.files import atomic_write, find_shipped

COPIED = ("*.ipynb", "*.md")
# [text](../path) or ![text](../path), where the text may be in [] itself, and may be code.
LINK_OUTSIDE = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?:\.\./)+([^)\s]+)\)")


class Copied(NamedTuple):
    """What was done with each file of the lessons."""

    added: list[str]  # names
    kept: list[str]  # names that were there already


def copy_lessons(lessons: Path, folder: Path) -> Copied:
    """Copy the lessons with all outputs. A file that is there already is left as it is.

    Args:
        lessons: The folder to copy from.
        folder: The folder to copy to; it is made if need be.

    Returns:
        Which files were added and which were kept.

    Raises:
        ValueError: If the folder is that of the lessons or inside it, or no folder.
    """
    if any(parent.exists() and parent.samefile(lessons) for parent in _with_parents(folder)):
        raise ValueError(
            f"{folder} is where the lessons themselves are; choose a folder outside {lessons}"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose the name of a folder")
    copied = Copied([], [])
    for source in sorted(path for pattern in COPIED for path in lessons.glob(pattern)):
        target = folder / source.name
        if target.exists() or target.is_symlink():
            copied.kept.append(source.name)
        else:
            atomic_write(target, _content(source))
            copied.added.append(source.name)
    return copied


def _with_parents(folder: Path) -> list[Path]:
    absolute = folder.resolve()
    return [absolute, *absolute.parents]


def _content(source: Path) -> bytes:
    """A file for the copy: links that lead out of the lessons' folder become text."""
    if source.suffix == ".md":
        return without_links_outside(source.read_text(encoding="utf-8")).encode()
    notebook = read_notebook(source)
    prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    if not any(LINK_OUTSIDE.search(cell["source"]) for cell in prose):
        return source.read_bytes()
    for cell in prose:
        cell["source"] = without_links_outside(cell["source"])
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def without_links_outside(markdown: str) -> str:
    """Replace links that would be dead in a copy by their text and the path of the file.

    Jupyter opens nothing outside of the folder in which it was started, so no other path would do.

    Args:
        markdown: A text of the lessons' folder.

    Returns:
        The text for another folder. Links to other lessons stay.
    """

    def replace(link: re.Match) -> str:
        path = find_shipped(link[2].split("#")[0])
        return link[1] if path is None else f"{link[1]} (`{path}`)"

    return LINK_OUTSIDE.sub(replace, markdown)
