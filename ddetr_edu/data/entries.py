"""The entries of an annotation file in COCO's format: whatever is unambiguous is understood."""

import math
import re
from collections.abc import Callable

MAX_ID = 2**63 - 1  # labels are int64

# 8 bits cannot show an object that covers less than this part of a pixel (the unit is px).
MIN_SIDE = 1 / 256

# COCO's own boxes extend beyond their image by rounding errors; this many pixels are a mistake.
MAX_OVERSHOOT = 1.0

# The area of an annotation is that of the object's mask. A mask hardly fills less than this part of
# its box, and it can exceed the box where it covers pixels in part.
MIN_FILLED = 1 / 1000
MASK_MARGIN = 2.0  # px by which a mask can exceed its box in width and height


def parse_number(value: object) -> float | None:
    """A finite number, given as a number or as text.

    Args:
        value: Any value of JSON.

    Returns:
        The number; None if it is none, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # JSON's integers have no limit
        return None
    return number if math.isfinite(number) else None


def parse_whole(value: object) -> int | None:
    """A whole number of 64 bits, given as 7, 7.0, "7" or "7.0".

    Args:
        value: Any value of JSON.

    Returns:
        The number; None if it is none.
    """
    if isinstance(value, str):
        digits = re.fullmatch(r"\s*([+-]?[0-9]{1,19})(?:\.0*)?\s*", value)
        whole = int(digits[1]) if digits else None
    elif isinstance(value, float):
        # Above 2 ** 53 a float is no longer one whole number.
        whole = int(value) if value.is_integer() and abs(value) <= 2**53 else None
    else:
        whole = value if isinstance(value, int) and not isinstance(value, bool) else None
    return whole if whole is not None and -MAX_ID <= whole <= MAX_ID else None


def parse_size(image: dict) -> tuple[int, int] | None:
    """The annotated size of an image.

    Args:
        image: An entry of the list "images".

    Returns:
        (height, width) in px, both at least 1; None if it has none.
    """
    height, width = parse_whole(image.get("height")), parse_whole(image.get("width"))
    return (height, width) if height and width and min(height, width) >= 1 else None


def parse_name(category: dict) -> str | None:
    """The name of a category; a number is a name, too, for instance of a digit.

    Args:
        category: An entry of the list "categories".

    Returns:
        The name; None if it has none.
    """
    name = category.get("name")
    if isinstance(name, (int, float)) and not isinstance(name, bool):
        name = str(name)
    # Single surrogates are no characters: nothing could write them.
    return name.encode("utf-8", "replace").decode("utf-8") if isinstance(name, str) else None


def parse_box(box: object) -> list[float] | None:
    """A box as four finite numbers.

    Args:
        box: Any value of JSON.

    Returns:
        The numbers; None if they are not four, or not finite.
    """
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = [parse_number(value) for value in box]
    return [n for n in numbers if n is not None] if None not in numbers else None


def parse_crowd(value: object) -> int | None:
    """`iscrowd` as 0 or 1, given as a number, a truth value or text.

    Args:
        value: Any value of JSON; None where there is none.

    Returns:
        0 or 1; None if it is neither.
    """
    if value is None or isinstance(value, bool):
        return int(bool(value))
    whole = parse_whole(value)
    return whole if whole in (0, 1) else None


def clip_box(box: list[float], size: tuple[int, int]) -> list[float]:
    """The part of a box that is inside its image.

    Args:
        box: [x, y, width, height] in px.
        size: (height, width) of the image in px.

    Returns:
        [x, y, width, height]; width or height is 0 or less if nothing is inside.
    """
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, size[1]), min(y + h, size[0])
    return [x1, y1, x2 - x1, y2 - y1]


def overshoot(box: list[float], size: tuple[int, int]) -> float:
    """How far a box extends beyond its image.

    Args:
        box: [x, y, width, height] in px.
        size: (height, width) of the image in px.

    Returns:
        The distance in px; 0 or less if it is inside.
    """
    x, y, w, h = box
    return max(-x, -y, x + w - size[1], y + h - size[0])


def is_plausible_area(area: object, box: list[float]) -> bool:
    """Whether an area can be that of an object's mask within its box.

    Args:
        area: Any value of JSON.
        box: [x, y, width, height] in px.

    Returns:
        True if it can be.
    """
    number, (_, _, w, h) = parse_number(area), box
    return number is not None and (
        w * h * MIN_FILLED <= number <= (w + MASK_MARGIN) * (h + MASK_MARGIN)
    )


def looks_normalised(box: list[float], size: tuple[int, int]) -> bool:
    """Whether a box lies in the first pixel of a larger image: fractions of it look like that.

    Args:
        box: Four numbers.
        size: (height, width) of the image in px.

    Returns:
        True if it does.
    """
    return min(size) > 2 and all(0 <= value <= 1 for value in box)


def looks_like_corners(box: list[float], size: tuple[int, int]) -> bool:
    """Whether a box could also be read as its corners.

    Args:
        box: Four numbers.
        size: (height, width) of the image in px.

    Returns:
        True if [x1, y1, x2, y2] would be a box inside the image.
    """
    x1, y1, x2, y2 = box
    return x1 < x2 and y1 < y2 and overshoot([x1, y1, x2 - x1, y2 - y1], size) < MAX_OVERSHOOT


def image_id_parser(images: list) -> Callable[[object], int | None]:
    """How the ids of images become numbers.

    Args:
        images: The list "images".

    Returns:
        `parse_whole` or, if there are ids like "img_7" that are no numbers, a function that numbers
        them from 1.
    """
    ids = [image.get("id") for image in images if isinstance(image, dict)]
    texts = dict.fromkeys(i for i in ids if isinstance(i, str))
    numbers = {parse_whole(text) for text in texts}
    if None not in numbers and len(numbers) == len(texts):  # "7" and "007" are two texts
        return parse_whole
    order = {text: n for n, text in enumerate(texts, start=1)}
    return lambda value: order.get(value) if isinstance(value, str) else None


def by_id(
    entries: list, parse: Callable[[object], int | None]
) -> tuple[dict[int, dict], list[int], list[int]]:
    """Entries by their ids.

    Args:
        entries: One of the lists of an annotation file.
        parse: Turns the id of an entry into a number, or None.

    Returns:
        {id: entry}, the indices of entries without an id, and the ids that two different entries
        have. A copy of an entry is not another entry.
    """
    found: dict[int, dict] = {}
    without, twice = [], []
    for n, entry in enumerate(entries):
        number = parse(entry.get("id")) if isinstance(entry, dict) else None
        if number is None:
            without.append(n)
        elif number not in found:
            found[number] = entry
        elif found[number] != entry:
            twice.append(number)
    return found, without, twice
