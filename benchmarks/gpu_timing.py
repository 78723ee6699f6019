"""The times, errors and memory of implementations of the attention, for benchmarks/gpu.py."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from gpu_accuracy import LARGEST_ERROR, Reference
from gpu_ceilings import lower_bounds_ms, median_ms
from gpu_peers import Peer
from torch import Tensor

from ddetr_edu.attention import benchmark as bench

DEVICE = "cuda"
REPEATS = 10  # calls in one CUDA graph, so that launching it does not count
SLOW_MS, SLOW_REPEATS, SLOW_ROUNDS = 5, 2, 5  # for calls that take long
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Case = tuple[str, str, str]


def measure(
    case: Case, implementations: dict[str, Peer], n_images: int, rounds: int, ceilings: dict
) -> list[dict]:
    """Measure the errors of every implementation on one input, then time each direction in turns.

    Args:
        case: "encoder" or "decoder", how locations are distributed ("gaussian", "initial" or
            "uniform"), and the dtype of value, a key of DTYPES.
        implementations: What to time. "cuda" is ours; those that do not take the dtype are left
            out.
        n_images: The batch size N.
        rounds: How often each is timed.
        ceilings: From `gpu_ceilings.ceilings`.

    Returns:
        An entry of the results' JSON for each implementation and direction.
    """
    shape, spread, dtype = case
    value, levels, *points = bench.make_inputs(n_images, bench.QUERIES[shape], spread)
    inputs = [value.to(DEVICE, DTYPES[dtype]), *(tensor.to(DEVICE) for tensor in points)]
    reference = Reference(levels)
    facts, works = {}, {}
    for name, peer in implementations.items():
        if inputs[0].dtype in peer.dtypes:
            leaves = peer.prepare(*inputs)
            facts[name] = facts_of(peer, leaves, reference)
            made = works_of(peer, leaves, levels)
            works |= {(name, direction): work for direction, work in made.items()}
    times = {key: [] for key in works}
    for turn in range(rounds + 1):  # the first round warms up
        for key, work in works.items():
            if work.repeats < REPEATS and turn > SLOW_ROUNDS:
                continue
            milliseconds = median_ms(work.run, 1, warm_up=0) / work.repeats
            if turn > 0:
                times[key].append(milliseconds)
    medians = {key: statistics.median(of) for key, of in times.items()}
    bounds = lower_bounds_ms(inputs[0], inputs[1], ceilings)
    return [
        {
            "shape": shape,
            "locations": spread,
            "dtype": dtype,
            "implementation": name,
            "direction": direction,
            "median_us": round(median * 1000, 2),
            "min_us": round(min(times[name, direction]) * 1000, 2),
            "max_us": round(max(times[name, direction]) * 1000, 2),
            "rounds": len(times[name, direction]),
            "times_ours": round(median / medians["cuda", direction], 3),
            "percent_of_ceiling": {
                ceiling: round(100 * bound / median) for ceiling, bound in bounds[direction].items()
            },
            **facts[name],
        }
        for (name, direction), median in medians.items()
    ]


def facts_of(peer: Peer, leaves: list[Tensor], reference: Reference) -> dict:
    """What is measured besides time.

    Args:
        peer: The implementation.
        leaves: What it takes: value, locations and weights.
        reference: Of this input.

    Returns:
        Its largest errors, whether each is below LARGEST_ERROR, and the most memory that a forward
        and a backward pass need beyond the inputs and the gradient of the output.
    """
    errors = reference.errors(peer.call, leaves)
    (dtype,) = (name for name, dtype in DTYPES.items() if dtype == leaves[0].dtype)
    return {
        "errors": errors,
        "accurate": all(error <= LARGEST_ERROR[dtype] for error in errors.values()),
        "peak_MB": peak_megabytes(
            lambda: peer.call(leaves[0], reference.levels, *leaves[1:]), leaves
        ),
    }


def peak_megabytes(forward: Callable, leaves: list[Tensor]) -> float:
    """The most memory that a forward and a backward pass need beyond what is there before."""
    grad_output = torch.ones_like(forward())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(forward(), leaves, grad_output)
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)


class Work(NamedTuple):
    """Something to time: run() does it `repeats` times.

    A CUDA graph holds addresses, and no tensors: `once`, which it was recorded from, keeps the
    tensors at these addresses alive. Without it, the graph would read what was put there later.
    """

    run: Callable
    repeats: int
    once: Callable


def works_of(peer: Peer, leaves: list[Tensor], levels) -> dict[str, Work]:
    """Direction -> what to time.

    Args:
        peer: The implementation.
        leaves: What it takes: value, locations and weights.
        levels: (H, W) of each level.

    Returns:
        "forward" (without gradients), "backward" and "both".
    """

    def forward():
        with torch.no_grad():
            return peer.call(leaves[0], levels, leaves[1], leaves[2])

    def both():
        output = peer.call(leaves[0], levels, leaves[1], leaves[2])
        return torch.autograd.grad(output, leaves, torch.ones_like(output))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the backward pass runs on the stream of its forward pass
        output = peer.call(leaves[0], levels, leaves[1], leaves[2])
        grad_output = torch.ones_like(output)
    torch.cuda.synchronize()

    def backward():
        return torch.autograd.grad(output, leaves, grad_output, retain_graph=True)

    return {
        name: recorded(work, stream)
        for name, work in (("forward", forward), ("backward", backward), ("both", both))
    }


def recorded(work: Callable, stream: torch.cuda.Stream) -> Work:
    """The work, repeated: in a CUDA graph, or in a loop if it cannot be recorded."""
    with torch.cuda.stream(stream):
        repeats = REPEATS if median_ms(work, 1) < SLOW_MS else SLOW_REPEATS
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(repeats):
                work()
    except RuntimeError as error:
        torch.cuda.synchronize()
        print(f"no CUDA graph, timed call by call: {str(error).splitlines()[0]}")
        return Work(lambda: [work() for _ in range(repeats)], repeats, work)
    return Work(graph.replay, repeats, work)


HEADINGS = (
    f"{'shape':8} {'locations':9} {'dtype':5} {'implementation':24} {'direction':9} "
    f"{'median us':>10} {'min':>9} {'max':>9} {'x ours':>7} {'error':>8} {'MB':>7}  % of ceiling"
)


def row(case: dict) -> str:
    """A line below HEADINGS.

    Args:
        case: From `measure`.

    Returns:
        The line; an exclamation mark says that an error is too large.
    """
    ceiling = ", ".join(f"{n.split('_')[0]} {p}" for n, p in case["percent_of_ceiling"].items())
    return (
        f"{case['shape']:8} {case['locations']:9} {case['dtype']:5} {case['implementation']:24} "
        f"{case['direction']:9} {case['median_us']:10.1f} {case['min_us']:9.1f} "
        f"{case['max_us']:9.1f} {case['times_ours']:7.2f} {max(case['errors'].values()):7.1e}"
        f"{' ' if case['accurate'] else '!'} {case['peak_MB']:7.1f}  {ceiling}"
    )
