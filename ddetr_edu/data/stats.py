"""What a data set is made of, in numbers: how many objects, of what, and how large."""

from dataclasses import dataclass

import numpy as np

SMALL, MEDIUM = (
    32**2,
    96**2,
)  # px^2; COCO calls an object small below the first, large from the second


@dataclass(frozen=True)
class Statistics:
    """The numbers of one split.

    sizes:   (pictures, 2) height and width in pixels
    counts:  (pictures,) objects in each picture; crowds are not counted here or below
    areas:   (objects,) in px^2, as the annotations say
    labels:  (objects,) category ids;  categories: {id: name}
    crowds:  how many regions are marked as a crowd
    """

    sizes: np.ndarray
    counts: np.ndarray
    areas: np.ndarray
    labels: np.ndarray
    categories: dict[int, str]
    crowds: int

    def by_size(self) -> tuple[int, int, int]:
        """How many objects are small, medium and large, as COCO's AP_S, AP_M and AP_L."""
        small, large = (self.areas < SMALL).sum(), (self.areas >= MEDIUM).sum()
        return int(small), int(len(self.areas) - small - large), int(large)


def measure(dataset) -> Statistics:
    """The statistics of a `CocoDetection` or `Shapes`, from its annotations alone."""
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


def table(splits: dict[str, Statistics]) -> str:
    """The numbers of each split side by side, the most frequent categories first."""
    rows = [["", *splits]]
    rows.append(["pictures", *(str(len(s.counts)) for s in splits.values())])
    rows.append(["  without an object", *(str((s.counts == 0).sum()) for s in splits.values())])
    rows.append(["  width x height, median", *(middle(s.sizes) for s in splits.values())])
    rows.append(["objects", *(str(len(s.areas)) for s in splits.values())])
    names = ("small, below 32 x 32", "medium", "large, from 96 x 96")
    for n, name in enumerate(names):
        rows.append([f"  {name}", *(share(s.by_size()[n], s) for s in splits.values())])
    rows.append(["  in a picture, mean", *(of(np.mean, s.counts) for s in splits.values())])
    rows.append(["  in a picture, most", *(of(np.max, s.counts) for s in splits.values())])
    rows.append(["crowds", *(str(s.crowds) for s in splits.values())])
    rows.append(["objects by category", *([""] * len(splits))])
    for label, name in by_frequency(splits):
        rows.append([f"  {name}", *(share((s.labels == label).sum(), s) for s in splits.values())])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        name.ljust(first) + "".join(f"  {v:>{w}}" for v, w in zip(values, others, strict=True))
        for name, *values in rows
    )


def by_frequency(splits: dict[str, Statistics]) -> list[tuple[int, str]]:
    """The (id, name) of all categories, those with the most objects first."""
    labels = np.concatenate([s.labels for s in splits.values()])
    names = {i: name for s in splits.values() for i, name in s.categories.items()}
    return sorted(names.items(), key=lambda entry: (-(labels == entry[0]).sum(), entry[0]))


def share(part: int, whole: Statistics) -> str:
    return f"{part} ({part / max(1, len(whole.areas)):4.0%})"


def middle(sizes: np.ndarray) -> str:
    if not len(sizes):
        return "-"
    height, width = np.median(sizes, axis=0)
    return f"{width:.0f} x {height:.0f}"


def of(what, values: np.ndarray) -> str:
    return f"{what(values):.3g}" if len(values) else "-"
