"""Dividing images into splits at random, with the objects of each category in proportion."""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from ddetr_edu.data.labelled import LabelledImage, LabelledSet
from ddetr_edu.data.split_names import UNNAMED


def complete_splits(data: LabelledSet, val: float, seed: int) -> None:
    """Make a split for validation out of train, or of images without a split, if there is none.

    Args:
        data: The data set, which is changed; a note says what was done.
        val: The share of these images that becomes val; 0 makes no such split.
        seed: Of the choice.

    Raises:
        ValueError: If there are too few images.
    """
    if unnamed := data.splits.pop(UNNAMED, []):
        data.splits["train"] = data.splits.get("train", []) + unnamed
    train = next((split for split in data.splits if split.startswith("train")), None)
    if val and train and not any(split.startswith("val") for split in data.splits):
        shares = {train: 1 - val, "val": val}
        data.splits |= split_images(data.splits[train], shares, seed)
        data.notes.append(
            f"there was no split for validation; a share of {val:g} of the images was chosen for "
            f"it, with seed {seed}; --val 0 leaves all in {train}"
        )


def split_images(
    images: Sequence[LabelledImage], shares: dict[str, float], seed: int
) -> dict[str, list[LabelledImage]]:
    """Divide images into splits.

    The rarest category is divided first, its images with the most objects first. Each goes to the
    split that lacks most of this category's objects for each image that it still takes. Images
    without an object come last. Copies of one image stay together, see `_families`.

    Args:
        images: The images; their order is of no importance.
        shares: {split: its share of the images}; the shares add up to 1.
        seed: The same seed makes the same splits.

    Returns:
        {split: its images}, each with at least one image.

    Raises:
        ValueError: If there are fewer images than splits.

    Source: the greedy order is that of Sechidis et al., On the Stratification of Multi-Label Data
    (2011), with numbers of objects instead of numbers of images.
    """
    families = _families(images)
    if len(families) < len(shares):
        raise ValueError(
            f"{len(families)} different images cannot be divided into {len(shares)} splits "
            f"({', '.join(shares)}); add images, or ask for fewer splits"
        )
    random.Random(seed).shuffle(families)
    counts = [Counter(o["category"] for image in f for o in image.objects) for f in families]
    total: Counter[str] = sum(counts, Counter())
    room = _sizes(shares, len(images))
    lacking = {split: {c: share * n for c, n in total.items()} for split, share in shares.items()}
    result: dict[str, list[LabelledImage]] = {split: [] for split in shares}

    left = dict.fromkeys(range(len(families)))

    def assign(index: int, category: str | None) -> None:
        empty = [s for s in shares if not result[s]]
        open_splits = [s for s in shares if room[s] > 0] or list(shares)
        if len(left) <= len(empty):  # each of the last images goes to a split that has none
            open_splits = empty
        need = {s: lacking[s].get(category or "", 0) / max(1, room[s]) for s in open_splits}
        split = max(open_splits, key=lambda s: (need[s], room[s]))
        result[split] += families[index]
        room[split] -= len(families[index])
        for c, n in counts[index].items():
            lacking[split][c] -= n
        del left[index]

    for category in sorted(total, key=lambda c: (total[c], c)):
        showing = [index for index in left if counts[index][category]]
        for index in sorted(showing, key=lambda index: -counts[index][category]):
            assign(index, category)
    for index in list(left):
        assign(index, None)
    return result


def _sizes(shares: dict[str, float], n: int) -> dict[str, int]:
    """{split: number of images}, at least 1 each; the first split takes what rounding leaves."""
    first, *others = shares
    sizes = {split: max(1, round(shares[split] * n)) for split in others}
    return {first: max(1, n - sum(sizes.values())), **sizes}


def _families(images: Sequence[LabelledImage]) -> list[list[LabelledImage]]:
    """Images in groups of copies, in an order that only depends on their paths.

    Copies are files with the same bytes, and the variants that Roboflow makes of one image, which
    are named NAME.rf.HASH.jpg. If copies were in two splits, the evaluation would be too
    optimistic.
    """
    images = sorted(images, key=lambda image: image.path.as_posix())
    by_length = Counter(image.path.stat().st_size for image in images)
    families: dict[str, list[LabelledImage]] = {}
    family_of: dict[str, str] = {}  # of the names and digests that were met
    members: dict[str, list[str]] = defaultdict(list)
    for image in images:
        marks = [str(image.path)]
        if variant := re.fullmatch(r"(.+)\.rf\.[^.]+\.\w+", image.path.name):
            marks.append(f"variant of {variant[1]}")
        if by_length[image.path.stat().st_size] > 1:
            marks.append(_digest(image.path))
        known = list(dict.fromkeys(family_of[mark] for mark in marks if mark in family_of))
        family = known[0] if known else marks[0]
        merged = [image for other in known[1:] for image in families.pop(other)]
        for mark in [*marks, *(mark for other in known[1:] for mark in members.pop(other))]:
            family_of[mark] = family
            members[family].append(mark)
        families.setdefault(family, []).extend([*merged, image])
    return list(families.values())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
