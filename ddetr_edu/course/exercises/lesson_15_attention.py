"""The puzzle of lesson 15 about one head of four queries, each read by a group of 8 lanes."""

from collections.abc import Callable

import torch

from ddetr_edu.course.exercise import Cases
from ddetr_edu.course.exercises.lesson_15 import random_numbers
from ddetr_edu.course.puzzle import Puzzle
from ddetr_edu.course.warp import Array, Warp


def my_warp_attention(warp, value, locations, weights, output, shape, n_points):
    """(warp, value (H*W, 8), locations (4, P, 2), weights (4, P), output (4, 8), (H, W), P)"""
    group, channel = warp.lane // 8, warp.lane % 8
    total = torch.zeros(32)
    for first in range(0, n_points, 8):
        own = first + channel  # the point that this lane prepares for its group
        exists = own < n_points
        at = group * n_points + own
        x = warp.load(locations, 2 * at, exists)
        y = warp.load(locations, 2 * at + 1, exists)
        pixels, coefs = warp.corners(x, y, shape)
        coefs = coefs * warp.load(weights, at, exists)
        for p in range(min(8, n_points - first)):
            for corner in range(4):
                pixel = warp.shuffle(pixels[corner], group * 8 + p)
                coef = warp.shuffle(coefs[corner], group * 8 + p)
                number = warp.load(value, pixel * 8 + channel, pixel >= 0)
                total = total + coef * number
    warp.store(output, warp.lane, total)


def _four_queries() -> Cases:
    sizes = {
        "eight points on a wide map": ((4, 7), 8, 0.0),
        "one point": ((5, 3), 1, 0.0),
        "sixteen points": ((6, 9), 16, 0.0),
        "three points: some lanes prepare none": ((3, 5), 3, 0.0),
        "eleven points": ((2, 8), 11, 0.0),
        "points beyond the border": ((7, 4), 5, 0.4),
        "a map of one row": ((1, 6), 4, 0.3),
        "twelve points, some of them outside": ((8, 10), 12, 0.2),
    }
    cases: Cases = {}
    for k, (name, ((height, width), n_points, beyond)) in enumerate(sizes.items()):
        generator = torch.Generator().manual_seed(k)
        locations = torch.rand(4, n_points, 2, generator=generator, dtype=torch.float64)
        weights = torch.rand(4, n_points, generator=generator, dtype=torch.float64)
        cases[name] = (
            Warp(),
            Array("value", random_numbers(height * width, 8, seed=k)),
            Array("locations", locations * (1 + 2 * beyond) - beyond),
            Array("weights", weights / weights.sum(1, keepdim=True)),
            Array("output", torch.zeros(4, 8).double(), is_output=True),
            (height, width),
            n_points,
        )
    return cases


def attend_by(
    read_points: str = "own",
    shuffled: str = "corners",
    change_xy: Callable | None = None,
    change_coef: Callable | None = None,
    change_pixel: Callable | None = None,
    rounds: Callable | None = None,
    source_of: Callable | None = None,
    reads_outside: bool = False,
) -> Callable:
    """The attention of four queries, with something done in another way.

    Args:
        read_points: "own": each lane reads one point; "all": each lane reads all of them.
        shuffled: What lanes that read their own points pass on: "corners" or "points".
        change_xy: A function (x, y) -> (x, y).
        change_coef: A function (coefs (4, 32), weight (32,)) -> coefs.
        change_pixel: A function (index, pixel, channel) -> index in value.
        rounds: A function n_points -> how many points are used.
        source_of: A function (group, p) -> the lane that has point p.
        reads_outside: Whether pixel 0 is read in place of one outside the map.

    Returns:
        A kernel.
    """
    use_xy = change_xy or (lambda x, y: (x, y))
    weigh = change_coef or (lambda coefs, weight: coefs * weight)
    use_pixel = change_pixel or (lambda index, pixel, channel: index)
    source = source_of or (lambda group, p: group * 8 + p)

    def kernel(warp, value, locations, weights, output, shape, n_points):
        group, channel = warp.lane // 8, warp.lane % 8
        total = torch.zeros(32)

        def read(own):
            exists = own < n_points
            at = group * n_points + own
            x = warp.load(locations, 2 * at, exists)
            y = warp.load(locations, 2 * at + 1, exists)
            return *use_xy(x, y), warp.load(weights, at, exists)

        def add(pixels, coefs, total):
            for pixel, coef in zip(pixels, coefs, strict=True):
                if reads_outside:
                    pixel = pixel.clamp(min=0)
                index = use_pixel(pixel * 8 + channel, pixel, channel)
                total = total + coef * warp.load(value, index, pixel >= 0)
            return total

        end = rounds(n_points) if rounds else n_points
        for first in range(0, end, 8):
            if read_points == "own":
                x, y, weight = read(first + channel)
                if shuffled == "corners":
                    pixels, coefs = warp.corners(x, y, shape)
                    coefs = weigh(coefs, weight)
            for p in range(min(8, end - first)):
                if read_points == "all":
                    x, y, weight = read(torch.full((32,), first + p))
                    all_pixels, all_coefs = warp.corners(x, y, shape)
                    total = add(all_pixels, weigh(all_coefs, weight), total)
                elif shuffled == "points":
                    of_p = [warp.shuffle(each, source(group, p)) for each in (x, y, weight)]
                    all_pixels, all_coefs = warp.corners(*of_p[:2], shape)
                    total = add(all_pixels, weigh(all_coefs, of_p[2]), total)
                else:
                    for pixel, coef in zip(pixels, coefs, strict=True):
                        pixel = warp.shuffle(pixel, source(group, p))
                        coef = warp.shuffle(coef, source(group, p))
                        total = add([pixel], [coef], total)
        warp.store(output, warp.lane, total)

    return kernel


warp_attention = Puzzle(
    my_warp_attention,
    _four_queries,
    {
        "all 8 lanes read each point and find its corners; one lane can do that for its group": (
            attend_by(read_points="all")
        ),
        "points are passed on, and all 8 lanes find the same corners: pass on the corners": (
            attend_by(shuffled="points")
        ),
        "all groups use the points of the first query": attend_by(source_of=lambda group, p: p),
        "x and y are swapped": attend_by(change_xy=lambda x, y: (y, x)),
        "the attention weights were left out": attend_by(change_coef=lambda coefs, weight: coefs),
        "all lanes read channel 0 of the pixel": attend_by(
            change_pixel=lambda index, pixel, channel: pixel * 8
        ),
        "pixels are 8 numbers apart: the index is pixel * 8 + channel": attend_by(
            change_pixel=lambda index, pixel, channel: pixel
        ),
        "only the first 8 points are used; there may be more": attend_by(
            rounds=lambda n_points: min(8, n_points)
        ),
        "the last points are missing where their number is not a multiple of 8": attend_by(
            rounds=lambda n_points: n_points // 8 * 8
        ),
        "pixels outside the map count as if they were pixel 0; a mask would leave them out": (
            attend_by(reads_outside=True)
        ),
        "8 points are passed on in each round, although the last may have fewer": attend_by(
            rounds=lambda n_points: -(-n_points // 8) * 8
        ),
        "each lane uses only the point that it has read": attend_by(
            source_of=lambda group, p: torch.arange(32)
        ),
    },
)
