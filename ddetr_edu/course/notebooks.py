"""Tidy notebooks before they are committed: `python -m ddetr_edu.course.notebooks FILE ...`

It also tells a lesson's own cells from those in which a learner is at work.

Outputs stay: they are the reference that the tests compare with, and what readers see on the web.
What is removed is metadata that changes from run to run and from machine to machine without meaning
anything: execution times, the state of widgets, the editor's settings.
"""

import json
import re
import sys
from pathlib import Path

KEPT_METADATA = ("kernelspec", "language_info")
LESSON_CELL = re.compile(r"\d\d-")  # the ids of a lesson's cells; Jupyter gives others to new ones
STUB = "raise NotImplementedError  # put your answer here"
FUNCTION_STUB = re.compile(rf'def (my_\w+)\(.*\):\n    """.*"""\n    {re.escape(STUB)}\s*')
CHOICE_STUB = re.compile(r'(my_\w+) = \{\n(?:    ".*": None,  # put your answer here\n)+\}\s*')
GUESS_STUB = re.compile(r"(guess_\w+) = None\b *(?:#.*)?")


def tidy(notebook: dict) -> dict:
    """Remove all metadata that a reader does not need.

    Args:
        notebook: A notebook in version 4 of Jupyter's format, as read from JSON; it is not changed.

    Returns:
        The tidied notebook.
    """
    metadata = {k: v for k, v in notebook["metadata"].items() if k in KEPT_METADATA}
    metadata["language_info"] = {"name": "python"}  # its version is this machine's, not ours
    cells = [{**cell, "metadata": {}} for cell in notebook["cells"]]
    for cell in cells:
        if "outputs" in cell:
            cell["outputs"] = join_printed(cell["outputs"])
    return {**notebook, "cells": cells, "metadata": metadata}


def join_printed(outputs: list[dict]) -> list[dict]:
    """Join what a cell printed in several pieces, as it does on a busy machine.

    Args:
        outputs: Of one cell; they are not changed.

    Returns:
        The outputs, with no two pieces of the same stream in a row.
    """
    joined: list[dict] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            text = "".join([*last["text"], *output["text"]])  # lists of lines in JSON, or a string
            joined[-1] = {**last, "text": text.splitlines(keepends=True)}
        else:
            joined.append(output)
    return joined


def learners_cells(cells: list[dict]) -> list[dict]:
    """The code cells in which a learner is at work.

    Args:
        cells: All cells of a lesson, with a string for a source.

    Returns:
        Cells that were added, exercises whose stub was changed, guesses that were made, and the
        checks of these exercises and the comparisons with these guesses.
    """
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    untouched = {name for cell in code for name in untouched_names(cell["source"])}

    def is_learners(cell: dict) -> bool:
        # my_x and guess_x, checks.x(my_x), compare_guess(guess_x, ...)
        names = set(re.findall(r"\b(?:my|guess)_\w+", cell["source"]))
        return not LESSON_CELL.match(cell.get("id", "")) or not names <= untouched

    return [cell for cell in code if is_learners(cell)]


def untouched_names(source: str) -> list[str]:
    """The names that a cell leaves to the learner to fill in.

    Args:
        source: A cell's code.

    Returns:
        my_x of a stub, or guess_x of one guess or more; nothing if anything was filled in.
    """
    if found := FUNCTION_STUB.fullmatch(source) or CHOICE_STUB.fullmatch(source):
        return [found[1]]
    guesses = [GUESS_STUB.fullmatch(line) for line in source.splitlines()]
    return [found[1] for found in guesses if found] if all(guesses) else []


def main(paths: list[str]) -> int:
    """Tidy notebooks in place and name those that changed.

    Args:
        paths: The notebooks' files.

    Returns:
        How many files were changed.
    """
    changed = 0
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        after = json.dumps(tidy(json.loads(before)), indent=1, ensure_ascii=False) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"tidied {path}")
            changed += 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
