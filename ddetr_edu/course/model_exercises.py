"""The exercises of lesson 00, about the model as a whole."""

import math

from ddetr_edu.course import solutions
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.mistakes import count_tokens_with

count_tokens = Exercise(
    solutions.count_tokens,
    lambda seed: ((800, 1200), (801, 1201), (192, 224), (97, 203), (640, 427))[seed],
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
            solutions.count_tokens(h, w) - math.ceil(h / 64) * math.ceil(w / 64)
        ),
    },
)
