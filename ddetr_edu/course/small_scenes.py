"""Small labelled images, cut out of generated scenes: fine-tuning on them takes seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

from ddetr_edu.data.scenes import CATEGORIES, Scene, draw_scene

SIZE = (96, 128)  # (height, width) in px; unequal, so that x and y cannot be confused unnoticed
SIDES = (14, 48)  # px of the longer side of every box
TRIES = 10  # windows around an object


def small_scene(seed: int, index: int) -> Scene:
    """Cut a window of 96 x 128 pixels out of a scene, with one or two whole objects in it.

    The categories take turns: six images in a row have an object of each.

    Args:
        seed: Of the series, as of `draw_scene`.
        index: Of the small scene in the series, at least 0.

    Returns:
        The window as a scene of its own. No object of it is cut, and none is a part of another one.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    window = np.array(SIZE[::-1])  # (x, y)
    while True:
        scene = draw_scene(seed, int(rng.integers(1_000_000)))
        for box in scene.boxes[scene.labels == 1 + index % len(CATEGORIES)].astype(int):
            low = np.maximum(box[2:] - window, 0)  # of the corner of a window around the box
            high = np.minimum(box[:2], scene.image.size - window)
            for _ in range(TRIES if (low <= high).all() else 0):
                corner = rng.integers(low, high + 1)
                if (kept := _whole_objects(scene.boxes, corner)) is not None:
                    image = scene.image.crop((*corner.tolist(), *(corner + window).tolist()))
                    boxes = scene.boxes[kept] - np.tile(corner, 2).astype(np.float32)
                    return Scene(image, boxes, scene.labels[kept])


def _whole_objects(boxes: np.ndarray, corner: np.ndarray) -> np.ndarray | None:
    """Which objects (n,) are in a window; None if not one or two, or if one is cut or too small."""
    end = corner + SIZE[::-1]
    inside = (boxes[:, :2] >= corner).all(1) & (boxes[:, 2:] <= end).all(1)
    touching = (boxes[:, :2] < end).all(1) & (boxes[:, 2:] > corner).all(1)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    in_range = (sides >= SIDES[0]) & (sides <= SIDES[1])
    if (inside != touching).any() or not in_range[inside].all():
        return None
    return inside if 1 <= inside.sum() <= 2 else None


def write_yolo(folder: Path, count: int) -> None:
    """Write small scenes as a labelling tool exports them in YOLO's format, without splits.

    Args:
        folder: The folder to make, with data.yaml, images/ and labels/.
        count: The number of images with objects; after them comes one without any.
    """
    height, width = SIZE
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        scene = small_scene(14, index)
        scene.image.save(folder / "images" / f"photo_{index + 1:02}.png")
        rows = []
        for (x1, y1, x2, y2), label in zip(scene.boxes.tolist(), scene.labels, strict=True):
            box = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width
            rows.append((label - 1, *box, (y2 - y1) / height))
        text = "".join(f"{row[0]} {' '.join(f'{v:.6f}' for v in row[1:])}\n" for row in rows)
        (folder / "labels" / f"photo_{index + 1:02}.txt").write_text(text)
    Image.new("RGB", (width, height), "gray").save(folder / "images" / "photo_empty.png")
    (folder / "labels" / "photo_empty.txt").write_text("")
    names = ", ".join(CATEGORIES.values())
    (folder / "data.yaml").write_text(f"train: images\nnames: [{names}]\n")
