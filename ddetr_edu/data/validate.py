"""All errors of a data set in one report; `CocoDetection` counts them, or stops at the first."""

import hashlib
import io
import json
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ddetr_edu.data.annotations import AnnotationFile, read_annotations, split_names
from ddetr_edu.data.faults import DataError, Fault, printable
from ddetr_edu.data.image_files import check_image_files, read_image
from ddetr_edu.data.statistics import describe_excess_objects
from ddetr_edu.progress import progress

MAX_ERRORS, MAX_WARNINGS = 100, 3  # named of each kind


@dataclass
class ValidationReport:
    """The errors and warnings about one split, or about two compared: {kind: messages}."""

    title: str
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def error(self, kind: str, message: str) -> None:
        """Add an error: something that `CocoDetection` cannot use, or that spoils an evaluation.

        Args:
            kind: What is wrong, in the plural, such as "images missing".
            message: Where it is wrong, and what to do.
        """
        self.errors[kind].append(message)

    def warning(self, kind: str, message: str) -> None:
        """Add a warning: something that may be intended and does no harm.

        Args:
            kind: What was noticed, in the plural, such as "images without an object".
            message: Where it was noticed.
        """
        self.warnings[kind].append(message)

    def add(self, fault: Fault) -> None:
        """Add a fault of an annotation file or an image file.

        Args:
            fault: The fault. What can be recalculated is only a warning.
        """
        add = self.warning if fault.action == "recalculated" else self.error
        add(fault.kind, fault.message)

    @property
    def n_errors(self) -> int:
        """The number of errors."""
        return sum(len(messages) for messages in self.errors.values())

    def text(self, all_errors: bool = False) -> str:
        """The report as text.

        Args:
            all_errors: Name every error, not only the first MAX_ERRORS of each kind.

        Returns:
            A title, then each kind of error or warning with its number and messages.
        """
        n = self.n_errors
        lines = [f"{self.title}: {n or 'no'} error{'s' * (n != 1)}"]
        for level, kinds, shown in (
            ("error  ", self.errors, n if all_errors else MAX_ERRORS),
            ("warning", self.warnings, MAX_WARNINGS),
        ):
            for kind, messages in kinds.items():
                lines.append(f"  {level} {len(messages):6d}  {kind}")
                lines += [f"                  {message}" for message in messages[:shown]]
                if len(messages) > shown:
                    lines.append(f"                  and {len(messages) - shown} more")
        return printable("\n".join(lines))

    __str__ = text


def validate_dataset(
    root: str | Path, queries: dict[str, int] | None = None
) -> list[ValidationReport]:
    """Read every annotation and every image of a data set in COCO's layout.

    Args:
        root: The folder of the data set.
        queries: {the name of a detector: its number of queries}, to find images with more objects.

    Returns:
        One report for each split and, if there are several, a last one that compares them.

    Raises:
        DataError: If there is no split at all.
    """
    root = Path(root)
    splits = [Split(root, name, queries or {}) for name in split_names(root)]
    if not splits:
        raise DataError(f"{root}/annotations has no split; add instances_SPLIT.json")
    comparison = ValidationReport("between the splits")
    for n, one in enumerate(splits):
        for other in splits[n + 1 :]:
            compare_splits(one, other, comparison)
    return [split.report for split in splits] + ([comparison] if len(splits) > 1 else [])


class Split:
    """One split, read completely.

    Args:
        root: The folder of the data set.
        name: The name of the split.
        queries: {the name of a detector: its number of queries}.

    Attributes:
        name: The name of the split.
        report: Its errors and warnings.
        categories: {id: name}; empty if the annotations cannot be read.
        sums: {file name: sha256} of the images that can be read.
    """

    def __init__(self, root: Path, name: str, queries: dict[str, int]):
        self.name = name
        self.report = ValidationReport(name)
        self.categories: dict[int, str] = {}
        self.sums: dict[str, str] = {}
        file, folder = root / "annotations" / f"instances_{name}.json", root / name
        try:
            content = read_annotations(file, folder, self.report.add)
        except DataError as error:
            self.report.error("annotation files that cannot be read", str(error))
            return
        self.categories = content.categories
        n_objects = sum(not a["iscrowd"] for a in content.annotations)
        self.report.title = (
            f"{self.name}: {len(content.images)} images, {n_objects} objects, "
            f"{len(self.categories)} categories"
        )
        self._check_annotations(file, folder, content, queries)
        if folder.is_dir():
            self._read_images(folder, content, expected_sums(root, self.name))

    def _check_annotations(
        self, file: Path, folder: Path, content: AnnotationFile, queries: dict[str, int]
    ) -> None:
        """Report what can be seen without opening an image and is no error to `CocoDetection`."""
        images, annotations = content.images, content.annotations
        counts = Counter(a["image_id"] for a in annotations if not a["iscrowd"])
        used_categories = {a["category_id"] for a in annotations}
        for annotation in annotations:
            if annotation["iscrowd"]:
                self.report.warning(
                    "crowds, which training ignores",
                    f"{annotation['bbox']} (image {annotation['image_id']})",
                )
        if annotations and not counts:
            self.report.error(
                "splits of nothing but crowds",
                f"{file}: all {len(annotations)} boxes are marked as crowds, which training "
                "ignores; set iscrowd to 0 where a box is a single object",
            )
        if excess := describe_excess_objects(counts, queries):
            self.report.warning("images with more objects than queries", excess)
        for copy, count in Counter(map(_identity, annotations)).items():
            if count > 1:
                image_id, category_id, box = copy
                self.report.warning(
                    "objects with the same box and category",
                    f"image {image_id}: {count} of category {category_id} at {list(box)}",
                )
        ids_by_name = defaultdict(list)
        for i, image in images.items():
            ids_by_name[image.get("file_name")].append(i)
            if i not in counts:
                self.report.warning(
                    "images without an object", f"image {i} ({image.get('file_name')})"
                )
        for name, ids in ids_by_name.items():
            if isinstance(name, str) and len(ids) > 1:
                self.report.error(
                    "images listed twice",
                    f"{file}: images {ids[0]} and {ids[1]} are both {name}; remove one",
                )
        for i, name in self.categories.items():
            if i not in used_categories:
                self.report.warning("categories without an object", f"category {i} ({name})")
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and path.name not in ids_by_name:
                self.report.warning("files that are not listed as images", str(path))

    def _read_images(self, folder: Path, content: AnnotationFile, expected: dict[str, str]) -> None:
        """Decode every image and compare its checksum with the expected one, if any."""
        all_images = list(content.images.values())
        upright = check_image_files(
            folder, all_images, content.exif_orientation, self.report.add, show_progress=False
        )
        images = [image for image in all_images if image["id"] in upright]

        def read(image: dict) -> tuple[str, str | None]:
            """The sha256 of an image file, and what is wrong with it."""
            path, size = folder / image["file_name"], (image["height"], image["width"])
            try:
                content = path.read_bytes()
                read_image(io.BytesIO(content), size, str(path), upright[image["id"]])
            except (OSError, DataError) as error:
                return "", str(error)
            return hashlib.sha256(content).hexdigest(), None

        with ThreadPoolExecutor() as pool:
            results = progress(
                pool.map(read, images), desc=self.name, total=len(images), leave=False, delay=3
            )
            for image, (digest, problem) in zip(images, results, strict=True):
                name = image["file_name"]
                if problem:
                    self.report.error("images with a damaged file", problem)
                    continue
                self.sums[name] = digest
                if expected.get(name, digest) != digest:
                    self.report.error(
                        "images that changed since they were downloaded",
                        f"{folder / name} has another sha256 than provenance.json says; delete "
                        "it and download the data set again",
                    )


def _identity(annotation: dict) -> tuple[int, int, tuple[float, ...]]:
    """What makes two objects one: the image, the category and the box."""
    return annotation["image_id"], annotation["category_id"], tuple(annotation["bbox"])


def expected_sums(root: Path, split: str) -> dict[str, str]:
    """The checksums that `ddetr data coco` wrote to provenance.json.

    Args:
        root: The folder of the data set.
        split: The name of the split.

    Returns:
        {file name: sha256}; empty for other data sets.
    """
    try:
        provenance = json.loads((root / "provenance.json").read_bytes())
        return {row["file_name"]: row["sha256"] for row in provenance["images"][split]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def compare_splits(one: Split, other: Split, report: ValidationReport) -> None:
    """Report images that are in both splits, and categories that differ.

    Args:
        one: A split.
        other: Another one of the same data set.
        report: Where to report it.
    """
    both = f"{one.name} and {other.name}"
    by_sum = {digest: name for name, digest in one.sums.items()}
    for name, digest in other.sums.items():
        if digest in by_sum:
            report.error(
                "images in two splits",
                f"{one.name}/{by_sum[digest]} and {other.name}/{name} are the same image; "
                "remove one, or the evaluation is too optimistic",
            )
        elif name in one.sums:
            report.warning("file names in two splits, for different images", f"{name} in {both}")
    if not (one.categories and other.categories):
        return  # an annotation file that cannot be read has been reported
    for i in sorted(one.categories.keys() | other.categories.keys()):
        names = [split.categories.get(i, "absent") for split in (one, other)]
        if names[0] != names[1]:
            report.error(
                "categories that differ between splits",
                f"category {i} is {names[0]} in {one.name} and {names[1]} in {other.name}; give "
                "both splits the same categories",
            )
