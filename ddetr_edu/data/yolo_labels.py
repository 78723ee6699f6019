"""Reading the label files of YOLO's format: one row of numbers for each object."""

from collections.abc import Iterator
from pathlib import Path

from ddetr_edu.data.entries import parse_number, parse_whole
from ddetr_edu.data.faults import DataError, Fault, OnFault
from ddetr_edu.data.image_files import read_header
from ddetr_edu.data.image_index import read_text, relative_to
from ddetr_edu.data.labelled import LabelledImage

MAX_FRACTION = 2.0  # coordinates are fractions of the image, a little out of it at most


class LabelFiles:
    """Reads the label files of images and counts what is unusual in them.

    Args:
        root: The folder of the data set, for messages.
        names: {number: name} of the categories.
        boxes_only: Whether only the first five numbers of a row are its object.
        on_fault: Called for each fault.

    Attributes:
        missing: The number of images without a label file.
        polygons: The number of rows that are polygons.
    """

    def __init__(self, root: Path, names: dict[int, str], boxes_only: bool, on_fault: OnFault):
        self.root, self.names, self.boxes_only = root, names, boxes_only
        self.on_fault = on_fault
        self.missing = self.polygons = 0
        self._files = self._rows = self._in_pixels = 0

    def read(self, path: Path) -> LabelledImage:
        """Read the label file of an image.

        Args:
            path: The image.

        Returns:
            The image and its objects; none if there is no such file, or an empty one.

        Raises:
            DataError: For a category that has no name.
        """
        file = next((place for place in _label_places(path) if place.is_file()), None)
        self._files += file is not None
        self.missing += file is None
        try:
            size = read_header(path).upright_size
        except DataError:
            return LabelledImage(path, None, [])  # it is reported where images are checked
        rows = read_text(file).splitlines() if file else []
        objects = []
        for n, row in enumerate(rows, start=1):
            where = f"{relative_to(file or path, self.root)}, line {n},"
            if row.strip() and (found := self._read_row(row.split(), where, size)):
                objects.append(found)
        return LabelledImage(path, size, objects)

    def _read_row(self, row: list[str], where: str, size: tuple[int, int]) -> dict | None:
        number = parse_whole(row[0])
        if number is None or number not in self.names:
            # Leaving it out could hide that all numbers are shifted.
            known = f"{min(self.names)} to {max(self.names)}"
            message = f"{where} is of category {row[0]}, which has no name; there are {known}"
            self.on_fault(Fault("refused", "rows of unknown categories", message))
            return None
        values = [
            v for v in map(parse_number, row[1:5] if self.boxes_only else row[1:]) if v is not None
        ]
        n_values = 4 if self.boxes_only else len(row) - 1
        if len(values) < n_values or not (n_values == 4 or n_values >= 6 and n_values % 2 == 0):
            message = f"{where} has {len(row)} columns: neither a box (5) nor a polygon"
            self.on_fault(Fault("left out", "rows with neither a box nor a polygon", message))
            return None
        self._rows += 1
        self._in_pixels += max(values) > MAX_FRACTION
        if n_values == 4:
            cx, cy, w, h = values
        else:
            self.polygons += 1
            xs, ys = values[::2], values[1::2]
            w, h = max(xs) - min(xs), max(ys) - min(ys)
            cx, cy = min(xs) + w / 2, min(ys) + h / 2
        height, width = size
        # Text files round to about a millionth of the image; a thousandth of a pixel is finer.
        pixels = ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)
        bbox = [round(value, 3) for value in pixels]
        return {"id": f"of {where}", "category": self.names[number], "bbox": bbox}

    def check(self) -> None:
        """Refuse a data set whose labels cannot be meant as they were read.

        Raises:
            DataError: If no image has a label file, or most coordinates are no fractions.
        """
        if not self._files:
            raise DataError(
                f"{self.root} has no label file for any of {self.missing} images; label files are "
                "named as the images and lie beside them or in labels/ instead of images/"
            )
        if self._in_pixels > self._rows / 2:
            raise DataError(
                f"{self._in_pixels} of {self._rows} rows of label files in {self.root} have "
                f"numbers above {MAX_FRACTION:g}, as if they were pixels; YOLO's are fractions of "
                "the image"
            )


def _label_places(image: Path) -> Iterator[Path]:
    """Where the label file of an image can be."""
    name, parts = f"{image.stem}.txt", image.parts
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            yield Path(*parts[:i], "labels", *parts[i + 1 : -1], name)
            break
    yield image.parent / name
    yield image.parent / "labels" / name
