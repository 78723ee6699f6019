"""The names of splits, as files and folders of any tool spell them."""

import re
from collections.abc import Iterable
from pathlib import Path

UNNAMED = ""  # the split of images that no list, folder or file name assigns to one
SPLIT_ORDER = ("train", "val", "test")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What the names of folders say besides; "train station" is no split.
_OTHER_WORDS = {"annotations", "data", "dataset", "images", "img", "imgs", "labels", "obj", "set"}


def split_in(name: str) -> str:
    """The split that the name of a file speaks of.

    Args:
        name: Such as "train", "instances_train2017" or "annotations_valid".

    Returns:
        "train", "val" or "test", with the digits that follow it; UNNAMED if there is none.
    """
    return next((split for word in _words(name) if (split := _split(word))), UNNAMED)


def split_of(path: Path, root: Path) -> str:
    """The split that a file belongs to by the folders it is in, the nearest one first.

    Args:
        path: The file.
        root: The folder of the data set, whose own name does not count.

    Returns:
        The name of the split; UNNAMED if no folder is named like one.
    """
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    for folder in reversed(folders):
        words = [word for word in _words(folder) if word not in _OTHER_WORDS]
        if len(words) == 1 and (split := _split(words[0])):
            return split
    return UNNAMED


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _split(word: str) -> str:
    """The split that a word means, such as "val" for "valid"."""
    letters = word.rstrip("0123456789")
    return _SPLITS[letters] + word[len(letters) :] if letters in _SPLITS else UNNAMED


def ordered(splits: Iterable[str]) -> list[str]:
    """The names of splits in the order train, val, test and then alphabetically.

    Args:
        splits: The names.

    Returns:
        The same names.
    """

    def rank(split: str) -> tuple[int, str]:
        kinds = [n for n, name in enumerate(SPLIT_ORDER) if split.startswith(name)]
        return (kinds or [len(SPLIT_ORDER)])[0], split

    return sorted(splits, key=rank)
