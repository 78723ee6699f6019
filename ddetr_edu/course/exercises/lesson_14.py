"""The exercises of lesson 14 that count: cache lines, and the work of the attention.

Those about loops in C++ and about threads are in `lesson_14_kernel` and `lesson_14_conflicts`.
"""

from collections.abc import Callable

from ddetr_edu.course.exercise import Cases, Exercise


def my_cache_lines(first, step, count):
    """(position of the first number, step, how many are read) -> different lines, a number"""
    positions = [first + i * step for i in range(count)]
    return len({position // 16 for position in positions})


def my_work(n, s, lq, m, l, p, d):
    """N, S, Lq, M, L, P, D -> [operations, bytes of the rows that are read, bytes of all arrays]"""
    rows = 4 * n * lq * m * l * p  # four corners
    points = n * lq * m * l * p
    numbers = n * s * m * d + 2 * points + points + n * lq * m * d
    return [2 * rows * d, 4 * rows * d, 4 * numbers]


def _reads() -> Cases:
    return {  # first, step, count
        "16 numbers side by side, from the start of a line": (0, 1, 16),
        "a row of 32 and the number after it": (64, 1, 33),
        "every other number": (48, 2, 15),
        "8 numbers across the end of a line": (12, 1, 8),
        "one channel of neighbouring tokens": (5, 256, 7),
        "the same number again and again": (21, 0, 40),
        "one number": (1000, 3, 1),
        "a step of nearly a line": (30, 15, 34),
        "two thirds of a line": (7, 10, 25),
        "backwards": (500, -1, 50),
        "backwards in steps": (911, -24, 12),
        "no read at all": (3, 5, 0),
    }


def lines_by(line_of: Callable) -> Callable:
    """Counts of different lines by rules of one's own.

    Args:
        line_of: A function (first, step, i) -> the line of read i.

    Returns:
        A function (first, step, count) -> how many lines.
    """
    return lambda first, step, count: len({line_of(first, step, i) for i in range(count)})


def span_of_lines(first: int, step: int, count: int) -> int:
    """All lines from that of the first read to that of the last, touched or not.

    Args:
        first: The position of the first number.
        step: From a read to the next.
        count: How many are read.

    Returns:
        A number of lines.
    """
    return abs((first + step * (count - 1)) // 16 - first // 16) + 1


cache_lines = Exercise(
    my_cache_lines,
    _reads,
    {
        "each read was counted; reads in the same line count once": lambda first, step, count: (
            count
        ),
        "a line was taken to hold 64 numbers; it holds 64 bytes, and a number has 4": lines_by(
            lambda first, step, i: (first + i * step) // 64
        ),
        "a line was taken to hold 8 numbers, as of float64; a float32 has 4 bytes": lines_by(
            lambda first, step, i: (first + i * step) // 8
        ),
        "a line was taken to hold 4 numbers: that is how many bytes a number has": lines_by(
            lambda first, step, i: (first + i * step) // 4
        ),
        "the first number was taken for the start of a line; a line starts at a multiple of 16": (
            lines_by(lambda first, step, i: i * step // 16)
        ),
        "the step was left out; reads need not be side by side": lines_by(
            lambda first, step, i: (first + i) // 16
        ),
        "lines that the reads skip were counted, too": span_of_lines,
        "the last line minus the first was taken; reads may skip lines, or go backwards": (
            lambda first, step, count: (first + step * (count - 1)) // 16 - first // 16 + 1
        ),
        "one read too many was counted": lambda first, step, count: my_cache_lines(
            first, step, count + 1
        ),
        "the last read was left out": lambda first, step, count: my_cache_lines(
            first, step, count - 1
        ),
        "bytes were divided by 64 and rounded up; where the numbers lie decides, too": (
            lambda first, step, count: -(-4 * count // 64)
        ),
        "the way from the first read to the last was divided by 16; where it begins decides, too": (
            lambda first, step, count: -(-count * step // 16)
        ),
        "the changes from a line to another were counted; that is one less": (
            lambda first, step, count: my_cache_lines(first, step, count) - 1
        ),
    },
)


def work_by(
    corners: int = 4,
    multiplied: int = 4,
    per_read: int = 2,
    size: int = 4,
    per_point: int = 3,
    queries_only: bool = False,
    channels_of: Callable = lambda m, d: d,
    output_of: Callable = lambda m, d: m * d,
    points_of: Callable = lambda l, p: l * p,
) -> Callable:
    """The three counts by rules of one's own.

    Args:
        corners: Rows that are read for each point.
        multiplied: Rows for each point in the operations.
        per_read: Operations for each number that is read.
        size: Bytes of a number.
        per_point: Numbers of locations and weights for each point.
        queries_only: Whether value has as many tokens as there are queries.
        channels_of: A function (M, D) -> the numbers of a row.
        output_of: A function (M, D) -> the numbers of the output for a query.
        points_of: A function (L, P) -> points of a query and head.

    Returns:
        A function with the arguments of `my_work`.
    """

    def work(n, s, lq, m, l, p, d):
        points = n * lq * m * points_of(l, p)
        row = points * channels_of(m, d)
        tokens = lq if queries_only else s
        numbers = n * tokens * m * d + per_point * points + n * lq * output_of(m, d)
        return [per_read * multiplied * row, size * corners * row, size * numbers]

    return work


def _sizes() -> Cases:
    return {  # N, S, Lq, M, L, P, D
        "the example by hand": (1, 6, 2, 2, 1, 3, 4),
        "one image, one query": (1, 35, 1, 3, 2, 4, 8),
        "two images": (2, 13, 5, 1, 3, 7, 6),
        "more queries than tokens": (3, 4, 11, 5, 1, 2, 7),
        "one channel": (4, 21, 6, 4, 3, 5, 1),
        "one point": (5, 30, 7, 6, 2, 1, 3),
        "one token": (2, 1, 9, 7, 1, 8, 5),
        "the layer of the first guess": (1, 5017, 5017, 8, 4, 4, 32),
        "a decoder": (2, 19947, 300, 8, 4, 4, 32),
    }


work = Exercise(
    my_work,
    _sizes,
    {
        "a point was read at one pixel; it is read between four": work_by(corners=1, multiplied=1),
        "a point was read at two pixels; it is read between four": work_by(corners=2, multiplied=2),
        "only one of a point's four rows was counted in the operations": work_by(multiplied=1),
        "only one of a point's four rows was counted in the bytes": work_by(corners=1),
        "each number read was counted as one operation; it is multiplied and added: two": (
            work_by(per_read=1)
        ),
        "these are numbers, not bytes; a number in float32 has 4 bytes": work_by(size=1),
        "a number was taken to have 8 bytes; those of float32 have 4": work_by(size=8),
        "each point was given two numbers in the arrays; it has three: x, y and its weight": (
            work_by(per_point=2)
        ),
        "locations and weights are missing among the arrays": work_by(per_point=0),
        "the output is missing among the arrays": work_by(output_of=lambda m, d: 0),
        "the output was given D numbers for each query; it has D for each of M heads": work_by(
            output_of=lambda m, d: d
        ),
        "value was taken to have Lq tokens; it has S": work_by(queries_only=True),
        "a corner's row was taken to have all M D channels; a head reads its own D": work_by(
            channels_of=lambda m, d: m * d
        ),
        "rows were taken to be single numbers; each has D": work_by(channels_of=lambda m, d: 1),
        "the levels were forgotten: each head reads P points on each of L levels": work_by(
            points_of=lambda l, p: p
        ),
    },
)
