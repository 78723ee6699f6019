"""Tidy notebooks before they are committed: `python -m ddetr_edu.course.notebooks FILE ...`

Outputs stay: they are the reference that the tests compare with, and what readers see on the web.
What is removed is metadata that changes from run to run and from machine to machine without meaning
anything: execution times, the state of widgets, the editor's settings.
"""

import json
import sys
from pathlib import Path

KEPT_METADATA = ("kernelspec", "language_info")


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
    return {**notebook, "cells": cells, "metadata": metadata}


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
