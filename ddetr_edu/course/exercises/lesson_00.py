"""The exercises of lesson 00, about the model as a whole."""

import math
from collections.abc import Callable

from ddetr_edu.course.exercise import Cases, Exercise

LESSON_SHAPES = [(100, 150), (50, 75), (25, 38), (13, 19)]  # of 800 x 1200 pixels


def my_count_tokens(height, width):
    """(height, width) -> int"""
    tokens = 0
    for stride in (8, 16, 32, 64):
        tokens += math.ceil(height / stride) * math.ceil(width / stride)
    return tokens


def my_locate_token(index, spatial_shapes):
    """(index, [(H, W), ...]) -> (level, row, column)"""
    for level, (height, width) in enumerate(spatial_shapes):
        if index < height * width:
            return level, index // width, index % width
        index = index - height * width


def count_tokens_with(rounding: Callable) -> Callable:
    """A count of tokens that rounds the sizes of the feature maps in its own way.

    Args:
        rounding: What is applied to height / stride and width / stride.

    Returns:
        A function (height, width) -> number.
    """

    def count(height, width):
        return sum(rounding(height / s) * rounding(width / s) for s in (8, 16, 32, 64))

    return count


def _image_sizes() -> Cases:
    return {
        "the image of this lesson": (800, 1200),
        "sides that no stride divides": (801, 1201),
        "sides that every stride divides": (192, 256),
        "taller than wide": (640, 427),
        "a small image": (97, 203),
        "smaller than the largest stride": (33, 50),
        "a single pixel": (1, 1),
        "a very wide image": (65, 2050),
    }


count_tokens = Exercise(
    my_count_tokens,
    _image_sizes,
    {
        "sizes were rounded down; strides round up": count_tokens_with(math.floor),
        "sizes were rounded to the nearest; strides round up": count_tokens_with(round),
        "sizes were not rounded; a map has whole rows and columns": count_tokens_with(float),
        "1 was added to sizes that divide evenly; there is nothing to round up": (
            lambda h, w: sum((h // s + 1) * (w // s + 1) for s in (8, 16, 32, 64))
        ),
        "the strides are 8, 16, 32 and 64, not 4, 8, 16 and 32": lambda h, w: sum(
            math.ceil(h / s) * math.ceil(w / s) for s in (4, 8, 16, 32)
        ),
        "the area of the image was divided; round rows and columns, each for itself": lambda h, w: (
            sum(math.ceil(h * w / s**2) for s in (8, 16, 32, 64))
        ),
        "only the level of stride 8 was counted": lambda h, w: math.ceil(h / 8) * math.ceil(w / 8),
        "only the last level was returned; add up all four": lambda h, w: (
            math.ceil(h / 64) * math.ceil(w / 64)
        ),
        "rows and columns were added; a map has rows times columns": lambda h, w: sum(
            math.ceil(h / s) + math.ceil(w / s) for s in (8, 16, 32, 64)
        ),
        "the level of stride 64 is missing": lambda h, w: (
            my_count_tokens(h, w) - math.ceil(h / 64) * math.ceil(w / 64)
        ),
    },
)


def _indices() -> Cases:
    return {
        "the first token of all": (0, [(3, 5), (2, 7)]),
        "in the second row": (9, [(4, 7), (2, 3)]),
        "the last token of the first level": (14, [(3, 5), (2, 4)]),
        "the first token of the second level": (24, [(4, 6), (5, 2)]),
        "in the second level": (31, [(5, 4), (6, 3), (2, 1)]),
        "the last token of all": (66, [(6, 9), (3, 4), (1, 1)]),
        "one level, taller than wide": (23, [(11, 3)]),
        "the lesson's image, in the middle of the third level": (19_200, LESSON_SHAPES),
        "a second level larger than the first": (17, [(2, 2), (3, 8)]),
        "an image of 8 x 8 pixels, with one token on each level": (3, [(1, 1)] * 4),
        "levels of one row": (17, [(1, 13), (1, 7), (1, 4)]),
        "levels of one column": (13, [(8, 1), (4, 1), (2, 1)]),
    }


def locate_token_by(place: Callable, last: int = 0) -> Callable:
    """A search for a token that goes wrong in its own way.

    Args:
        place: (index in its level, H, W) -> (row, column).
        last: By how much the index may exceed the last one of a level.

    Returns:
        A function (index, shapes) -> (level, row, column).
    """

    def locate(index, spatial_shapes):
        for level, (height, width) in enumerate(spatial_shapes):
            if index < height * width + last:
                return level, *place(index, height, width)
            index -= height * width

    return locate


locate_token = Exercise(
    my_locate_token,
    _indices,
    {
        "rows and columns are swapped: the index runs along a row first": locate_token_by(
            lambda i, h, w: (i % w, i // w)
        ),
        "the index was divided by the height; a row has W tokens": locate_token_by(
            lambda i, h, w: (i // h, i % h)
        ),
        "tokens were counted column by column; they run row by row": locate_token_by(
            lambda i, h, w: (i % h, i // h)
        ),
        "rows and columns were counted from 1": locate_token_by(
            lambda i, h, w: (i // w + 1, i % w + 1)
        ),
        "the tokens of the earlier levels were not subtracted": lambda index, shapes: (
            my_locate_token(index, shapes)[0],
            index // shapes[my_locate_token(index, shapes)[0]][1],
            index % shapes[my_locate_token(index, shapes)[0]][1],
        ),
        "the levels were taken from the last to the first; the finest comes first": (
            lambda index, shapes: my_locate_token(index, shapes[::-1])
        ),
        "levels were counted from 1": lambda index, shapes: (
            my_locate_token(index, shapes)[0] + 1,
            *my_locate_token(index, shapes)[1:],
        ),
        "the first token of a level was taken for the last of the level before: use <": (
            locate_token_by(lambda i, h, w: (i // w, i % w), last=1)
        ),
        "tokens were counted from 1; the first has index 0": locate_token_by(
            lambda i, h, w: ((i - 1) // w, (i - 1) % w)
        ),
        "the row is not a whole number: divide with //": locate_token_by(
            lambda i, h, w: (i / w, i % w)
        ),
    },
)
