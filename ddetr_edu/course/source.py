"""The library's source in a lesson: highlighted, with its file's name, folded when it is long."""

import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1]
FOLDED_FROM = 40  # lines


def show_source(*shown) -> "Source":
    """Show the code of functions, classes or whole modules of this library in a notebook.

    Args:
        shown: Functions, methods, classes or modules.

    Returns:
        What a notebook shows by itself, and other programs print.
    """
    return Source(shown)


class Source:
    """The code of parts of this library, each with its file's name.

    Args:
        shown: Functions, methods, classes or modules.
    """

    def __init__(self, shown: tuple):
        self.parts = [(title_of(part), code_of(part)) for part in shown]

    def __repr__(self) -> str:
        return "\n\n".join(f"# {title}\n\n{code}" for title, code in self.parts)

    def _repr_markdown_(self) -> str:
        return "\n".join(folded(title, code) for title, code in self.parts)


def title_of(part) -> str:
    """Where a part of the library stands.

    Args:
        part: A function, a method, a class or a module.

    Returns:
        Such as "ddetr_edu/attention/offsets.py: initial_offsets"; the file alone for a module.
    """
    module = inspect.getmodule(part)
    assert module is not None and module.__file__ is not None
    file = Path(module.__file__).relative_to(PACKAGE.parent).as_posix()
    return file if isinstance(part, ModuleType) else f"{file}: {part.__qualname__}"


def code_of(part) -> str:
    """The code of a part of the library, a method's without its indentation.

    Args:
        part: A function, a method, a class or a module.

    Returns:
        The code, with one line break at its end.
    """
    return textwrap.dedent(inspect.getsource(part)).rstrip() + "\n"


def folded(title: str, code: str) -> str:
    """Code as Markdown that can be folded; it is open at first if it is short.

    Args:
        title: Stays visible.
        code: Python.

    Returns:
        Markdown.
    """
    n_lines = code.count("\n")
    opened = " open" if n_lines < FOLDED_FROM else ""
    summary = f"<summary><code>{title}</code>, {n_lines} lines</summary>"
    # A docstring may have ticks of its own. Without the blank lines, the code is not Markdown.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"<details{opened}>\n{summary}\n\n{fence}python\n{code}{fence}\n\n</details>\n"
