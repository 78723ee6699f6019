"""Statistics of a data set: how many objects it has, of which categories and sizes."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Areas in px^2: COCO calls an object small below the first and large from the second on.
SMALL, MEDIUM = 32**2, 96**2


@dataclass(frozen=True)
class Statistics:
    """The statistics of one split. Only `crowds` includes crowds."""

    sizes: np.ndarray  # (images, 2), height and width in px
    counts: np.ndarray  # (images,), number of objects in each image
    areas: np.ndarray  # (objects,), in px^2, as annotated
    labels: np.ndarray  # (objects,), category ids
    categories: dict[int, str]  # {id: name}
    crowds: int  # number of regions that are marked as a crowd

    def by_size(self) -> tuple[int, int, int]:
        """The numbers of small, medium and large objects, as defined for AP_S, AP_M and AP_L."""
        small, large = (self.areas < SMALL).sum(), (self.areas >= MEDIUM).sum()
        return int(small), int(len(self.areas) - small - large), int(large)


def compute_statistics(dataset) -> Statistics:
    """The statistics of a data set, from its annotations alone.

    Args:
        dataset: A `CocoDetection` or `Shapes`.

    Returns:
        Its statistics.
    """
    truth = dataset.ground_truth()
    images = list(truth.imgs.values())
    objects = [a for a in truth.anns.values() if not a["iscrowd"]]
    count = dict.fromkeys(truth.imgs, 0)
    for annotation in objects:
        count[annotation["image_id"]] += 1
    return Statistics(
        sizes=np.array([(i["height"], i["width"]) for i in images]).reshape(-1, 2),
        counts=np.array(list(count.values()), int),
        areas=np.array([a["area"] for a in objects], float),
        labels=np.array([a["category_id"] for a in objects], int),
        categories=dataset.categories,
        crowds=len(truth.anns) - len(objects),
    )


def describe_excess_objects(counts: dict[int, int], queries: dict[str, int]) -> str:
    """Say which images have more objects than a detector can find.

    Args:
        counts: {image id: number of objects in it}.
        queries: {the name of a detector: its number of queries}.

    Returns:
        A sentence; empty if every detector has enough queries.
    """
    most = max(counts.values(), default=0)
    few = {name: n for name, n in queries.items() if n < most}
    if not few:
        return ""
    fullest = next(i for i, count in counts.items() if count == most)
    images = ", ".join(
        f"{sum(count > n for count in counts.values())} with more than {n} ({_names(few, n)})"
        for n in sorted(set(few.values()))
    )
    return (
        f"image {fullest} has {most} objects, and a detector finds at most one for each "
        f"of its queries: of {len(counts)} images, {images}; choose a detector with more queries "
        "(n_queries), or cut such images into parts"
    )


def _names(queries: dict[str, int], n: int) -> str:
    return ", ".join(name for name, number in queries.items() if number == n)


def table(splits: dict[str, Statistics]) -> str:
    """A table of the statistics, one column per split, the most frequent categories first.

    Args:
        splits: {name: statistics}, at least one.

    Returns:
        The table as text, without a final newline.
    """
    rows = [["", *splits]]
    rows.append(["images", *(str(len(s.counts)) for s in splits.values())])
    rows.append(["  without an object", *(str((s.counts == 0).sum()) for s in splits.values())])
    rows.append(["  width x height, median", *(_median_size(s.sizes) for s in splits.values())])
    rows.append(["objects", *(str(len(s.areas)) for s in splits.values())])
    names = ("small, below 32 x 32", "medium", "large, from 96 x 96")
    for n, name in enumerate(names):
        rows.append([f"  {name}", *(_share(s.by_size()[n], s) for s in splits.values())])
    rows.append(["  per image, mean", *(_reduce(np.mean, s.counts) for s in splits.values())])
    rows.append(["  per image, maximum", *(_reduce(np.max, s.counts) for s in splits.values())])
    rows.append(["crowds", *(str(s.crowds) for s in splits.values())])
    rows.append(["objects by category", *([""] * len(splits))])
    for label, name in by_frequency(splits):
        name = " ".join(name.split())  # a name may hold line breaks
        rows.append([f"  {name}", *(_share((s.labels == label).sum(), s) for s in splits.values())])
    first, *others = (max(map(_width, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        name
        + " " * (first - _width(name))
        + "".join(" " * (w + 2 - _width(v)) + v for v, w in zip(values, others, strict=True))
        for name, *values in rows
    )


def _width(text: str) -> int:
    """The number of columns that a text takes in a terminal."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def by_frequency(splits: dict[str, Statistics]) -> list[tuple[int, str]]:
    """The categories of all splits, those with the most objects first.

    Args:
        splits: {name: statistics}, at least one.

    Returns:
        (id, name) of each category.
    """
    labels = np.concatenate([s.labels for s in splits.values()])
    names = {i: name for s in splits.values() for i, name in s.categories.items()}
    return sorted(names.items(), key=lambda entry: (-(labels == entry[0]).sum(), entry[0]))


def _share(part: int, whole: Statistics) -> str:
    """A number of objects, and what part of all it is."""
    return f"{part} ({part / max(1, len(whole.areas)):4.0%})"


def _median_size(sizes: np.ndarray) -> str:
    if not len(sizes):
        return "-"
    height, width = np.median(sizes, axis=0)
    return f"{width:.0f} x {height:.0f}"


def _reduce(function: Callable, values: np.ndarray) -> str:
    return f"{function(values):.3g}" if len(values) else "-"
