"""Reading image files, and finding the damaged ones without decoding all of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from ddetr_edu.data.annotations import ExifOrientation
from ddetr_edu.data.faults import DataError, Fault, OnFault
from ddetr_edu.progress import progress

EXIF_ORIENTATION = 0x0112  # the tag; 1: as stored, 3: upside down, 6 and 8: by a quarter
TAIL = 4096  # bytes at the end of a file in which its end mark is looked for
END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x00\x3b"}


class ImageHeader(NamedTuple):
    """What the beginning of an image file says."""

    size: tuple[int, int]  # (height, width) in px, as the pixels are stored
    orientation: int  # EXIF's, 1 to 8

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in px after the rotation that EXIF asks for."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def read_header(path: Path) -> ImageHeader:
    """Read the size and orientation of an image file, and make sure that the file is complete.

    An image is only decoded if its file does not end as its format demands.

    Args:
        path: Of the file.

    Returns:
        What its beginning says.

    Raises:
        DataError: If the file cannot be read, or ends too early.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            header = ImageHeader((image.height, image.width), _orientation(image))
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL, 0))
            mark = END_MARKS.get(image.format or "")
            if mark is None or mark not in file.read():
                image.load()
            return header
    # Pillow has no common ancestor for what a damaged file can raise.
    except Exception as error:
        raise _unreadable(path, error) from error


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation of an opened image, 1 if there is none."""
    # A PNG's would be looked for behind its pixels, which would have to be decoded for that.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _unreadable(name: object, error: Exception) -> DataError:
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
    return DataError(f"{name} cannot be read as an image ({reason}); copy it again")


def read_image(
    file: Path | BinaryIO, size: tuple[int, int], name: str = "", upright: bool = False
) -> Image.Image:
    """Read an image file and decode it completely.

    Args:
        file: Its path, or an open binary file.
        size: (height, width) that the image must have, in px.
        name: What to call it in an error message; the path by default.
        upright: Rotate the image as its EXIF orientation says.

    Returns:
        The image in the mode of the file.

    Raises:
        DataError: If the file cannot be read or the image has another size.
    """
    try:
        with Image.open(file) as image:
            image.load()
            read = ImageOps.exif_transpose(image) if upright else image
    # Pillow has no common ancestor for what a damaged file can raise.
    except Exception as error:
        raise _unreadable(name or file, error) from error
    if (read.height, read.width) != size:
        raise _wrong_size(name or file, (read.height, read.width), size)
    return read


def _wrong_size(name: object, actual: tuple[int, int], annotated: tuple[int, int]) -> DataError:
    return DataError(
        f"{name} is {actual[1]} x {actual[0]} pixels, but its annotations say {annotated[1]} x "
        f"{annotated[0]}; use the image that was annotated, or correct width and height"
    )


def check_image_files(
    folder: Path,
    images: Sequence[dict],
    choice: ExifOrientation | None,
    on_fault: OnFault,
    show_progress: bool = True,
) -> dict[int, bool]:
    """Find the images that can be read, and whether EXIF's rotation belongs to the annotations.

    An EXIF orientation other than 1 says that viewers rotate the image, and so does
    `ddetr predict`. Boxes were drawn on either the rotated or the stored image: the annotated size
    tells which, if it differs. If it does not, the other images of the split decide, and without
    any, the image is read as it is stored, as COCO's are. "exif_orientation" in the "info" of the
    annotation file decides for all images.

    Args:
        folder: The folder of the images.
        images: Entries with id, file_name, height and width.
        choice: What the annotation file says about EXIF's orientation.
        on_fault: Called for each fault.
        show_progress: Show a progress bar if it takes longer than some seconds.

    Returns:
        {id: whether to rotate the image as EXIF says} of the images that can be read.
    """

    def read(image: dict) -> ImageHeader | DataError:
        try:
            return read_header(folder / image["file_name"])
        except DataError as error:
            return error

    upright: dict[int, bool] = {}
    undecided: list[tuple[dict, int]] = []
    votes = set()
    with ThreadPoolExecutor(4) as pool:  # they wait for the disk; Python runs one at a time
        headers = progress(
            pool.map(read, images),
            desc=f"check {folder.name}",
            total=len(images),
            leave=False,
            delay=3,
            disable=not show_progress,
        )
        for image, header in zip(images, headers, strict=True):
            name, size = image["file_name"], (image["height"], image["width"])
            if isinstance(header, DataError):
                on_fault(Fault("left out", "images with a damaged file", str(header), name))
                continue
            readings = {"ignore": header.size, "apply": header.upright_size}
            matching = {
                reading
                for reading, actual in readings.items()
                if actual == size and choice in (None, reading)
            }
            if not matching:
                actual = readings[choice or "ignore"]
                message = str(_wrong_size(folder / name, actual, size))
                on_fault(Fault("left out", "images of another size", message, name))
            elif header.orientation == 1 or len(matching) == 1:
                upright[image["id"]] = header.orientation != 1 and "apply" in matching
                votes |= matching if header.orientation != 1 else set()
            else:
                undecided.append((image, header.orientation))
    for image, orientation in undecided:
        upright[image["id"]] = votes == {"apply"}
        if len(votes) != 1:
            message = (
                f"{folder / image['file_name']} has the EXIF orientation {orientation}, and its "
                "size does not tell whether its boxes refer to the rotated image; training reads "
                "it as it is stored and ddetr predict rotates it: "
                'add "exif_orientation": "apply" or "ignore" to "info" in the annotation file'
            )
            kind = "images with an EXIF rotation of unknown use"
            on_fault(Fault("kept", kind, message, image["file_name"]))
    return upright
