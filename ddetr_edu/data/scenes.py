"""Generated scenes of simple shapes: labelled images in any number.

A scene is a function of (seed, index) alone, so that any worker can draw any scene, in any order,
and training needs no stored images.
"""

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

# COCO counts categories from 1.
CATEGORIES = {1: "circle", 2: "square", 3: "triangle", 4: "star", 5: "ring", 6: "cross"}

# Validation scenes have a seed that no training run on `Shapes(length, seed)` is given, and the
# scenes of the final test one that validation does not have either.
VAL_SEED_OFFSET = 1_000_000
TEST_SEED = 2 * VAL_SEED_OFFSET

IMAGE_SIDES = (160, 224)  # height and width of an image in px, drawn independently
BOX_SIZES = (8, 100)  # longer side of a box in px, log-uniform
OBJECT_COUNTS = (1, 8)  # number of objects to place
MAX_OVERLAP = 0.3  # intersection of two boxes over the area of the smaller one
MIN_CONTRAST = 90  # of 255, see `contrast`
MARGIN = 2  # px around a shape from which it has to stand out, too
MAX_TRIES = 20  # shapes tried for one object; the first object of a scene never needs as many


@dataclass(frozen=True)
class Scene:
    """An image and the objects in it, at least one.

    A box encloses exactly the pixels of which the shape covers more than half, so its corners are
    whole numbers. It encloses the whole shape even where a later one covers a part of it.
    """

    image: Image.Image  # RGB
    boxes: np.ndarray  # float32 (n, 4), (x1, y1, x2, y2) in px
    labels: np.ndarray  # int64 (n,), category ids


@dataclass(frozen=True)
class Shape:
    """The outline of a shape."""

    name: str  # one of CATEGORIES
    x: float  # of the centre, px
    y: float
    radius: float  # of the circumscribed circle, px
    angle: float  # radians, clockwise on the screen

    def extent(self) -> tuple[float, float, float, float]:
        """The bounding box of the outline: (x1, y1, x2, y2) in px."""
        left, top, right, bottom = _unit_extent(self.name, self.angle)
        r = self.radius
        return self.x + left * r, self.y + top * r, self.x + right * r, self.y + bottom * r

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The signed distance of points to the outline.

        Args:
            x: The points' x in px.
            y: Their y in px; must broadcast with x.

        Returns:
            Distances in px, negative inside the shape, in the shape of x and y broadcast.
        """
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = (x - self.x) / self.radius, (y - self.y) / self.radius
        return self.radius * _unit_distance(self.name, cos * x + sin * y, cos * y - sin * x)


def draw_scene(seed: int, index: int) -> Scene:
    """Draw scene number `index` of the infinite series `seed`.

    It is the same in every call and on every machine. Height and width are 160 to 224 px; 1 to 8
    shapes of 8 to 100 px lie entirely inside the image.

    Args:
        seed: Of the series, at least 0.
        index: Of the scene in the series, at least 0.

    Returns:
        The scene.

    Raises:
        ValueError: If the seed or the index is negative.
    """
    rng = _generator(seed, index)
    height, width = _draw_size(rng)
    canvas = _background(rng, height, width)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(rng.integers(OBJECT_COUNTS[0], OBJECT_COUNTS[1] + 1)):
        for _ in range(MAX_TRIES):
            label, shape = _random_shape(rng, height, width)
            rows, columns, distance = _rasterise(shape, height, width)
            box = _tight_box(rows, columns, distance)
            if not BOX_SIZES[0] <= max(box[2] - box[0], box[3] - box[1]) <= BOX_SIZES[1]:
                continue  # tips too thin to cover half a pixel made the box too small
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
    """The size of a scene, without drawing it.

    Args:
        seed: As of `draw_scene`.
        index: As of `draw_scene`.

    Returns:
        (height, width) in px.

    Raises:
        ValueError: If the seed or the index is negative.
    """
    return _draw_size(_generator(seed, index))


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, index]))


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    height, width = rng.integers(IMAGE_SIDES[0], IMAGE_SIDES[1] + 1, size=2)  # drawn first of all
    return int(height), int(width)


def contrast(colour: np.ndarray, pixels: np.ndarray) -> int:
    """How well a colour stands out from the pixel that is most like it.

    The difference of two colours is the largest one in a single channel. A shape of contrast c
    differs by at least c from every pixel that it is drawn upon.

    Args:
        colour: (3,), 0 to 255.
        pixels: (n, 3) uint8.

    Returns:
        The smallest difference to any of the pixels, 0 to 255.
    """
    return int(np.abs(pixels.astype(np.int16) - colour).max(axis=1).min())


# cos and sin are applied to scalars only: on arrays their last bit depends on the processor, which
# that of + - * / and sqrt does not, and a scene has to be the same everywhere.


def _corners(count: int, first: float = -math.pi / 2) -> list[tuple[float, float]]:
    """Corners (x, y) of a regular polygon of circumradius 1, the first at angle `first`."""
    angles = [first + 2 * math.pi * k / count for k in range(count)]
    return [(math.cos(a), math.sin(a)) for a in angles]


ARM_HALF_WIDTH = 0.32  # of a cross, in circumradii
ARM_LENGTH = math.sqrt(1 - ARM_HALF_WIDTH**2)  # from the centre to the end of the arm
TRIANGLE, STAR = _corners(3), _corners(5)
CORNERS = {  # of the convex hull
    "square": _corners(4, first=-math.pi / 4),
    "triangle": TRIANGLE,
    "star": STAR,
    "cross": [
        (s * a, t * b)
        for s in (-1, 1)
        for t in (-1, 1)
        for a, b in ((ARM_HALF_WIDTH, ARM_LENGTH), (ARM_LENGTH, ARM_HALF_WIDTH))
    ],
}
RING_HOLE = 0.55  # inner radius of the ring, in outer radii


def _unit_extent(name: str, angle: float) -> tuple[float, float, float, float]:
    """The bounding box of the shape of circumradius 1 around the origin, rotated by angle."""
    if name not in CORNERS:
        return -1.0, -1.0, 1.0, 1.0  # circle and ring
    cos, sin = math.cos(angle), math.sin(angle)
    xs = [cos * x - sin * y for x, y in CORNERS[name]]
    ys = [sin * x + cos * y for x, y in CORNERS[name]]
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
        vertical = np.maximum(x_abs - ARM_HALF_WIDTH, y_abs - ARM_LENGTH)
        horizontal = np.maximum(x_abs - ARM_LENGTH, y_abs - ARM_HALF_WIDTH)
        return np.minimum(vertical, horizontal)
    if name == "triangle":
        # Opposite each corner lies an edge, half a circumradius from the centre.
        return np.maximum.reduce([-(cx * x + cy * y) for cx, cy in TRIANGLE]) - 0.5
    # Each of the star's five lines cuts off one tip: a point in a tip is beyond only one line.
    beyond = np.stack([cx * x + cy * y for cx, cy in STAR])
    return np.partition(beyond, 3, axis=0)[3] - math.cos(2 * math.pi / 5)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A muted image (H, W, 3) uint8: blotches, stripes or a gradient, with grain over it.

    The tone stays so far from medium grey that black or white has MIN_CONTRAST to all of it:
    dark reaches 105 + 20 + 28 + 12 = 165 = 255 - 90, light reaches 150 - 20 - 28 - 12 = 90.
    """
    tone = rng.uniform(55, 105) if rng.random() < 0.5 else rng.uniform(150, 200)
    base, amplitude = tone + rng.uniform(-20, 20, size=3), rng.uniform(-28, 28, size=3)
    angle = rng.uniform(0, 2 * math.pi)
    position = np.arange(width) * math.cos(angle) + np.arange(height)[:, None] * math.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        pattern = _cells(rng, height, width, cell=int(rng.integers(4, 10))) * (2 / 3) - 1
    elif kind == 1:
        period = rng.uniform(10, 48)
        # px to the nearest edge of a stripe, positive in one stripe and negative in the next
        to_edge = (np.abs(position / period % 1 - 0.5) - 0.25) * period
        pattern = np.clip(2 * to_edge, -1, 1)
    else:
        low, high = position.min(), position.max()
        pattern = 2 * (position - low) / (high - low) - 1
    # 17 levels of pattern times 4 of grain are few colours, which keeps the PNG files small.
    level = np.rint(8 + 8 * pattern).astype(np.int64)
    grain = _cells(rng, height, width, cell=3)
    offsets = amplitude * np.linspace(-1, 1, 17)[:, None, None]
    palette = base + offsets + np.linspace(-12, 12, 4)[:, None]  # (17, 4, 3)
    palette = np.clip(np.rint(palette), 0, 255).astype(np.uint8)
    return palette.reshape(-1, 3).take(4 * level + grain, axis=0)


def _cells(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise (H, W) of levels 0 to 3, constant on squares of `cell` px."""
    noise = rng.integers(4, size=(-(-height // cell), -(-width // cell)))
    return noise.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _random_shape(rng: np.random.Generator, height: int, width: int) -> tuple[int, Shape]:
    """A category id and its shape, of random size and angle, anywhere inside the image."""
    label = int(rng.integers(1, len(CATEGORIES) + 1))
    size = BOX_SIZES[0] * (BOX_SIZES[1] / BOX_SIZES[0]) ** rng.random()
    angle = rng.uniform(0, 2 * math.pi)
    left, top, right, bottom = _unit_extent(CATEGORIES[label], angle)
    radius = size / max(right - left, bottom - top)
    # One pixel of background stays visible on every side.
    x = rng.uniform(1 - left * radius, width - 1 - right * radius)
    y = rng.uniform(1 - top * radius, height - 1 - bottom * radius)
    return label, Shape(CATEGORIES[label], x, y, radius, angle)


def _overlap(box: tuple, others: list[tuple]) -> float:
    """The largest intersection of the box with another, over the area of the smaller one."""
    if not others:
        return 0.0
    a, b = np.array(box), np.array(others)  # (4,) and (n, 4)
    sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
    area = np.prod(a[2:] - a[:2])
    areas = np.prod(b[:, 2:] - b[:, :2], axis=1)
    return float((np.prod(np.maximum(sides, 0), axis=1) / np.minimum(area, areas)).max())


def _rasterise(shape: Shape, height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns around a shape, and the signed distances of their pixel centres."""
    x1, y1, x2, y2 = shape.extent()
    rows = slice(max(math.floor(y1) - MARGIN, 0), min(math.ceil(y2) + MARGIN, height))
    columns = slice(max(math.floor(x1) - MARGIN, 0), min(math.ceil(x2) + MARGIN, width))
    # Pixel i covers [i, i + 1), its centre is i + 0.5.
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)[:, None]
    return rows, columns, shape.distance(x + 0.5, y + 0.5)


def _tight_box(rows: slice, columns: slice, distance: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x1, y1, x2, y2) around the pixels that are covered by more than half."""
    # A straight edge covers more than half of a pixel exactly if the pixel's centre is inside.
    inside = distance < 0
    y, x = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = columns.start, rows.start
    return int(left + x[0]), int(top + y[0]), int(left + x[-1] + 1), int(top + y[-1] + 1)


def _paint(rng: np.random.Generator, window: np.ndarray, distance: np.ndarray) -> bool:
    """Paint a shape in a colour that stands out; False if none was found."""
    under = window[distance < MARGIN]
    for colour in _colours(rng):
        if contrast(colour, under) >= MIN_CONTRAST:
            # Antialiasing: the part of a pixel that a straight edge at this distance covers.
            coverage = np.clip(0.5 - distance, 0, 1)[..., None]
            window[:] = np.rint(window + coverage * (colour - window))
            return True
    return False


def _colours(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Candidate colours (3,) int16: eight vivid ones, then white and black."""
    for _ in range(8):
        hsv = rng.random(), rng.uniform(0.55, 1), rng.uniform(0.4, 1)
        yield np.rint(255 * np.array(colorsys.hsv_to_rgb(*hsv))).astype(np.int16)
    yield np.full(3, 255, np.int16)
    yield np.zeros(3, np.int16)
