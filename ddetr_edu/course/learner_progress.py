"""A learner's progress: what was passed and how often it was tried.

It is a file in the user's data folder, never in the repository. Each try adds one line to its end.
So two notebooks cannot lose each other's records, and a line that cannot be read costs no more than
itself.
"""

import datetime
import functools
import json
import sys
from pathlib import Path
from typing import NamedTuple

from ddetr_edu.files import data_folder


class Tries(NamedTuple):
    """What a learner has done with one exercise."""

    times: int  # at least 1
    first_passed: str | None  # a date such as 2026-05-31; None if it was never passed


class Progress(NamedTuple):
    """What a learner has done so far."""

    exercises: dict[str, Tries]  # by name; those that were never tried are not here
    copies: list[Path]  # folders with copies of the lessons, the latest first; some may be gone
    unreadable: int  # damaged lines of the file


def progress_file() -> Path:
    """The file of this user's progress. It need not exist."""
    return data_folder() / "progress.jsonl"


def record(name: str, passed: bool) -> None:
    """Keep the result of a check. If that fails, say so once, and never raise.

    Args:
        name: The exercise.
        passed: Whether the answer was right.
    """
    _append({"exercise": name, "passed": bool(passed)})


def record_copy(folder: Path) -> None:
    """Keep where a copy of the lessons is. If that fails, say so once, and never raise.

    Args:
        folder: The folder of the copy.
    """
    _append({"copy": str(folder.resolve())})


def _append(entry: dict) -> None:
    line = json.dumps({"date": datetime.date.today().isoformat(), **entry})
    try:
        path = progress_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        # One unbuffered write at the end of a file is not interleaved with that of another process.
        # The line break comes first in case that the last line was cut off by a full disk.
        with path.open("ab", buffering=0) as file:
            file.write(f"\n{line}".encode())
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        _say_once(f"your progress cannot be kept: {error}")


@functools.cache
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def read_progress() -> Progress:
    """Read what was recorded.

    Returns:
        The progress; nothing at all before the first record.

    Raises:
        OSError: In one sentence, if there is a file that cannot be read.
    """
    path = progress_file()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise OSError(f"your progress cannot be read: {error}") from None
    exercises: dict[str, Tries] = {}
    copies: list[Path] = []
    unreadable = 0
    for line in filter(str.strip, lines):
        match _parse(line):
            case {"exercise": str(name), "passed": bool(passed), "date": str(date)}:
                before = exercises.get(name, Tries(0, None))
                first_passed = before.first_passed or (date if passed else None)
                exercises[name] = Tries(before.times + 1, first_passed)
            case {"copy": str(folder)}:
                copies = [Path(folder), *(path for path in copies if path != Path(folder))]
            case _:
                unreadable += 1
    return Progress(exercises, copies, unreadable)


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
