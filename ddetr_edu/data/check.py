"""Every fault of a data set in one report; `CocoDetection` stops at the first."""

import hashlib
import io
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from ddetr_edu.data.coco import DataError, has_size, read_annotations, read_picture, split_names

EXAMPLES = 3  # that are shown of each kind of fault


@dataclass
class Findings:
    """What was found in one split, or between two: sentences, by the kind of fault or remark."""

    title: str
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def fault(self, kind: str, sentence: str) -> None:
        """Something that `CocoDetection` refuses, or that makes an evaluation worthless."""
        self.faults[kind].append(sentence)

    def remark(self, kind: str, sentence: str) -> None:
        """Something that may well be meant, and harms nothing."""
        self.remarks[kind].append(sentence)

    def count(self) -> int:
        return sum(len(sentences) for sentences in self.faults.values())

    def __str__(self) -> str:
        faults = self.count()
        lines = [f"{self.title}, {faults or 'nothing'} wrong"]
        for word, kinds in (("wrong", self.faults), ("note ", self.remarks)):
            for kind, sentences in kinds.items():
                lines.append(f"  {word} {len(sentences):6d}  {kind}")
                lines += [f"                  {sentence}" for sentence in sentences[:EXAMPLES]]
                if len(sentences) > EXAMPLES:
                    lines.append(f"                  and {len(sentences) - EXAMPLES} more")
        return "\n".join(lines)


def find_faults(root: str | Path) -> list[Findings]:
    """Read every annotation and every picture of a data set in COCO's layout.

    Returns: what was found in each split, and last what was found between splits.
    Raises: DataError if there is no split at all.
    """
    root = Path(root)
    splits = [Split(root, name) for name in split_names(root)]
    if not splits:
        raise DataError(f"{root}/annotations has no split; add instances_SPLIT.json")
    together = Findings("between the splits")
    for n, one in enumerate(splits):
        for other in splits[n + 1 :]:
            compare_splits(one, other, together)
    return [split.findings for split in splits] + ([together] if len(splits) > 1 else [])


class Split:
    """One split, read to its end: its findings, and what comparing it with another needs.

    Attributes: name, findings, categories (id -> name), and sums ({file name: sha256}).
    """

    def __init__(self, root: Path, name: str):
        self.name = name
        self.findings = Findings(name)
        self.categories, self.sums = {}, {}
        file, folder = root / "annotations" / f"instances_{name}.json", root / name
        try:
            images, self.categories, annotations = read_annotations(
                file, folder, self.findings.fault
            )
        except DataError as error:
            self.findings.fault("annotation files that cannot be read", str(error))
            return
        crowds = [a for a in annotations if a["iscrowd"]]
        self.findings.title = (
            f"{self.name}: {len(images)} pictures, {len(annotations) - len(crowds)} objects, "
            f"{len(self.categories)} categories"
        )
        self._remark(file, folder, images, annotations)
        # Where image entry, size and file are wrong, read_annotations has said so.
        readable = [
            image
            for image in images.values()
            if isinstance(image.get("file_name"), str)
            and has_size(image)
            and (folder / image["file_name"]).is_file()
        ]
        self._read_pictures(folder, readable, expected_sums(root, self.name))

    def _remark(self, file: Path, folder: Path, images: dict, annotations: list[dict]) -> None:
        remark, fault = self.findings.remark, self.findings.fault
        boxed = {a["image_id"] for a in annotations if not a["iscrowd"]}
        used = {a["category_id"] for a in annotations}
        for annotation in annotations:
            if annotation["iscrowd"]:
                remark(
                    "crowds, which training leaves out",
                    f"annotation {annotation['id']} (image {annotation['image_id']})",
                )
        names = defaultdict(list)
        for i, image in images.items():
            names[image.get("file_name")].append(i)
            if i not in boxed:
                remark("pictures without an object", f"image {i} ({image.get('file_name')})")
        for name, ids in names.items():
            if isinstance(name, str) and len(ids) > 1:
                fault(
                    "pictures listed twice",
                    f"{file}: images {ids[0]} and {ids[1]} are both {name}; remove one",
                )
        for i, name in self.categories.items():
            if i not in used:
                remark("categories without an object", f"category {i} ({name})")
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and path.name not in names:
                remark("files that no image names", str(path))

    def _read_pictures(self, folder: Path, images: list[dict], expected: dict[str, str]) -> None:
        def read(image: dict) -> tuple[str, str | None]:
            path = folder / image["file_name"]
            try:
                content = path.read_bytes()
                read_picture(io.BytesIO(content), (image["height"], image["width"]), str(path))
            except (OSError, DataError) as error:
                return "", str(error)
            return hashlib.sha256(content).hexdigest(), None

        with ThreadPoolExecutor() as pool:
            results = tqdm(pool.map(read, images), self.name, len(images), leave=False)
            for image, (digest, problem) in zip(images, results, strict=True):
                name = image["file_name"]
                if problem:
                    self.findings.fault("pictures unreadable or of another size", problem)
                    continue
                self.sums[name] = digest
                if expected.get(name, digest) != digest:
                    self.findings.fault(
                        "pictures that changed since they were fetched",
                        f"{folder / name} has another sha256 than provenance.json says; delete "
                        "it, and fetch the data set again",
                    )


def expected_sums(root: Path, split: str) -> dict[str, str]:
    """{file name: sha256} as `ddetr data coco` noted it; empty for other data sets."""
    try:
        note = json.loads((root / "provenance.json").read_bytes())
        return {row["file_name"]: row["sha256"] for row in note["pictures"][split]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def compare_splits(one: Split, other: Split, findings: Findings) -> None:
    """What is wrong between two splits: a picture in both, or categories that differ."""
    both = f"{one.name} and {other.name}"
    by_sum = {digest: name for name, digest in one.sums.items()}
    for name, digest in other.sums.items():
        if digest in by_sum:
            findings.fault(
                "pictures in two splits",
                f"{one.name}/{by_sum[digest]} and {other.name}/{name} are the same picture; "
                "remove one, or the evaluation flatters",
            )
        elif name in one.sums:
            findings.remark("file names in two splits, for different pictures", f"{name} in {both}")
    if not (one.categories and other.categories):
        return  # an annotation file that could not be read: that is said already
    for i in sorted(one.categories.keys() | other.categories.keys()):
        names = [split.categories.get(i, "absent") for split in (one, other)]
        if names[0] != names[1]:
            findings.fault(
                "categories that differ between splits",
                f"category {i} is {names[0]} in {one.name} and {names[1]} in {other.name}; give "
                "both splits the same categories",
            )
