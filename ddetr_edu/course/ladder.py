"""The ladder of lesson 14: the same attention in ever faster ways, each checked before it is timed.

Where there is no compiler, the figures that benchmarks/ladder.py measured are read instead.
"""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddetr_edu.attention import encoder_reference_points, ms_deform_attn
from ddetr_edu.attention.locations import sampling_locations
from ddetr_edu.attention.naive import ms_deform_attn_naive
from ddetr_edu.course.compiled_step import (
    Inputs,
    StepError,
    ladder_folder,
    run_step,
    unavailable_reason,
)
from ddetr_edu.course.weighted_rows import ms_deform_attn_rows
from ddetr_edu.files import shipped_path

LEVELS = [(50, 75), (25, 38), (13, 19), (7, 10)]  # an image of 400 x 600, finest level first
HEADS, CHANNELS, POINTS = 8, 32, 4  # M, D, P
FIGURES = "benchmarks/results/ladder.json"
COMPARED = 12  # queries of the definition, with which every step is compared
ALLOWED = 1e-4  # error of fp32, relative to the largest number
ROUNDS = 5
SECONDS = 0.6  # after which a step is not called again


class Rung(NamedTuple):
    """One line of the ladder's table."""

    name: str
    threads: int
    milliseconds: float
    gain: float  # the time of the line before, divided by this one's
    total_gain: float  # the same with the first line's
    error: float  # relative to the largest number of the definition's result


class Measured(NamedTuple):
    """A ladder, and where its figures come from."""

    rungs: list[Rung]
    source: str  # a sentence


STEPS = {  # file of csrc/ladder/ -> what the table calls it
    "1_definition": "1 C++: the definition",
    "2_channels_inside": "2 channels inside",
    "3_geometry_once": "3 geometry once",
    "4_rows": "4 rows in registers",
    "5_points_together": "5 points together",
}
THREADED = {"6_threads": "6 threads"}


def step_source(name: str) -> str:
    """The C++ of a step.

    Args:
        name: Such as "1_definition".

    Returns:
        The text of the file.
    """
    return (ladder_folder() / f"{name}.cpp").read_text(encoding="utf-8")


def own_source(answer: Callable[[], str]) -> str | None:
    """The C++ of a learner.

    Args:
        answer: The learner's function.

    Returns:
        What it returns, or None if it is still the stub.
    """
    try:
        return answer()
    except NotImplementedError:
        return None


def measure_floors(inputs: Inputs | None = None) -> dict[str, float]:
    """How long parts of the work take at least on one thread of this machine, in milliseconds.

    Args:
        inputs: Others than `encoder_inputs`.

    Returns:
        "arrays once": to copy as many bytes as all arrays have, as fast as memory allows;
        "operations": to do as many multiplications and additions, as fast as a product of matrices
        does them; "rows": to load as many rows, from neighbouring tokens (only with a compiler).
    """
    value, _, locations, weights = inputs = inputs or encoder_inputs()
    n_numbers = value.numel() + locations.numel() + weights.numel()
    n_numbers += locations.shape[1] * value.shape[0] * value.shape[2] * value.shape[3]
    n_operations = 8 * weights.numel() * value.shape[3]
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        large, matrix = torch.ones(2**25), torch.ones(768, 768)  # 128 MB, more than caches hold
        target, product = torch.empty_like(large), torch.empty_like(matrix)
        copy = min(repeated(lambda: target.copy_(large))[1])  # it reads and writes
        multiply = min(repeated(lambda: torch.mm(matrix, matrix, out=product))[1])
    finally:
        torch.set_num_threads(threads_before)
    floors = {
        "arrays once": copy * n_numbers / (2 * large.numel()),
        "operations": multiply * n_operations / (2 * 768**3),
    }
    if unavailable_reason() is None:
        ran = run_step(step_source("limit_rows"), inputs, rounds=ROUNDS, seconds=SECONDS)
        floors["rows"] = min(ran.milliseconds)
    return floors


def measure_ladder(own: str | None = None, inputs: Inputs | None = None) -> Measured:
    """Check every step against the definition, time it, and compare it with the step before.

    The definition would take minutes, so it computes a few queries only, and its time is scaled up.

    Args:
        own: C++ of a learner, which comes after step 3; None to do without.
        inputs: Others than `encoder_inputs`.

    Returns:
        The ladder; the figures that come along if there is no compiler.

    Raises:
        StepError: If a step of the ladder is wrong. The learner's is only left out then.
    """
    if problem := unavailable_reason():
        shipped = shipped_ladder()
        return shipped._replace(source=f"{problem}, so nothing was measured. {shipped.source}")
    threads_before = torch.get_num_threads()
    most = min(2, threads_before)
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return Measured(*_measure(own, inputs or encoder_inputs(), most))
    finally:
        torch.set_num_threads(threads_before)


def encoder_inputs(n_images: int = 1) -> Inputs:
    """What one layer of the encoder gives to the attention for images of 400 x 600, fp32.

    Each token is a query. Its locations are a cloud of two pixels around it, as in a trained model.

    Args:
        n_images: N.

    Returns:
        value, spatial shapes, locations and weights, the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    n_tokens = sum(height * width for height, width in LEVELS)
    points = (n_images, n_tokens, HEADS, len(LEVELS), POINTS)
    value = torch.randn(n_images, n_tokens, HEADS, CHANNELS, generator=generator)
    weights = torch.randn(points, generator=generator).flatten(-2).softmax(-1).view(points)
    offsets = 2 * torch.randn(*points, 2, generator=generator)
    reference = encoder_reference_points(LEVELS, torch.ones(n_images, len(LEVELS), 2))
    return value, LEVELS, sampling_locations(reference, offsets, LEVELS), weights


def _measure(own: str | None, inputs: Inputs, most: int) -> tuple[list[Rung], str]:
    value, shapes, locations, weights = inputs
    n_queries = locations.shape[1]
    chosen = torch.linspace(0, n_queries - 1, min(COMPARED, n_queries)).long()
    few = (value, shapes, locations[:, chosen], weights[:, chosen])
    expected, seconds = timed(lambda: ms_deform_attn_naive(*few))
    rungs: list[Rung] = []
    note = ""

    def add(name: str, output: Tensor, milliseconds: list[float], threads: int = 1) -> None:
        largest = expected.abs().max().item()
        error = (output[:, chosen] - expected).abs().max().item() / largest
        if not error <= ALLOWED:  # NaN is not, either
            raise StepError(f"{name} is wrong: its largest relative error is {error:.2g}")
        best = min(milliseconds)  # other programs can only make a call slower
        before, first = (rungs[-1], rungs[0]) if rungs else (None, None)
        gain = before.milliseconds / best if before else 1.0
        total = first.milliseconds / best if first else 1.0
        rungs.append(Rung(name, threads, best, gain, total, error))

    scaled = 1000 * seconds * n_queries / len(chosen)
    rungs.append(Rung("Python loops", 1, scaled, 1.0, 1.0, 0.0))
    add("grid_sample", *repeated(lambda: ms_deform_attn(*inputs, backend="grid_sample")))
    add("embedding_bag", *repeated(lambda: ms_deform_attn_rows(*inputs)))
    for file, name in STEPS.items():
        ran = run_step(step_source(file), inputs, rounds=ROUNDS, seconds=SECONDS)
        add(name, ran.output, ran.milliseconds)
        if own is not None and file == "3_geometry_once":
            try:
                ran = run_step(own, inputs, rounds=ROUNDS, seconds=SECONDS)
                add("yours", ran.output, ran.milliseconds)
            except StepError as error:
                note = f" Your step is not in the table: {error}"
    for file, name in THREADED.items():
        ran = run_step(step_source(file), inputs, False, most, ROUNDS, SECONDS)
        add(name, ran.output, ran.milliseconds, most)
    torch.set_num_threads(most)
    library, times = repeated(lambda: ms_deform_attn(*inputs, backend="cpu"))
    add("the library's kernel", library, times, most)
    return rungs, "Measured on this machine, just now." + note


def repeated(function: Callable[[], Tensor]) -> tuple[Tensor, list[float]]:
    """Call a function as `run_step` does: once to warm up, then as often as time allows.

    Args:
        function: Takes no arguments.

    Returns:
        Its result, and milliseconds; those of the first call if that took too long for another.
    """
    result, seconds = timed(function)
    times, total = [seconds], seconds
    while len(times) <= ROUNDS and total <= SECONDS:
        result, seconds = timed(function)
        times.append(seconds)
        total += seconds
    return result, [1000 * seconds for seconds in (times[1:] or times)]


def timed(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Call a function once.

    Args:
        function: Takes no arguments.

    Returns:
        Its result, and the seconds that it took.
    """
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def shipped_ladder() -> Measured:
    """The ladder that benchmarks/ladder.py measured.

    Raises:
        FileNotFoundError: If its figures are missing.
    """
    path = shipped_path(FIGURES)
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    machine = figures["machine"]
    source = f"These figures come along; measured on {machine['processor']}, {machine['date']}."
    return Measured([Rung(**rung) for rung in figures["rungs"]], source)


def ladder_table(measured: Measured) -> str:
    """A ladder as a table to be printed.

    Args:
        measured: From `measure_ladder` or `shipped_ladder`.

    Returns:
        Several lines.
    """
    head = f"{'step':22} threads {'ms':>10}  faster than before  than the loops"
    lines = [
        f"{r.name:22} {r.threads:7} {r.milliseconds:10,.0f} {r.gain:19.1f} {r.total_gain:15,.0f}"
        for r in measured.rungs
    ]
    return "\n".join([head, *lines, measured.source])
