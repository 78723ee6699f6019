"""Choosing images of COCO by category, licence and seed."""

import difflib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from ddetr_edu.data.annotations import read_lists


class SubsetSelection:
    """The images of a split that qualify for a subset, in the order in which they are taken.

    The first `count` images of `order` are the subset, and the following ones replace those that
    cannot be downloaded. The order depends only on the annotations, the categories, the licences,
    `choose` and the seed.

    Args:
        annotation_file: COCO's own annotation file of the split.
        split: The name of the split.
        count: The number of images to take.
        allow_fewer: Whether to take all images if there are fewer, instead of raising.
        categories: Names separated by commas; all categories if empty.
        license: Short names of licences separated by commas, see `license_name`; all if empty.
        choose: "balanced", see `balanced_order`, or "random".
        seed: Of the random order.

    Attributes:
        split: As given.
        count: The number of images to take, at least 1.
        categories: COCO's entries of the chosen categories.
        licenses: {id: entry} of all of COCO's licences.
        order: COCO's entries of the images; can be iterated over once.

    Raises:
        ValueError: For an unknown category or licence, or if there are too few images.
        DataError: If the annotation file cannot be read.
    """

    def __init__(
        self,
        annotation_file: Path,
        split: str,
        count: int,
        allow_fewer: bool = False,
        *,
        categories: str = "",
        license: str = "",
        choose: Literal["balanced", "random"] = "balanced",
        seed: int = 0,
    ):
        self.split = split
        data = read_lists(annotation_file)
        self._image_entries = data["images"]
        ids = {category["name"]: category["id"] for category in data["categories"]}
        names = parse_names(categories, ids, "category") or list(ids)
        self.categories = [c for c in data["categories"] if c["name"] in names]
        self.licenses = {entry["id"]: entry for entry in data.get("licenses", [])}
        license_ids = {license_name(entry): i for i, entry in self.licenses.items()}
        license_names = parse_names(license, license_ids, "licence") or list(license_ids)
        allowed = {license_ids[name] for name in license_names}

        chosen_ids = {category["id"] for category in self.categories}
        images = {e["id"]: e for e in data["images"] if e.get("license") in allowed}
        self._annotations: dict[int, list[dict]] = {}
        for annotation in data["annotations"]:
            # COCO has two boxes of no height, which are left out.
            if annotation["category_id"] in chosen_ids and min(annotation["bbox"][2:]) > 0:
                self._annotations.setdefault(annotation["image_id"], []).append(annotation)
        # An image that shows only a crowd has nothing to train on.
        shown = {
            i: {a["category_id"] for a in self._annotations[i] if not a["iscrowd"]}
            for i in sorted(images.keys() & self._annotations.keys())
        }
        shown = {i: categories_shown for i, categories_shown in shown.items() if categories_shown}
        self.count = max(1, min(count, len(shown))) if allow_fewer else count
        if self.count > len(shown):
            raise ValueError(
                f"{split} has {len(shown)} images with {categories or 'an object'}"
                f"{f' under the licence {license}' if license else ''}, "
                f"but {self.count} were asked for; ask for fewer, or for more categories"
            )
        shuffled = list(shown)
        random.Random(seed).shuffle(shuffled)
        order = shuffled if choose == "random" else balanced_order(shuffled, shown)
        self.order: Iterator[dict] = (images[i] for i in order)

    def annotations_of(self, image_ids: set[int]) -> dict:
        """The content of an annotation file for some of the images.

        Args:
            image_ids: Their ids.

        Returns:
            The file's object in COCO's format, with the objects of the chosen categories.
        """
        return {
            "info": {"description": f"{len(image_ids)} images of COCO {self.split}"},
            "licenses": list(self.licenses.values()),
            "categories": self.categories,
            "images": [entry for entry in self._image_entries if entry["id"] in image_ids],
            "annotations": [a for i in sorted(image_ids) for a in self._annotations[i]],
        }


def parse_names(text: str, known: Iterable[str], kind: str) -> list[str]:
    """Split names that are separated by commas.

    Args:
        text: The names.
        known: All valid names.
        kind: What they are names of, for the error message.

    Returns:
        The names; none if the text is empty.

    Raises:
        ValueError: For an unknown name; it suggests similar ones.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known) or known
            raise ValueError(f"COCO has no {kind} {name!r}; there is {', '.join(similar)}")
    return names


def license_name(entry: dict) -> str:
    """The short name of a licence.

    Args:
        entry: An entry of COCO's list "licenses".

    Returns:
        For a Creative Commons licence, its name in the address, such as by-nc-sa. For COCO's other
        two, no-known-copyright-restrictions and united-states-government-work.
    """
    match = re.search(r"creativecommons\.org/licenses/([a-z-]+)/", entry["url"])
    return match[1] if match else re.sub(r"\W+", "-", entry["name"].lower())


def balanced_order(images: list[int], shown: dict[int, set[int]]) -> Iterator[int]:
    """Order images so that, at any point, each category is in about the same number of them.

    The next image is always one of the category that has the fewest so far. Images often show
    several categories, so that common ones may be ahead.

    Args:
        images: The ids of the images, in random order.
        shown: The ids of the categories in each image.

    Yields:
        The ids of all images, each once.
    """
    remaining: dict[int, list[int]] = {c: [] for c in sorted(set().union(*shown.values()))}
    for i in reversed(images):
        for category in shown[i]:
            remaining[category].append(i)
    counts: Counter[int] = Counter()
    taken = set()
    while remaining:
        rarest = min(remaining, key=lambda category: counts[category])
        if not remaining[rarest]:
            del remaining[rarest]
            continue
        i = remaining[rarest].pop()
        if i not in taken:
            taken.add(i)
            counts.update(shown[i])
            yield i
