"""Writing files so that none is ever half written, and where the library's own files are."""

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def atomic_write(
    path: Path, content: bytes | Callable[[BinaryIO], object], temporary_folder: Path | None = None
) -> None:
    """Write a file completely or not at all; until then an existing one stays as it is.

    The content is written to a temporary file, synchronised with the disk and then renamed.

    Args:
        path: The file to write; its folder is created if needed.
        content: The file's bytes, or a function that writes them to an open binary file. What it
            raises is passed on, unless it reports that the disk cannot be written.
        temporary_folder: Where the temporary file is written, on the same file system as `path`;
            beside `path` if None.

    Raises:
        OSError: If the file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{os.getpid()}-{threading.get_ident()}"
    temporary = (temporary_folder or path.parent) / name
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if reason := _why_not_written(error):
            raise OSError(
                f"{path} could not be written: {reason}; an earlier file of that name is untouched"
            ) from error
        raise


def _why_not_written(error: BaseException) -> str | None:
    """What the system says is wrong with the disk; None for an error that is about anything else.

    An error of the system has an errno. One without is a sentence of the function that wrote.
    """
    if isinstance(error, RuntimeError):
        return "the disk seems to be full"  # torch.save reports nothing more precise
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or str(error)
    return None


def cache_folder() -> Path:
    """The folder for files that can be created again, as is usual on this system.

    Returns:
        `$XDG_CACHE_HOME/ddetr_edu`, or the same inside `~/.cache` on Linux, `~/Library/Caches` on
        macOS and `%LOCALAPPDATA%` on Windows. It need not exist.
    """
    return _user_folder("XDG_CACHE_HOME", "~/.cache", "~/Library/Caches")


def data_folder() -> Path:
    """The folder for what a user would miss, as is usual on this system.

    Returns:
        `$XDG_DATA_HOME/ddetr_edu`, or the same inside `~/.local/share` on Linux,
        `~/Library/Application Support` on macOS and `%LOCALAPPDATA%` on Windows. It need not exist.
    """
    return _user_folder("XDG_DATA_HOME", "~/.local/share", "~/Library/Application Support")


def _user_folder(variable: str, linux: str, macos: str) -> Path:
    """This library's folder inside one that the user's system has for such files."""
    if os.environ.get(variable):
        base = Path(os.environ[variable])
    elif sys.platform == "darwin":
        base = Path(macos).expanduser()
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir()))
    else:
        base = Path(linux).expanduser()
    return base / "ddetr_edu"


def find_shipped(name: str) -> Path | None:
    """A file or folder that comes with the library but is no Python.

    Args:
        name: Its path in the repository, such as "lessons".

    Returns:
        Its path inside an installed package, or beside the package in a checkout; None if it is in
        neither.
    """
    package = Path(__file__).parent
    paths = (package / name, package.parent / name)
    return next((path for path in paths if path.exists()), None)


def shipped_path(name: str, what: str = "file") -> Path:
    """A file that comes with the library, and without which the caller cannot go on.

    Args:
        name: Its path in the repository.
        what: What it is, for the message.

    Returns:
        As `find_shipped`.

    Raises:
        FileNotFoundError: If it is missing.
    """
    path = find_shipped(name)
    if path is None:
        raise FileNotFoundError(
            f"the {what} that comes with the library is missing: there is no {name} here; "
            "clone the repository or install the library again"
        )
    return path
