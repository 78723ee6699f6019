"""Compile, check and time the CUDA kernels in one go, since time on a GPU is short.

    PYTHONPATH=. python benchmarks/gpu.py            # all of it, within --minutes
    PYTHONPATH=. python benchmarks/gpu.py --check    # correctness only

Compares every dtype with the definition in fp64, measures what the memory can do, and then times
the attention, after the error and the memory of each implementation have been measured on the same
input. First our kernel and grid_sample take turns. Then each peer that can be loaded (gpu_peers.py)
takes turns with our kernel in a process of its own, so that a crash loses nothing else; every row
says how many times as long as ours it took there. Compiled grid_sample comes last, since compiling
takes long. Where compute-sanitizer is installed, it runs at the end. Prints a table and writes
results/gpu.json after each step: nothing is lost when time runs out.

Needs torch and cuda-core, and of this repository only csrc/, benchmarks/ and, of ddetr_edu,
__init__.py, files.py and attention/.
"""

import argparse
import functools
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import gpu_processes
import torch
from gpu_accuracy import TOLERANCE, check
from gpu_ceilings import ceilings
from gpu_peers import NAMES, Peer, load, missing
from gpu_timing import DEVICE, DTYPES, HEADINGS, Case, measure, row

from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.kernels import cuda

OUT = Path(__file__).parent / "results" / "gpu.json"
# The most important first: time may run out.
CASES: list[Case] = [
    (shape, spread, dtype)
    for shape in ("encoder", "decoder")
    for spread in ("gaussian", "initial", "uniform")
    for dtype in ("fp32", "bf16", "fp16")
]
COMPILED_CASES: list[Case] = [("encoder", "gaussian", dtype) for dtype in ("fp32", "bf16")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check correctness only")
    parser.add_argument("--minutes", type=float, default=8, help="start no case after this time")
    parser.add_argument("--rounds", type=int, default=15, help="how often each case is timed")
    parser.add_argument("--images", type=int, default=2, help="the batch size N")
    parser.add_argument("--without", nargs="*", default=[], help="peers that are not timed")
    parser.add_argument("--no-sanitizer", action="store_true", help="do not run compute-sanitizer")
    parser.add_argument("--no-compile", action="store_true", help="do not time torch.compile")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--peer", help="in a process of its own: time this peer and ours")
    parser.add_argument("--first", type=int, default=0, help="with --peer, the first case")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    problem = cuda.unavailable_reason()
    if problem is not None:
        print(f"nothing to measure: {problem}", file=sys.stderr)
        return 1
    if options.peer:
        return time_peer(options, end)

    results = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    results["errors"] = {
        name: check(ours().call, dtype, DEVICE)
        for name, dtype in {**DTYPES, "fp64": torch.float64}.items()
    }
    for name, errors in results["errors"].items():
        numbers = ", ".join(f"{tensor} {error:.1e}" for tensor, error in errors.items())
        print(f"{name}: largest relative errors {numbers}")
    correct = all(
        error <= TOLERANCE[name] for name, e in results["errors"].items() for error in e.values()
    )
    print("correct in every dtype" if correct else "WRONG: an error above is too large")
    if options.check:
        return 0 if correct else 1
    results["correct"] = correct

    results["ceilings"] = attempt("ceilings", lambda: ceilings(DEVICE)) or {}
    print(", ".join(f"{name} {number:.4g}" for name, number in results["ceilings"].items()))
    results["cases"], results["failed"] = [], []
    write(results, options.out)
    time_everything(results, options, end)
    if not options.no_sanitizer:
        results["sanitizers"] = {
            tool: attempt(tool, functools.partial(gpu_processes.sanitize, tool))
            for tool in ("memcheck", "racecheck")
        }
        print(f"compute-sanitizer: {results['sanitizers']}")
    write(results, options.out)
    return 0 if correct else 1


def ours() -> Peer:
    return Peer(functools.partial(ms_deform_attn, backend="cuda"))


def grid_sample() -> Peer:
    return Peer(functools.partial(ms_deform_attn, backend="grid_sample"))


def compiled_grid_sample() -> Peer:
    """The grid_sample backend under torch.compile; it compiles at its first call."""
    # One for each shape and dtype, with and without gradients.
    torch._dynamo.config.cache_size_limit = 64
    # Its backward pass is timed again and again after one forward pass: it must keep its buffers.
    torch._functorch.config.donated_buffer = False
    return Peer(torch.compile(grid_sample().call, dynamic=False))


def attempt(what: str, work: Callable):
    """The result of optional work; if it fails, None, and a line that says why."""
    try:
        return work()
    except Exception as error:
        print(f"{what} failed: {type(error).__name__}: {str(error).splitlines()[:1]}")
        return None


def write(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def machine() -> dict:
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": date.today().isoformat(),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernel": cuda.description(),
    }


# ---- Speed ----


def time_everything(results: dict, options: argparse.Namespace, end: float) -> None:
    """Time our kernel beside grid_sample, beside each peer, and beside compiled grid_sample.

    Args:
        results: "cases" and "failed" are extended, and all of it is written after each case.
        options: The arguments of the command line.
        end: When no further case may start.
    """

    def take(rows: list[dict]) -> None:
        results["cases"] += rows
        for measured in rows:
            print(row(measured), flush=True)
        write(results, options.out)

    print(HEADINGS)
    time_here(CASES, {"cuda": ours(), "grid_sample": grid_sample()}, results, options, end, take)
    torch.cuda.empty_cache()  # the peers' processes need the memory
    waiting = [name for name in NAMES if name not in options.without]
    for name in [*waiting]:
        if (reason := missing(name)) is not None:
            print(f"{name} is not timed: {reason}")
            waiting.remove(name)
    arguments = ["--rounds", str(options.rounds), "--images", str(options.images)]
    arguments += ["--out", str(options.out)]  # has the ceilings
    while waiting:
        share = (end - time.monotonic()) / len(waiting)
        name = waiting.pop(0)
        results["failed"] += gpu_processes.measure_peer(name, CASES, arguments, share, take)
        write(results, options.out)
    if not options.no_compile:
        both = {"cuda": ours(), "compiled": compiled_grid_sample()}

        def take_compiled(rows: list[dict]) -> None:
            take([row for row in rows if row["implementation"] == "compiled"])

        time_here(COMPILED_CASES, both, results, options, end, take_compiled)


def time_here(
    cases: list[Case],
    implementations: dict[str, Peer],
    results: dict,
    options: argparse.Namespace,
    end: float,
    take: Callable[[list[dict]], None],
) -> None:
    """Time implementations in this process, until `end`; `take` is given the rows of each case."""
    for case in cases:
        what = f"{', '.join(case)}: {', '.join(implementations)}"
        if time.monotonic() > end:
            print(f"out of time before {what}")
            break
        sizes = (options.images, options.rounds, results["ceilings"])
        rows = attempt(what, functools.partial(measure, case, implementations, *sizes))
        take(rows or [])


def time_peer(options: argparse.Namespace, end: float) -> int:
    """In a process of its own: time a peer beside our kernel, and print its rows for `run_peer`."""
    found = json.loads(options.out.read_text())["ceilings"]
    try:
        both = {"cuda": ours(), options.peer: load(options.peer)}
        for case in CASES[options.first :]:
            if time.monotonic() > end:
                print(f"out of time before {options.peer}, {', '.join(case)}")
                break
            rows = []
            if DTYPES[case[2]] in both[options.peer].dtypes:
                rows = measure(case, both, options.images, options.rounds, found)
            gpu_processes.report([row for row in rows if row["implementation"] == options.peer])
    except Exception as error:
        gpu_processes.end_with(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
