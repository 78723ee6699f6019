"""The exercises of lesson 16 about operations, bytes, and what a faster part gains.

That about significant bits is in `lesson_16_bits`, that about the profiles of five detectors in
`lesson_16_bottlenecks`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.analysis.flops import sampling_flops
from ddetr_edu.course.exercise import Cases, Exercise


def my_conv_flops(shape, out_channels, kernel, stride):
    """(shape (N, C, H, W) of the input, output channels, side of the kernel, stride) -> FLOPs"""
    n_images, in_channels, height, width = shape
    rows, columns = -(-height // stride), -(-width // stride)  # of the output, rounded up
    pixels = n_images * rows * columns
    multiply_adds = pixels * out_channels * in_channels * kernel * kernel
    return 2 * multiply_adds


def my_attention_flops(n_images, n_tokens, n_queries, n_heads, n_levels, n_points, head_channels):
    """(N, S, Lq, M, L, P, D) -> [FLOPs of the four layers, FLOPs of sampling, bytes of sampling]"""
    c = n_heads * head_channels
    tokens, queries = n_images * n_tokens, n_images * n_queries
    points = queries * n_heads * n_levels * n_points
    values = 2 * tokens * c * c
    offsets, weights = 2 * c * 2 * points, 2 * c * points
    output = 2 * queries * c * c
    sampling = 2 * 4 * points * head_channels
    numbers = tokens * c + 3 * points + queries * c  # values, locations and weights, results
    return [values + offsets + weights + output, sampling, 4 * numbers]


def my_speed_up(seconds, factors):
    """(seconds (n,) of each part, factor (n,) by which it becomes faster) -> factor of the whole"""
    before = seconds.sum()
    after = (seconds / factors).sum()
    return before / after


def conv_by(pixels_of: Callable, products_of: Callable) -> Callable:
    """FLOPs of a convolution by rules of one's own.

    Args:
        pixels_of: A function (N, H, W, kernel, stride) -> the pixels of the output.
        products_of: A function (input channels, output channels, kernel) -> FLOPs for each pixel.

    Returns:
        A function as `my_conv_flops`.
    """

    def flops(shape, out_channels, kernel, stride):
        n_images, in_channels, height, width = shape
        pixels = pixels_of(n_images, height, width, kernel, stride)
        return pixels * products_of(in_channels, out_channels, kernel)

    return flops


def _pixels(n: int, height: int, width: int, kernel: int, stride: int) -> int:
    return n * -(-height // stride) * -(-width // stride)


def _products(c: int, out: int, kernel: int) -> int:
    return 2 * c * out * kernel**2


def _convolutions() -> Cases:
    return {
        "a linear layer on five tokens": ((1, 4, 1, 5), 3, 1, 1),
        "a small convolution": ((1, 2, 4, 6), 3, 3, 1),
        "two images": ((2, 3, 5, 7), 4, 3, 1),
        "stride 2": ((1, 5, 6, 8), 2, 3, 2),
        "stride 2, odd sides": ((3, 2, 7, 9), 5, 5, 2),
        "the first layer of a ResNet, on a small image": ((4, 3, 11, 17), 64, 7, 2),
        "stride 3": ((5, 6, 13, 10), 7, 5, 3),
        "stride 4, kernel of one pixel": ((1, 8, 10, 11), 6, 1, 4),
        "a wide kernel": ((2, 1, 9, 12), 8, 9, 1),
    }


conv_flops = Exercise(
    my_conv_flops,
    _convolutions,
    {
        "these are multiply-adds; each is two operations, a multiplication and an addition": (
            conv_by(_pixels, lambda c, out, kernel: c * out * kernel**2)
        ),
        "the output was taken to be as large as the input; a stride makes it smaller": conv_by(
            lambda n, h, w, kernel, stride: n * h * w, _products
        ),
        "the sides of the output were rounded down; with this padding they are rounded up": conv_by(
            lambda n, h, w, kernel, stride: n * (h // stride) * (w // stride), _products
        ),
        "the sides of the output were not rounded; with this padding they are rounded up": conv_by(
            lambda n, h, w, kernel, stride: n * (h / stride) * (w / stride), _products
        ),
        "only one side of the output was divided by the stride": conv_by(
            lambda n, h, w, kernel, stride: n * -(-h // stride) * w, _products
        ),
        "the pixels were divided by the stride once; both sides are divided": conv_by(
            lambda n, h, w, kernel, stride: n * -(-h * w // stride), _products
        ),
        "there is no padding here, so the output lost a margin; pad by kernel // 2": conv_by(
            lambda n, h, w, kernel, stride: (
                n * ((h - kernel) // stride + 1) * ((w - kernel) // stride + 1)
            ),
            _products,
        ),
        "the kernel has a side, and so kernel * kernel pixels": conv_by(
            _pixels, lambda c, out, kernel: 2 * c * out * kernel
        ),
        "the input channels are missing: a number of the output is a sum over all of them": conv_by(
            _pixels, lambda c, out, kernel: 2 * out * kernel**2
        ),
        "the output channels are missing: each of them is computed": conv_by(
            _pixels, lambda c, out, kernel: 2 * c * kernel**2
        ),
        "these are the operations of one image": conv_by(
            lambda n, h, w, kernel, stride: _pixels(1, h, w, kernel, stride), _products
        ),
        "the bias was counted, too; torch and most tables leave it out": conv_by(
            _pixels, lambda c, out, kernel: 2 * c * out * kernel**2 + out
        ),
        "a sum of n products needs only n - 1 additions, but n are counted, as torch does": conv_by(
            _pixels, lambda c, out, kernel: out * (2 * c * kernel**2 - 1)
        ),
    },
)


def work(n, s, lq, m, l, p, d, **changes) -> list[int]:
    """The three results of `my_attention_flops`, with some terms replaced.

    Args:
        n: N.
        s: S.
        lq: Lq.
        m: M.
        l: L.
        p: P.
        d: D.
        changes: Of "values", "offsets", "weights", "output", "sampling" and "numbers".

    Returns:
        FLOPs of the layers, FLOPs of sampling, and bytes.
    """
    c, points = m * d, n * lq * m * l * p
    terms = {
        "values": 2 * n * s * c * c,
        "offsets": 4 * c * points,
        "weights": 2 * c * points,
        "output": 2 * n * lq * c * c,
        "sampling": 8 * points * d,
        "numbers": n * s * c + 3 * points + n * lq * c,
        **changes,
    }
    layers = terms["values"] + terms["offsets"] + terms["weights"] + terms["output"]
    return [layers, terms["sampling"], 4 * terms["numbers"]]


def work_with(change: Callable) -> Callable:
    """A wrong answer to `my_attention_flops`.

    Args:
        change: A function (N, S, Lq, M, L, P, D) -> {term: what stands in its place}.

    Returns:
        A function as `my_attention_flops`.
    """
    return lambda *sizes: work(*sizes, **change(*sizes))


def _of_d_channels(n: int, s: int, lq: int, m: int, l: int, p: int, d: int) -> dict[str, int]:
    """The terms of `work` that change where a token has D channels in all, not C = M * D."""
    points = n * lq * m * l * p
    return {
        "values": 2 * n * s * d * d,
        "offsets": 4 * d * points,
        "weights": 2 * d * points,
        "output": 2 * n * lq * d * d,
        "numbers": n * (s + lq) * d + 3 * points,
    }


def _attentions() -> Cases:
    return {
        "one of everything but channels": (1, 1, 1, 1, 1, 1, 2),
        "one head, one level": (1, 6, 2, 1, 1, 3, 4),
        "a small decoder": (1, 30, 5, 2, 3, 4, 8),
        "a small encoder": (1, 21, 21, 4, 2, 3, 5),
        "two images": (2, 40, 7, 3, 5, 2, 6),
        "more queries than tokens": (3, 9, 50, 5, 4, 6, 3),
        "one channel for each head": (4, 12, 8, 7, 2, 5, 1),
        "the decoder of a small model": (5, 882, 60, 8, 3, 4, 16),
    }


attention_flops = Exercise(
    my_attention_flops,
    _attentions,
    {
        "these are multiply-adds; each is two FLOPs": lambda *sizes: [
            work(*sizes)[0] // 2,
            work(*sizes)[1] // 2,
            work(*sizes)[2],
        ],
        "these are the numbers of one image": lambda n, *sizes: work(1, *sizes),
        "values were projected for the queries; every one of the S tokens has a value": work_with(
            lambda n, s, lq, m, l, p, d: {"values": 2 * n * lq * (m * d) ** 2}
        ),
        "the output was projected for the tokens; only queries have one": work_with(
            lambda n, s, lq, m, l, p, d: {"output": 2 * n * s * (m * d) ** 2}
        ),
        "the output projection is missing": work_with(lambda n, s, lq, m, l, p, d: {"output": 0}),
        "a point takes three numbers of the linear layers, x, y and a weight, not two": work_with(
            lambda n, s, lq, m, l, p, d: {"weights": 0}
        ),
        "the layer that predicts the offsets is missing": work_with(
            lambda n, s, lq, m, l, p, d: {"offsets": 0}
        ),
        "offsets and weights were computed for each token; only queries have them": work_with(
            lambda n, s, lq, m, l, p, d: {
                "offsets": 4 * m * d * n * s * m * l * p,
                "weights": 2 * m * d * n * s * m * l * p,
            }
        ),
        "offsets and weights come from all C = M * D channels of a query, not from D": work_with(
            lambda n, s, lq, m, l, p, d: {
                "offsets": 4 * d * n * lq * m * l * p,
                "weights": 2 * d * n * lq * m * l * p,
            }
        ),
        "a projection maps all C = M * D channels to C others, not each head for itself": work_with(
            lambda n, s, lq, m, l, p, d: {
                "values": 2 * n * s * m * d * d,
                "output": 2 * n * lq * m * d * d,
            }
        ),
        "a point reads four corners, and each costs a multiply-add for each channel": work_with(
            lambda n, s, lq, m, l, p, d: {"sampling": 2 * n * lq * m * l * p * d}
        ),
        "sampling was counted once for a point; it is done for each of the D channels": work_with(
            lambda n, s, lq, m, l, p, d: {"sampling": 8 * n * lq * m * l * p}
        ),
        "a head samples its own D channels, not all C": work_with(
            lambda n, s, lq, m, l, p, d: {"sampling": 8 * n * lq * m * l * p * m * d}
        ),
        "a token has the channels of all heads, C = M * D, and not D": work_with(_of_d_channels),
        "the last argument was taken for C; it is D, the channels of one head": work_with(
            lambda n, s, lq, m, l, p, d: {
                **_of_d_channels(n, s, lq, m, l, p, d),
                "sampling": 8 * n * lq * m * l * p * (d // m),
            }
        ),
        "the attention weights are missing, both from the layers and from the bytes": work_with(
            lambda n, s, lq, m, l, p, d: {
                "weights": 0,
                "numbers": n * (s + lq) * m * d + 2 * n * lq * m * l * p,
            }
        ),
        "these are numbers, not bytes: one in fp32 has 4 bytes": lambda *sizes: [
            *work(*sizes)[:2],
            work(*sizes)[2] // 4,
        ],
        "the values that are read are missing from the bytes": work_with(
            lambda n, s, lq, m, l, p, d: {"numbers": 3 * n * lq * m * l * p + n * lq * m * d}
        ),
        "the result that is written is missing from the bytes": work_with(
            lambda n, s, lq, m, l, p, d: {"numbers": n * s * m * d + 3 * n * lq * m * l * p}
        ),
        "a point has three numbers to be read: x, y and its attention weight": work_with(
            lambda n, s, lq, m, l, p, d: {
                "numbers": n * s * m * d + 2 * n * lq * m * l * p + n * lq * m * d
            }
        ),
        "every corner was read from memory anew; at best, each value is read once": work_with(
            lambda n, s, lq, m, l, p, d: {
                "numbers": (4 * d + 3) * n * lq * m * l * p + n * lq * m * d
            }
        ),
    },
    library=(sampling_flops,),
)


def _profiles() -> Cases:
    cases = {  # seconds, factors
        "two parts, one ten times faster": ([6, 4], [10, 1]),
        "nothing changes": ([3, 1, 2], [1, 1, 1]),
        "one part, all of it": ([5], [4]),
        "a part that is left out": ([1, 5, 2, 2], [1, 1, math.inf, 1]),
        "one part becomes slower": ([4, 2, 3, 1, 10], [2, 0.5, 1, 1, 1.25]),
        "a small part, a thousand times faster": ([1, 2, 3, 4, 5, 85], [1000, 1, 1, 1, 1, 1]),
        "milliseconds": ([0.004, 0.01, 0.002, 0.05, 0.001, 0.02, 0.013], [1, 2, 1, 3, 1, 1.5, 1]),
        "all parts": ([7, 1, 4, 2, 9, 3, 8, 6], [2, 3, 4, 5, 1.5, 2.5, 8, 6]),
    }
    return {
        name: tuple(torch.tensor(numbers, dtype=torch.float64) for numbers in of_case)
        for name, of_case in cases.items()
    }


def _shares(seconds: Tensor) -> Tensor:
    return seconds / seconds.sum()


speed_up = Exercise(
    my_speed_up,
    _profiles,
    {
        "this is the time after over the time before: turn it round": lambda t, f: (
            (t / f).sum() / t.sum()
        ),
        "the factors were averaged; a part counts by its time": lambda t, f: f.mean(),
        "the factors were averaged by time; what adds up are the times after, not the factors": (
            lambda t, f: (f * _shares(t)).sum()
        ),
        "the factors were multiplied; they do not act on the whole one after another": (
            lambda t, f: f.prod()
        ),
        "the times after were added up, but are not compared with the time before": lambda t, f: (
            1 / (t / f).sum()
        ),
        "the times were multiplied by the factors; a part that is faster takes less time": (
            lambda t, f: t.sum() / (t * f).sum()
        ),
        "this is the time saved as a share of the time before": lambda t, f: (
            1 - (t / f).sum() / t.sum()
        ),
        "this is the time saved": lambda t, f: (t - t / f).sum(),
        "only the part that changes most was looked at; the others take their time as before": (
            lambda t, f: f.max()
        ),
        "the parts that do not change were left out; they take their time as before": (
            lambda t, f: t[f != 1].sum() / (t / f)[f != 1].sum() if (f != 1).any() else t.sum()
        ),
        "this is the time after": lambda t, f: (t / f).sum(),
    },
)
