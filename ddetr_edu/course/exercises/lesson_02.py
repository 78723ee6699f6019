"""The exercises of lesson 02 about positions: in pixels, as fractions, and as tokens."""

from collections.abc import Callable

import torch

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.viz.pixel_conventions import pixel_position


def my_to_pixels(points, spatial_shape):
    """(points (n, 2) (x, y), (H, W)) -> (n, 2) (x, y) in pixels"""
    height, width = spatial_shape
    x, y = points.unbind(-1)
    return torch.stack([x * width - 0.5, y * height - 0.5], dim=-1)


def my_from_pixels(positions, spatial_shape):
    """(positions (n, 2) (x, y) in pixels, (H, W)) -> (n, 2) fractions (x, y)"""
    height, width = spatial_shape
    x, y = positions.unbind(-1)
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1)


def my_covering_token(row, column, image_size, spatial_shapes, level):
    """(row, column, (H, W) of the image, [(H, W), ...], level) -> int"""
    image_height, image_width = image_size
    height, width = spatial_shapes[level]
    token_row = int((row + 0.5) / image_height * height)
    token_column = int((column + 0.5) / image_width * width)
    before = sum(h * w for h, w in spatial_shapes[:level])
    return before + token_row * width + token_column


def by_side(rule: Callable) -> Callable:
    """A conversion of points that treats x and y alike.

    Args:
        rule: A function (x or y (n,), the size of that side) -> (n,).

    Returns:
        A function (points (n, 2), (H, W)) -> (n, 2).
    """
    return lambda points, shape: torch.stack(
        [rule(points[:, 0], torch.tensor(shape[1])), rule(points[:, 1], torch.tensor(shape[0]))], -1
    )


SHAPES = {  # of a map, and how many points
    "a map wider than high": ((3, 4), 5),
    "a map higher than wide": ((7, 2), 3),
    "a single point": ((5, 8), 1),
    "a small map": ((2, 1), 4),
    "a map of one row": ((1, 3), 6),
    "a large map": ((100, 150), 7),
    "points at the edges": ((4, 6), 2),
    "points beyond the edges": ((6, 5), 8),
}


def _points() -> Cases:
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, (shape, count) in SHAPES.items():
        points = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        if name == "points at the edges":
            points = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        elif name == "points beyond the edges":
            points = 3 * points - 1
        cases[name] = points, shape
    return cases


to_pixels = Exercise(
    my_to_pixels,
    _points,
    {
        "half a pixel is missing: x W is counted from the left edge, and the centre of pixel 0 is "
        "half a pixel away from it": by_side(lambda x, size: x * size),
        "half a pixel was added; the first centre lies to the right of the edge, so subtract": (
            by_side(lambda x, size: x * size + 0.5)
        ),
        "0 and 1 were taken for the centres of the outer pixels (align_corners); they are the "
        "edges of the map": by_side(lambda x, size: x * (size - 1)),
        "height and width are swapped: the shape is (H, W), but x goes with W": lambda points, s: (
            my_to_pixels(points, s[::-1])
        ),
        "the result is in the order (y, x); a position is (x, y)": lambda points, s: my_to_pixels(
            points, s
        ).flip(-1),
        "the half was subtracted from the fraction; it is half a pixel, not half a map": by_side(
            lambda x, size: (x - 0.5) * size
        ),
        "the position was rounded to the pixel that it falls in; keep the part between pixels": (
            by_side(lambda x, size: (x * size).floor())
        ),
        "positions were clamped to 0 ... W - 1; between the edge and the first centre they are "
        "negative": by_side(lambda x, size: (x * size - 0.5).clamp(0.0 * size, size - 1.0)),
        "fractions were taken to run from -1 to 1, as those of grid_sample do; ours start at 0": (
            by_side(lambda x, size: (x + 1) / 2 * size - 0.5)
        ),
        "x was multiplied by H and y by W, and half a pixel is missing": lambda points, shape: (
            points * points.new_tensor(shape)
        ),
    },
    library=(pixel_position,),
)


def _positions() -> Cases:
    return {
        name: (my_to_pixels(points, shape), shape) for name, (points, shape) in _points().items()
    }


from_pixels = Exercise(
    my_from_pixels,
    _positions,
    {
        "half a pixel is missing: the centre of pixel 0 is half a pixel to the right of the edge": (
            by_side(lambda x, size: x / size)
        ),
        "half a pixel was subtracted; the edge lies half a pixel before the first centre, so add": (
            by_side(lambda x, size: (x - 0.5) / size)
        ),
        "0 and 1 became the centres of the outer pixels (align_corners); they are the edges of the "
        "map": by_side(lambda x, size: x / (size - 1)),
        "height and width are swapped: the shape is (H, W), but x goes with W": lambda x, shape: (
            my_from_pixels(x, shape[::-1])
        ),
        "the result is in the order (y, x); a point is (x, y)": lambda x, shape: my_from_pixels(
            x, shape
        ).flip(-1),
        "the half was added to the fraction; it is half a pixel, not half a map": by_side(
            lambda x, size: x / size + 0.5
        ),
        "fractions were clamped to 0 ... 1; points may lie outside the map": lambda x, shape: (
            my_from_pixels(x, shape).clamp(0, 1)
        ),
        "the result runs from -1 to 1, as grid_sample wants it; ours runs from 0 to 1": by_side(
            lambda x, size: 2 * (x + 0.5) / size - 1
        ),
        "x was divided by H and y by W, and half a pixel is missing": lambda positions, shape: (
            positions / positions.new_tensor(shape)
        ),
    },
)


def _pixels_of_images() -> Cases:
    paper = [(100, 150), (50, 75), (25, 38), (13, 19)]
    return {
        "the finest level": (403, 702, (800, 1200), paper, 0),
        "the second level": (97, 1011, (800, 1200), paper, 1),
        "the coarsest level, whose width was rounded up": (790, 63, (800, 1200), paper, 3),
        "the last pixel": (479, 639, (480, 640), [(60, 80), (30, 40), (15, 20), (8, 10)], 2),
        "the first pixel": (0, 0, (427, 600), [(54, 75), (27, 38), (14, 19)], 1),
        "the last row": (206, 11, (207, 165), [(26, 21), (13, 11)], 1),
        "the last column": (18, 210, (173, 211), [(22, 27), (11, 14), (6, 7), (3, 4), (2, 2)], 4),
        "a level of one row": (30, 280, (60, 300), [(8, 38), (4, 19), (2, 10), (1, 5)], 3),
        "just before the next column": (300, 62, (768, 1200), [(24, 38), (12, 19)], 1),
        "just after the next row and column": (123, 1137, (800, 1200), paper[2:], 1),
    }


def covering_token_by(rule: Callable, flatten: Callable | None = None) -> Callable:
    """A covering token with its own rule along each side.

    Args:
        rule: A function (pixel, pixels of the image, pixels of the level) -> row or column.
        flatten: A function (row, column, H, W) -> index within the level; row by row if None.

    Returns:
        A function like `my_covering_token`.
    """

    def token(row, column, image_size, spatial_shapes, level):
        height, width = spatial_shapes[level]
        found = rule(row, image_size[0], height), rule(column, image_size[1], width)
        index = flatten(*found, height, width) if flatten else found[0] * width + found[1]
        return sum(h * w for h, w in spatial_shapes[:level]) + index

    return token


def _right_token(pixel: int, pixels: int, tokens: int) -> int:
    return int((pixel + 0.5) / pixels * tokens)


covering_token = Exercise(
    my_covering_token,
    _pixels_of_images,
    {
        "the pixel's left edge was used; it is its centre, half a pixel further, that must lie in "
        "the token": covering_token_by(lambda i, n, tokens: int(i / n * tokens)),
        "the pixel was divided by the stride; a level whose size was rounded up has pixels that "
        "are a little smaller": covering_token_by(lambda i, n, tokens: i // -(-n // tokens)),
        "the pixel was divided by 8, 16, 32, ...; use the given sizes, as the levels need not "
        "start at stride 8": lambda r, c, size, shapes, level: (
            sum(h * w for h, w in shapes[:level])
            + r // (8 << level) * shapes[level][1]
            + c // (8 << level)
        ),
        "the position was rounded to the nearest whole number; round down, as token 0 covers all "
        "from 0 to 1": covering_token_by(lambda i, n, tokens: round((i + 0.5) / n * tokens)),
        "the fraction was multiplied by the size minus 1 (align_corners)": covering_token_by(
            lambda i, n, tokens: round((i + 0.5) / n * (tokens - 1))
        ),
        "the tokens of the finer levels are missing: they come first in the sequence": (
            lambda r, c, size, shapes, level: my_covering_token(r, c, size, shapes[level:], 0)
        ),
        "the tokens of the level itself were counted as if they came before it": (
            lambda r, c, size, shapes, level: (
                my_covering_token(r, c, size, shapes, level) + shapes[level][0] * shapes[level][1]
            )
        ),
        "tokens were counted column by column; they are in the sequence row by row": (
            covering_token_by(_right_token, lambda row, column, h, w: column * h + row)
        ),
        "a row has W tokens, not H: the index is row * W + column": covering_token_by(
            _right_token, lambda row, column, h, w: row * h + column
        ),
        "height and width of the image are swapped": lambda r, c, size, shapes, level: (
            my_covering_token(r, c, size[::-1], shapes, level)
        ),
        "row and column are swapped": lambda r, c, size, shapes, level: my_covering_token(
            c, r, size, shapes, level
        ),
    },
)
