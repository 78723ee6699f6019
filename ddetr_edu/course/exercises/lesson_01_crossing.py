"""The last exercises of lesson 01: where two measured curves cross, and why."""

import math

import torch
from torch import Tensor

from ddetr_edu.analysis.attention_cost import crossing as library_crossing
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.exercise import Cases, Exercise


def my_crossing(tokens, dense, deformable):
    """tokens (n,), times dense (R, n), times deformable (R, n) -> a number of tokens"""
    tokens, order = tokens.sort()
    dense, deformable = dense.min(dim=0).values[order], deformable.min(dim=0).values[order]
    lead = (deformable / dense).log()  # greater than 0 where dense attention is faster
    crossed = 0.0
    for k in range(len(tokens)):
        if lead[k] > 0:
            if k + 1 == len(tokens):
                crossed = math.inf
            else:
                share = lead[k] / (lead[k] - lead[k + 1])  # of the way to the next size
                crossed = tokens[k] * (tokens[k + 1] / tokens[k]) ** share
    return crossed


def _measured_times() -> Cases:
    tensors = {  # tokens, dense, deformable; dense attention is faster where its time is smaller
        "two sizes, one round": ([100, 400], [[1, 16]], [[4, 4]]),
        "three sizes": ([50, 200, 800], [[1, 6, 70], [1, 5, 72]], [[3, 11, 45], [4, 10, 48]]),
        "sizes in another order": (
            [2000, 30, 500, 120],
            [[130, 1, 20, 4], [128, 2, 21, 4], [140, 1, 20, 5]],
            [[60, 3, 17, 5], [64, 4, 16, 6], [64, 4, 16, 5]],
        ),
        "rounds in which another program was busy": (
            [64, 128, 256, 512, 1024],
            [[1, 3, 9, 90, 120], [1, 3, 8, 85, 120], [30, 80, 8, 30, 130], [1, 3, 9, 200, 125]],
            [[5, 10, 20, 40, 80], [5, 10, 20, 40, 80], [5, 100, 200, 41, 80], [6, 11, 21, 40, 80]],
        ),
        "equally fast at one size": (
            [20, 40, 80, 160, 320, 640],
            [[1, 2, 4, 12, 40, 160]],
            [[2, 3, 6, 12, 24, 48]],
        ),
        "the curves cross three times": (
            [40, 80, 160, 320, 640, 1280, 2560],
            [[1, 2, 9, 10, 33, 128, 500], [2, 3, 9, 11, 32, 130, 510]],
            [[2, 4, 7, 14, 28, 56, 112], [3, 4, 8, 15, 28, 60, 115]],
        ),
        "dense attention is faster at every size": (
            [5, 10, 15, 20, 25, 30, 35, 40],
            [[1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 3, 4, 5, 6, 7, 9], [1, 2, 4, 4, 5, 6, 8, 8]],
            [
                [3, 5, 7, 9, 11, 13, 15, 17],
                [3, 6, 7, 9, 11, 13, 15, 17],
                [4, 5, 7, 9, 11, 13, 15, 17],
            ],
        ),
        "deformable attention is faster at every size": (
            [900, 800, 700, 600, 500, 400, 300, 200, 100],
            [[90, 80, 70, 60, 50, 40, 30, 20, 10], [91, 80, 70, 60, 50, 41, 30, 20, 11]],
            [[9, 8, 7, 6, 5, 4, 3, 2, 1], [9, 8, 7, 6, 6, 5, 4, 3, 2]],
        ),
        "equally fast at the largest size": (
            [13, 27, 54, 99, 180, 333, 700, 1400, 3000, 6000],
            [[1, 2, 3, 5, 9, 17, 40, 90, 180, 400]],
            [[2, 4, 6, 9, 16, 30, 60, 120, 220, 400]],
        ),
        "dense attention is faster at no size, and equally fast at two": (
            [70, 20, 300, 45],
            [[9, 4, 60, 7]],
            [[8, 4, 30, 7]],
        ),
        "one size": ([77], [[2]] * 5, [[3]] * 5),
    }
    return {
        name: tuple(torch.tensor(numbers, dtype=torch.float64) for numbers in of_case)
        for name, of_case in tensors.items()
    }


def crossing_by(
    tokens: Tensor,
    dense: Tensor,
    deformable: Tensor,
    best=lambda times: times.amin(0),
    ordered: bool = True,
    log_tokens: bool = True,
    log_times: bool = True,
    crosses=lambda now, then: now > 0,
    first: bool = False,
    between: bool = True,
) -> float:
    """The crossing, with switches for what goes wrong.

    Args:
        tokens: (n,).
        dense: (R, n).
        deformable: (R, n).
        best: What becomes of the rounds.
        ordered: Sort by size first.
        log_tokens: Interpolate the logarithms of the sizes.
        log_times: And those of the times.
        crosses: Of the logarithms of (deformable / dense) at a size and at the next: whether they
            cross between these, or at the next.
        first: Take the first crossing instead of the last.
        between: Interpolate; otherwise take the first size at which deformable attention is faster.

    Returns:
        A number of tokens.
    """
    order = tokens.argsort() if ordered else torch.arange(len(tokens))
    tokens, dense, deformable = tokens[order], best(dense)[order], best(deformable)[order]
    lead = (deformable / dense).log() if log_times else deformable - dense
    if lead[-1] > 0:
        return math.inf
    ahead = [k for k in range(len(tokens) - 1) if crosses(lead[k], lead[k + 1])]
    if first:
        ahead = [k for k in ahead if lead[k + 1] <= 0][:1]
    if not ahead:
        return 0.0
    last = ahead[-1]
    share = lead[last] / (lead[last] - lead[last + 1]) if between else torch.ones(())
    if log_tokens:
        return (tokens[last] * (tokens[last + 1] / tokens[last]) ** share).item()
    return (tokens[last] + (tokens[last + 1] - tokens[last]) * share).item()


crossing = Exercise(
    my_crossing,
    _measured_times,
    {
        "the sizes were interpolated as they are; on the axes of the figure, their logarithms": (
            lambda t, a, b: crossing_by(t, a, b, log_tokens=False)
        ),
        "the times were interpolated as they are; on the axes of the figure, their logarithms": (
            lambda t, a, b: crossing_by(t, a, b, log_times=False)
        ),
        "sizes and times were interpolated as they are; take their logarithms": (
            lambda t, a, b: crossing_by(t, a, b, log_tokens=False, log_times=False)
        ),
        "the rounds were averaged; a busy program only ever makes a time longer": (
            lambda t, a, b: crossing_by(t, a, b, best=lambda times: times.mean(0))
        ),
        "the median of the rounds was taken; the shortest time was asked for": (
            lambda t, a, b: crossing_by(t, a, b, best=lambda times: times.quantile(0.5, dim=0))
        ),
        "only the first round was used": (
            lambda t, a, b: crossing_by(t, a, b, best=lambda times: times[0])
        ),
        "the longest time of the rounds was taken": (
            lambda t, a, b: crossing_by(t, a, b, best=lambda times: times.amax(0))
        ),
        "the sizes were taken as they come; sort them, and the times with them": (
            lambda t, a, b: crossing_by(t, a, b, ordered=False)
        ),
        "this is the first crossing; after the last one deformable attention stays faster": (
            lambda t, a, b: crossing_by(t, a, b, first=True)
        ),
        "a size at which both are equally fast was taken for a crossing, although dense attention "
        "is faster at no size": lambda t, a, b: crossing_by(
            t, a, b, crosses=lambda now, then: now >= 0
        ),
        "the curves only crossed where deformable attention is faster at the next size; they also "
        "do if both are equally fast there": lambda t, a, b: crossing_by(
            t, a, b, crosses=lambda now, then: now >= 0 > then
        ),
        "the crossings at a size at which both are equally fast were passed over": (
            lambda t, a, b: crossing_by(t, a, b, crosses=lambda now, then: now > 0 > then)
        ),
        "this is the first measured size at which deformable attention is faster; the curves cross "
        "before it": lambda t, a, b: crossing_by(t, a, b, between=False),
        "the two kinds of attention are swapped": lambda t, a, b: crossing_by(t, b, a),
    },
    library=(library_crossing,),
)

cost_causes = Choice(
    "cost_causes",
    solution={
        "the time of dense attention grows towards slope 2": "pairs",
        "the memory of fused dense attention has the slope 1": "tiles",
        "grid_sample keeps four times as much as the kernel": "samples",
        "with equally many multiplications, sampling takes longer": "reads",
    },
    words={
        "pairs": "every token is compared with every token",
        "tiles": "the weights are computed tile by tile, used, and thrown away",
        "samples": "every vector that was sampled is kept for the backward pass",
        "reads": "numbers read at computed addresses are slower to multiply than rows of a matrix",
        "layers": "both kinds have four linear layers",
    },
    against={
        ("the time of dense attention grows towards slope 2", "tiles"): (
            "tiles change what is stored; the dashed curve, without tiles, is as steep"
        ),
        ("the time of dense attention grows towards slope 2", "samples"): (
            "dense attention samples nothing"
        ),
        ("the time of dense attention grows towards slope 2", "reads"): (
            "this would make the curve higher, but not steeper: look at grid_sample's"
        ),
        ("the time of dense attention grows towards slope 2", "layers"): (
            "a linear layer takes each token by itself, which gives the slope 1"
        ),
        ("the memory of fused dense attention has the slope 1", "pairs"): (
            "they are all computed, and yet four times the tokens keep four times the memory"
        ),
        ("the memory of fused dense attention has the slope 1", "samples"): (
            "dense attention samples nothing"
        ),
        ("the memory of fused dense attention has the slope 1", "reads"): (
            "how a number is read does not change how much is kept"
        ),
        ("the memory of fused dense attention has the slope 1", "layers"): (
            "the dashed curve has the same layers, and it is steeper"
        ),
        ("grid_sample keeps four times as much as the kernel", "pairs"): (
            "both read the same 128 points for each token"
        ),
        ("grid_sample keeps four times as much as the kernel", "tiles"): (
            "that is what dense attention does in its fused form"
        ),
        ("grid_sample keeps four times as much as the kernel", "reads"): (
            "both read at computed addresses; the question is what stays in memory afterwards"
        ),
        ("grid_sample keeps four times as much as the kernel", "layers"): (
            "both have the same four layers"
        ),
        ("with equally many multiplications, sampling takes longer", "pairs"): (
            "this is the work of dense attention, and dense attention is the faster one there"
        ),
        ("with equally many multiplications, sampling takes longer", "tiles"): (
            "on so small a map, dense attention without tiles is about as fast as with them"
        ),
        ("with equally many multiplications, sampling takes longer", "samples"): (
            "nothing is kept in a forward pass without gradients, and that is what was timed"
        ),
        ("with equally many multiplications, sampling takes longer", "layers"): (
            "the two operations were timed without any layers around them"
        ),
    },
)
