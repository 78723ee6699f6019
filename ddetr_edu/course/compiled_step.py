"""Compile a step of csrc/ladder/, or one that a learner wrote, and run it in a process of its own.

A step that reads or writes where it should not may crash. Its process ends then, and the message
says why; the notebook's does not.
"""

import functools
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddetr_edu.attention.kernels.build import (
    EXTRAS,
    FLAGS,
    BuildError,
    find_compiler,
    move_into_cache,
    processor,
    run,
    short_hash,
    source_folder,
)
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.files import cache_folder

FAST = tuple(flag for flag in FLAGS if flag not in ("-shared", "-fPIC"))
COUNTING = ("-std=c++17", "-O1", "-Wno-psabi", "-DDDETR_COUNT_READS")
TIMEOUT = 60  # seconds for one run

Inputs = tuple[Tensor, SpatialShapes, Tensor, Tensor]  # value, shapes, locations, weights


class StepError(RuntimeError):
    """A step could not be compiled or did not run to its end; the message says why."""


@dataclass(frozen=True)
class StepRun:
    """What a step did."""

    output: Tensor  # (N, Lq, M*D)
    milliseconds: list[float]  # of each timed call
    value_reads: np.ndarray  # (reads,) positions in value, in order, if they were counted
    location_reads: int
    weight_reads: int


def unavailable_reason() -> str | None:
    """What keeps steps from being compiled here; None if nothing does."""
    try:
        find_compiler()
    except BuildError as problem:
        return str(problem)
    return None


def ladder_folder() -> Path:
    """csrc/ladder/, where the steps are.

    Raises:
        BuildError: If csrc/ is missing.
    """
    return source_folder() / "ladder"


def run_step(
    source: str,
    inputs: Inputs,
    counting: bool = False,
    threads: int = 1,
    rounds: int = 0,
    seconds: float = 1.0,
) -> StepRun:
    """Compile a step, unless it is in the cache, and run it.

    Args:
        source: C++ that includes "ladder.h" and defines `attend`.
        inputs: value (N, S, M, D), spatial shapes, locations (N, Lq, M, L, P, 2) and weights
            (N, Lq, M, L, P); they are converted to fp32.
        counting: Count reads, instead of compiling for speed.
        threads: How many it may use.
        rounds: How many calls are timed at most, after one to warm up.
        seconds: After which no further call is begun.

    Returns:
        Its result, times and counts.

    Raises:
        BuildError: If there is no compiler.
        StepError: If the step cannot be compiled, crashes, does not end, or reads or writes outside
            the arrays.
    """
    value, shapes, locations, weights = inputs
    sizes = (*value.shape, locations.shape[1], *locations.shape[3:5])
    header = np.array([*sizes, *(side for shape in shapes for side in shape)], dtype=np.int32)
    arrays = [tensor.detach().to(torch.float32).numpy() for tensor in (value, locations, weights)]
    program = compiled_program(source, counting)
    with tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True) as folder:
        given, written = Path(folder) / "input", Path(folder) / "output"
        given.write_bytes(b"".join(array.tobytes() for array in (header, *arrays)))
        options = (str(threads), str(rounds), str(seconds))
        _execute([str(program), str(given), str(written), *options])
        content = written.read_bytes()
    n_images, n_queries, n_heads, channels = value.shape[0], sizes[4], sizes[2], sizes[3]
    n_numbers = n_images * n_queries * n_heads * channels
    output = np.frombuffer(content, np.float32, n_numbers).copy()
    rest = np.frombuffer(content, np.float64, offset=4 * n_numbers)
    n_times, _, location_reads, weight_reads, outside, wrote_outside = rest[:6].astype(int)
    if outside or wrote_outside:
        what = "wrote" if wrote_outside else "read"
        raise StepError(f"it {what} outside the arrays, just before or after one of them")
    return StepRun(
        torch.from_numpy(output).view(n_images, n_queries, n_heads * channels),
        rest[6 : 6 + n_times].tolist(),
        rest[6 + n_times :].astype(np.int64),
        int(location_reads),
        int(weight_reads),
    )


def _execute(command: list[str]) -> None:
    """Run a compiled step.

    Raises:
        StepError: If it does not run to its end.
    """
    try:
        ended = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise StepError(f"it did not end within {TIMEOUT} seconds") from None
    except OSError as error:
        raise StepError(f"the compiled program cannot be started: {error}") from None
    if ended.returncode == 0:
        return
    if ended.returncode < 0:  # POSIX: ended by a signal
        name = signal.Signals(-ended.returncode).name
        if name in ("SIGSEGV", "SIGBUS", "SIGABRT"):
            raise StepError(f"it read or wrote outside the arrays: its process died ({name})")
        raise StepError(f"its process died ({name})")
    raise StepError(f"its process ended with the code {ended.returncode}")


@functools.lru_cache(maxsize=64)
def compiled_program(source: str, counting: bool) -> Path:
    """The program of a step, from the cache or compiled now.

    Args:
        source: The step's C++.
        counting: Whether it counts reads.

    Returns:
        The program's path.

    Raises:
        BuildError: If there is no compiler.
        StepError: If it refuses the step; with its first words.
    """
    compiler = find_compiler()
    suffix = ".exe" if sys.platform == "win32" else ""
    folder = ladder_folder()
    headers = sorted([*folder.glob("*.h"), *folder.parent.glob("*.h"), folder / "program.cpp"])
    version = _version(tuple(compiler))
    parts = [*compiler, version, *FAST, *COUNTING, repr(EXTRAS), processor(), str(counting), source]
    parts += [path.read_text(encoding="utf-8") for path in headers]
    cached = cache_folder() / f"ladder_{short_hash(parts)}{suffix}"
    if cached.is_file():
        return cached
    build = tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True)
    program = _compile(compiler, source, counting, Path(build.name))
    try:
        move_into_cache(program.read_bytes(), cached)
        cached.chmod(0o700)
    except OSError:  # the cache is read-only, or full: the program lives as long as this process
        _kept.append(build)
        return program
    build.cleanup()
    return cached


_kept: list[tempfile.TemporaryDirectory] = []


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    return run([*compiler, "--version"]).stdout


def _compile(compiler: list[str], source: str, counting: bool, folder: Path) -> Path:
    """Compile a step with the first set of extra flags that works."""
    step, program = folder / "step.cpp", folder / "program"
    step.write_text(source, encoding="utf-8")
    ladder = ladder_folder()
    outputs = []
    for extra in ((),) if counting else EXTRAS:
        flags = COUNTING if counting else (*FAST, *extra)
        files = [str(step), str(ladder / "program.cpp"), "-o", str(program)]
        result = run([*compiler, *flags, f"-I{ladder}", *files])
        if result.returncode == 0:
            return program if program.is_file() else program.with_suffix(".exe")
        outputs.append(result.stdout + result.stderr)
    raise StepError(first_errors(outputs[0]))


def first_errors(output: str, count: int = 2) -> str:
    """The first errors that a compiler or linker reports, for whoever wrote the step.

    Args:
        output: What it printed.
        count: How many.

    Returns:
        One line each, with the line of the step.
    """
    found = [
        f"line {line}: {message}"
        for line, message in re.findall(r"step\.cpp:(\d+):(?:\d+:)? error: (.+)", output)
    ]
    if any("Number" in line for line in found):
        found.append("(Number is the type of what is read; take float for all that you compute)")
    if not found and "attend" in output and re.search("undefined|unresolved", output):
        found = ["there is no function attend(const Sizes&, const Number*, ...) as in ladder.h"]
    if not found:
        found = [line.strip() for line in output.splitlines() if "error" in line]
    return "the compiler refuses it: " + "\n    ".join(found[:count] + found[count:][-1:])
