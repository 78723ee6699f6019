"""The objects of an annotation file: which are used, which are clipped, which are left out."""

from pathlib import Path

from ddetr_edu.data.entries import (
    MAX_OVERSHOOT,
    MIN_SIDE,
    clip_box,
    is_plausible_area,
    looks_like_corners,
    looks_normalised,
    overshoot,
    parse_box,
    parse_crowd,
)
from ddetr_edu.data.faults import Fault, OnFault

NORMALISED = "boxes in the first pixel, like fractions of the image"
CORNERS = "boxes that look like corners"
SWAPPED = "boxes whose x and y look swapped"
MIN_SWAPPED = 0.1  # share of the boxes that leave their image; few do so by chance


def read_objects(
    annotations: list[dict], images: dict[int, dict], file: Path, on_fault: OnFault
) -> list[dict]:
    """The annotations whose boxes can be used.

    Args:
        annotations: Entries of the list "annotations", whose ids are those of images and
            categories.
        images: {id: entry} with height and width in px.
        file: The annotation file, for messages.
        on_fault: Called for each fault.

    Returns:
        New entries of image_id, category_id, bbox, area and iscrowd. A box has width and height
        and leaves its image by less than MAX_OVERSHOOT.
    """
    convention = _other_convention(annotations, images)
    if convention is not None:
        kind, message = convention
        on_fault(Fault("refused", kind, f"{file}: {message}"))
        return []
    usable = []
    for annotation in annotations:
        image = images[annotation["image_id"]]
        this = f"{file}: annotation {annotation.get('id')} (image {image['id']}) has the box "
        this += str(annotation.get("bbox"))
        fault = _find_fault(annotation, (image["height"], image["width"]))
        if fault is not None:
            kind, message = fault
            on_fault(Fault("left out", kind, this + message))
        else:
            usable.append(_corrected(annotation, image, this, on_fault))
    return usable


def _other_convention(annotations: list[dict], images: dict[int, dict]) -> tuple[str, str] | None:
    """What most boxes are instead of [x, y, width, height] in px: the kind and a message."""
    n_boxes = n_normalised = n_corners = n_swapped = n_outside = 0
    for annotation in annotations:
        image = images[annotation["image_id"]]
        box, size = parse_box(annotation.get("bbox")), (image["height"], image["width"])
        if box is not None and min(box[2:]) > 0:
            n_boxes += 1
            n_normalised += looks_normalised(box, size)
            n_corners += looks_like_corners(box, size)
            n_swapped += overshoot(box, size[::-1]) < MAX_OVERSHOOT
            n_outside += overshoot(box, size) >= MAX_OVERSHOOT
    meant = "boxes are [x, y, width, height] in pixels"
    if n_normalised > n_boxes / 2:
        return NORMALISED, (
            f"{n_normalised} of {n_boxes} boxes have no number above 1, as if they were fractions "
            f"of the image; {meant}: multiply by the image's width and height"
        )
    if n_outside > max(2, n_boxes / 2) and n_corners == n_boxes:
        return CORNERS, (
            f"{n_outside} of {n_boxes} boxes leave their image, but all are inside if they are "
            f"read as [x1, y1, x2, y2]; {meant}: subtract x1 from x2 and y1 from y2"
        )
    if n_outside > max(2, n_boxes * MIN_SWAPPED) and n_swapped == n_boxes:
        return SWAPPED, (
            f"{n_outside} of {n_boxes} boxes leave their image, but all are inside if they are "
            f"read as [y, x, height, width]; {meant}: exchange x and y, and width and height"
        )
    return None


def _find_fault(annotation: dict, size: tuple[int, int]) -> tuple[str, str] | None:
    """Why an annotation cannot be used: the kind, and what to say after its box."""
    box, remedy = parse_box(annotation.get("bbox")), "correct it or remove the annotation"
    if box is None:
        return "boxes without four finite numbers", (
            "; a box is four finite numbers [x, y, width, height] in pixels"
        )
    if min(box[2:]) <= 0:
        return "boxes of no width or height", f" of no width or height; {remedy}"
    if parse_crowd(annotation.get("iscrowd")) is None:
        return "annotations with an odd iscrowd", (
            f" and iscrowd {annotation['iscrowd']!r}; iscrowd is 0 or 1: correct it or leave it out"
        )
    height, width = size
    if looks_normalised(box, size):
        return NORMALISED, (
            f", which is in the first pixel of its image of {width} x {height} pixels, like a "
            f"fraction of it; boxes are [x, y, width, height] in pixels: {remedy}"
        )
    inside = min(clip_box(box, size)[2:])
    if inside <= 0 and min(box[2:]) >= MIN_SIDE:
        return "boxes outside the image", (
            f", which leaves its image of {width} x {height} pixels altogether; boxes are "
            f"[x, y, width, height] in pixels: {remedy}"
        )
    if inside < MIN_SIDE:
        return "boxes thinner than a pixel can show", (
            f", of which {inside:.1g} px are inside its image of {width} x {height} pixels: less "
            f"than a pixel can show; {remedy}"
        )
    return None


def _corrected(annotation: dict, image: dict, this: str, on_fault: OnFault) -> dict:
    """An annotation that can be used, with what is wrong in it corrected."""
    box, size = parse_box(annotation["bbox"]), (image["height"], image["width"])
    assert box is not None
    if overshoot(box, size) >= MAX_OVERSHOOT:
        message = (
            f", which leaves its image of {image['width']} x {image['height']} pixels; boxes are "
            "[x, y, width, height] in pixels: correct it or remove the annotation"
        )
        on_fault(Fault("clipped", "boxes partly outside the image", this + message))
        box = clip_box(box, size)
    area = annotation.get("area")
    if area is not None and not is_plausible_area(area, box):
        message = f" and the area {area!r}, which is not that of an object in it; correct it"
        on_fault(Fault("recalculated", "areas unlike their boxes", this + message))
        area = None
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": box[2] * box[3] if area is None else float(area),
        "iscrowd": parse_crowd(annotation.get("iscrowd")),
    }
