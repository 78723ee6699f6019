"""The exercises of lesson 00, about the model as a whole."""

import math
from collections.abc import Callable

from ddetr_edu.course.exercise import Cases, Exercise


def my_count_tokens(height, width):
    """(height, width) -> int"""
    tokens = 0
    for stride in (8, 16, 32, 64):
        tokens += math.ceil(height / stride) * math.ceil(width / stride)
    return tokens


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
        "the level of stride 64 is missing": lambda h, w: (
            my_count_tokens(h, w) - math.ceil(h / 64) * math.ceil(w / 64)
        ),
    },
)
