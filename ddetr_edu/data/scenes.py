"""Scenes of drawn shapes: as many labelled pictures as you like, from two numbers each.

A scene is a function of (seed, index) alone, so that any worker can draw any scene, in any order,
and training needs no stored pictures.
"""

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

# COCO counts categories from 1.
CATEGORIES = {1: "circle", 2: "square", 3: "triangle", 4: "star", 5: "ring", 6: "cross"}

SIDES = (160, 224)  # height and width of a picture, px, drawn independently
SIZES = (8, 100)  # longer side of a box, px, log-uniform
OBJECTS = (1, 8)  # how many we try to place
MAX_OVERLAP = 0.3  # of two boxes: their intersection over the smaller one's area
MIN_CONTRAST = 90  # of 255, see `contrast`
RIM = 2  # px around a shape that it has to stand out from, too
TRIES = 20  # shapes tried before an object is given up; the first never needs that many


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it: boxes float32 (n, 4) xyxy in px, labels int64 (n,), n >= 1.

    A box is tight around the pixels that the shape covers by more than half, whole pixels then,
    and goes around the whole shape also where a later one covers a part of it.
    """

    image: Image.Image
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Shape:
    """Centre (x, y) and circumradius in px, angle in radians, clockwise on the screen."""

    name: str
    x: float
    y: float
    radius: float
    angle: float

    def extent(self) -> tuple[float, float, float, float]:
        """The box (x1, y1, x2, y2) in px of the outline, corners and all."""
        left, top, right, bottom = _unit_extent(self.name, self.angle)
        r = self.radius
        return self.x + left * r, self.y + top * r, self.x + right * r, self.y + bottom * r

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far points (x, y) are outside the outline, in px; negative inside."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = (x - self.x) / self.radius, (y - self.y) / self.radius
        return self.radius * _unit_distance(self.name, cos * x + sin * y, cos * y - sin * x)


def draw_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the endless series `seed`; the same on every call and machine.

    Height and width are 160 to 224 px; 1 to 8 shapes of 8 to 100 px lie wholly inside.
    Raises ValueError for a negative seed or index.
    """
    rng = _generator(seed, index)
    height, width = _draw_size(rng)
    canvas = _background(rng, height, width)
    boxes, labels = [], []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        for _ in range(TRIES):
            label, shape = _random_shape(rng, height, width)
            rows, columns, distance = _rasterise(shape, height, width)
            box = _tight_box(rows, columns, distance)
            if not SIZES[0] <= max(box[2] - box[0], box[3] - box[1]) <= SIZES[1]:
                continue  # a tip too thin to cover half a pixel made the box smaller than asked for
            if _overlap(box, boxes) > MAX_OVERLAP:
                continue
            if _paint(rng, canvas[rows, columns], distance):
                boxes.append(box)
                labels.append(label)
                break
    return Scene(
        Image.fromarray(canvas), np.array(boxes, dtype=np.float32), np.array(labels, np.int64)
    )


def scene_size(seed: int, index: int) -> tuple[int, int]:
    """(height, width) of scene number `index`, without drawing it."""
    return _draw_size(_generator(seed, index))


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, index]))


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    height, width = rng.integers(SIDES[0], SIDES[1] + 1, size=2)  # the first that is drawn
    return int(height), int(width)


def contrast(colour: np.ndarray, pixels: np.ndarray) -> int:
    """How well a colour (3,) stands out from the worst of some pixels (n, 3), 0 to 255.

    Two colours differ by their largest difference in one channel; the least of it over the pixels
    counts, so a shape of contrast c differs by c from every single pixel it is drawn upon.
    """
    return int(np.abs(pixels.astype(np.int16) - colour).max(axis=1).min())


# Only scalars go through cos and sin. On arrays these differ in the last bit between processors,
# where + - * / and sqrt do not, and a scene has to be the same everywhere.


def _corners(count: int, first: float = -math.pi / 2) -> list[tuple[float, float]]:
    """Corners of a regular polygon of circumradius 1, from the top unless told otherwise."""
    angles = [first + 2 * math.pi * k / count for k in range(count)]
    return [(math.cos(a), math.sin(a)) for a in angles]


ARM = 0.32  # half the width of a cross's arm, in circumradii
REACH = math.sqrt(1 - ARM**2)  # how far the arm's end is from the centre
TRIANGLE, STAR = _corners(3), _corners(5)
HULL = {
    "square": _corners(4, first=-math.pi / 4),
    "triangle": TRIANGLE,
    "star": STAR,
    "cross": [
        (s * a, t * b) for s in (-1, 1) for t in (-1, 1) for a, b in ((ARM, REACH), (REACH, ARM))
    ],
}
RING_HOLE = 0.55  # inner radius of the ring


def _unit_extent(name: str, angle: float) -> tuple[float, float, float, float]:
    """The box of the shape of circumradius 1 around the origin, turned by angle."""
    if name not in HULL:
        return -1.0, -1.0, 1.0, 1.0  # circle and ring
    cos, sin = math.cos(angle), math.sin(angle)
    xs = [cos * x - sin * y for x, y in HULL[name]]
    ys = [sin * x + cos * y for x, y in HULL[name]]
    return min(xs), min(ys), max(xs), max(ys)


def _unit_distance(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the outline of circumradius 1; beyond a corner, to its edges' lines."""
    if name == "circle":
        return np.sqrt(x * x + y * y) - 1
    if name == "ring":
        return np.abs(np.sqrt(x * x + y * y) - (1 + RING_HOLE) / 2) - (1 - RING_HOLE) / 2
    x_abs, y_abs = np.abs(x), np.abs(y)
    if name == "square":
        return np.maximum(x_abs, y_abs) - math.sqrt(0.5)
    if name == "cross":
        upright = np.maximum(x_abs - ARM, y_abs - REACH)
        lying = np.maximum(x_abs - REACH, y_abs - ARM)
        return np.minimum(upright, lying)
    if name == "triangle":
        # Opposite each corner lies an edge, half a circumradius from the centre.
        return np.maximum.reduce([-(cx * x + cy * y) for cx, cy in TRIANGLE]) - 0.5
    # The star's five lines each cut off one tip, so a point of a tip is beyond one line, never two.
    beyond = np.stack([cx * x + cy * y for cx, cy in STAR])
    return np.partition(beyond, 3, axis=0)[3] - math.cos(2 * math.pi / 5)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dull picture (H, W, 3) uint8: blotches, stripes or a gradient, and grain over it.

    The tone stays far enough from the middle that black or white has MIN_CONTRAST to all of it:
    dark reaches 105 + 20 + 28 + 12 = 165 = 255 - 90, light reaches 150 - 20 - 28 - 12 = 90.
    """
    tone = rng.uniform(55, 105) if rng.random() < 0.5 else rng.uniform(150, 200)
    base, swing = tone + rng.uniform(-20, 20, size=3), rng.uniform(-28, 28, size=3)
    angle = rng.uniform(0, 2 * math.pi)
    along = np.arange(width) * math.cos(angle) + np.arange(height)[:, None] * math.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        pattern = _cells(rng, height, width, cell=int(rng.integers(4, 10))) * (2 / 3) - 1
    elif kind == 1:
        period = rng.uniform(10, 48)
        # px to the nearest edge of a stripe, positive in one stripe and negative in the next
        to_edge = (np.abs(along / period % 1 - 0.5) - 0.25) * period
        pattern = np.clip(2 * to_edge, -1, 1)
    else:
        low, high = along.min(), along.max()
        pattern = 2 * (along - low) / (high - low) - 1
    # 17 levels of pattern times 4 of grain: so few colours keep the PNG files small.
    level = np.rint(8 + 8 * pattern).astype(np.int64)
    grain = _cells(rng, height, width, cell=3)
    swings = swing * np.linspace(-1, 1, 17)[:, None, None]
    palette = base + swings + np.linspace(-12, 12, 4)[:, None]  # (17, 4, 3)
    palette = np.clip(np.rint(palette), 0, 255).astype(np.uint8)
    return palette.reshape(-1, 3).take(4 * level + grain, axis=0)


def _cells(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise (H, W) of levels 0 to 3, constant on square cells of so many px."""
    noise = rng.integers(4, size=(-(-height // cell), -(-width // cell)))
    return noise.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _random_shape(rng: np.random.Generator, height: int, width: int) -> tuple[int, Shape]:
    """A category id and its shape: any size, turned by any angle, anywhere inside the picture."""
    label = int(rng.integers(1, len(CATEGORIES) + 1))
    size = SIZES[0] * (SIZES[1] / SIZES[0]) ** rng.random()
    angle = rng.uniform(0, 2 * math.pi)
    left, top, right, bottom = _unit_extent(CATEGORIES[label], angle)
    radius = size / max(right - left, bottom - top)
    # One pixel of background stays visible on every side.
    x = rng.uniform(1 - left * radius, width - 1 - right * radius)
    y = rng.uniform(1 - top * radius, height - 1 - bottom * radius)
    return label, Shape(CATEGORIES[label], x, y, radius, angle)


def _overlap(box: tuple, others: list) -> float:
    """The largest intersection of the box with another, over the smaller one's area."""
    if not others:
        return 0.0
    box, others = np.array(box), np.array(others)
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    area = np.prod(box[2:] - box[:2])
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return float((np.prod(np.maximum(sides, 0), axis=1) / np.minimum(area, areas)).max())


def _rasterise(shape: Shape, height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns around a shape, and the distance of their pixel centres to it."""
    x1, y1, x2, y2 = shape.extent()
    rows = slice(max(math.floor(y1) - RIM, 0), min(math.ceil(y2) + RIM, height))
    columns = slice(max(math.floor(x1) - RIM, 0), min(math.ceil(x2) + RIM, width))
    # Pixel i covers [i, i + 1), its centre is i + 0.5.
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)[:, None]
    return rows, columns, shape.distance(x + 0.5, y + 0.5)


def _tight_box(rows: slice, columns: slice, distance: np.ndarray) -> tuple[int, int, int, int]:
    # A straight outline covers more than half of a pixel exactly if the centre is inside.
    inside = distance < 0
    y, x = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = columns.start, rows.start
    return int(left + x[0]), int(top + y[0]), int(left + x[-1] + 1), int(top + y[-1] + 1)


def _paint(rng: np.random.Generator, window: np.ndarray, distance: np.ndarray) -> bool:
    """Paint a shape in a colour that stands out; False, and no paint, if none was found."""
    under = window[distance < RIM]
    for colour in _colours(rng):
        if contrast(colour, under) >= MIN_CONTRAST:
            # A pixel is covered as far as the outline, taken as straight, reaches into it.
            coverage = np.clip(0.5 - distance, 0, 1)[..., None]
            window[:] = np.rint(window + coverage * (colour - window))
            return True
    return False


def _colours(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Candidate colours (3,) int16: some vivid ones, then white and black."""
    for _ in range(8):
        hsv = rng.random(), rng.uniform(0.55, 1), rng.uniform(0.4, 1)
        yield np.rint(255 * np.array(colorsys.hsv_to_rgb(*hsv))).astype(np.int16)
    yield np.full(3, 255, np.int16)
    yield np.zeros(3, np.int16)
