"""Finding the image files that annotations name, wherever they are now."""

import itertools
import os
import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ddetr_edu.data.faults import DataError, Fault, OnFault

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"}
    | {".webp"}
)


def relative_to(path: Path, root: Path) -> str:
    """A path as messages show it.

    Args:
        path: The path.
        root: The folder of the data set.

    Returns:
        What follows the root, with slashes; the whole path if it is elsewhere.
    """
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def read_text(file: Path) -> str:
    """The content of a text file.

    Args:
        file: The file.

    Returns:
        Its text, without a byte order mark.

    Raises:
        DataError: If it is not encoded in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read as text ({error}); save it as UTF-8") from error


def files_below(folder: Path, suffixes: Iterable[str]) -> Iterator[Path]:
    """The files of a folder and its subfolders, in alphabetical order, hidden ones left out.

    Args:
        folder: The folder; links to other folders are followed.
        suffixes: In small letters; the files' may be in capitals.

    Yields:
        Their paths.
    """
    suffixes, visited = frozenset(suffixes), set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a folder above would be followed for ever
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(parent, name)


class ImageIndex:
    """The image files below some folders, to be found by the names that annotations give them.

    Args:
        folders: The folders to search.
        skip: What the names of subfolders begin with that hold other images, such as masks.

    Attributes:
        paths: All images, in alphabetical order.
    """

    def __init__(self, folders: Iterable[Path], skip: tuple[str, ...] = ()):
        self.paths = sorted(
            {
                path
                for folder in folders
                for path in files_below(folder, IMAGE_SUFFIXES)
                if not any(part.startswith(skip) for part in path.relative_to(folder).parts[:-1])
            }
        )
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[_key(path.name)].append(path)
            self._by_stem[_key(path.stem)].append(path)

    def find(self, name: str, near: Path) -> list[Path]:
        """The files that an annotated name can mean.

        Of the name, the longest ending that fits counts, so that the folders and the server of the
        annotation tool need not exist here.

        Args:
            name: The annotated name: a path of any system, or an address.
            near: A folder; of two files that fit equally well, the one is meant whose path has
                more of this folder's names, such as that of the split.

        Returns:
            No file, the one that is meant, or several that fit equally well.
        """
        for spelling in _spellings(name):
            parts = _parts(spelling)
            if parts and (candidates := self._by_name.get(_key(parts[-1]))):
                return _best(candidates, parts, near)
        return []

    def find_stem(self, stem: str, name: str, near: Path) -> list[Path]:
        """The files of a name without its ending.

        Args:
            stem: The name without its ending.
            name: The name that is preferred among those of this stem.
            near: As in `find`.

        Returns:
            As `find`.
        """
        return _best(self._by_stem.get(_key(stem), []), [name], near)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _spellings(name: str) -> Iterator[str]:
    yield name
    yield urllib.parse.unquote(name)
    # Label Studio puts eight hexadecimal digits before the name of an uploaded file.
    yield re.sub(r"^(.*[/\\])?[0-9a-f]{8}-", "", urllib.parse.unquote(name))


def _parts(name: str) -> list[str]:
    """The folders and the file of an annotated name."""
    if "?d=" in name:  # Label Studio's local files
        name = name.split("?d=")[1]
    elif "://" in name:
        name = urllib.parse.urlsplit(name).path
    return [p for p in name.replace("\\", "/").split("/") if p not in ("", ".", "..")]


def _best(candidates: Sequence[Path], parts: list[str], near: Path) -> list[Path]:
    """The candidates that fit the most of a name's ending; of these, those nearest to a folder."""

    def rank(path: Path) -> tuple[int, int, bool]:
        pairs = zip(reversed(path.parts), reversed(parts), strict=False)
        ending = itertools.takewhile(lambda pair: _key(pair[0]) == _key(pair[1]), pairs)
        shared = len({*map(_key, path.parent.parts)} & {*map(_key, near.parts)})
        return len(list(ending)), shared, path.name == parts[-1]

    ranks = {path: rank(path) for path in candidates}
    best = max(ranks.values(), default=None)
    return [path for path, value in ranks.items() if value == best]


def only(candidates: list[Path], where: str, name: str, on_fault: OnFault) -> Path | None:
    """The one file that an annotated name means; anything else is reported.

    Args:
        candidates: From `ImageIndex`.
        where: The annotation file, for the message.
        name: The annotated name.
        on_fault: Called if there is none, or several.

    Returns:
        The file, or None.
    """
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        kind, message = (
            "images whose name fits two files",
            f"{where}: {name!r} can be {candidates[0]} or {candidates[1]}; remove one of them",
        )
    else:
        kind, message = (
            "images without a file",
            f"{where}: there is no image {name!r}; add it, or give its folder with --images",
        )
    on_fault(Fault("left out", kind, message, name))
    return None
