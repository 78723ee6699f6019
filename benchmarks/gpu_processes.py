"""What benchmarks/gpu.py runs in processes of their own, since they may crash or hang.

These are the peers, and NVIDIA's compute-sanitizer.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_timing import Case

SCRIPT = Path(__file__).with_name("gpu.py")
MARK = "measured: "  # begins a line that holds the rows of one case, in JSON
GRACE = 30  # seconds that the last case of a peer may take after its time has run out
SANITIZER_SECONDS = 60


def measure_peer(
    name: str,
    cases: Sequence[Case],
    arguments: list[str],
    seconds: float,
    take: Callable[[list[dict]], None],
) -> list[dict]:
    """Time a peer in a process of its own. After a crash, a second one tries the cases that follow.

    Args:
        name: The peer.
        cases: All cases, in order.
        arguments: Of the command line, for benchmarks/gpu.py.
        seconds: Start no case after this time.
        take: Is given the rows of each case when they have been measured; none for a case with a
            dtype that the peer does not take.

    Returns:
        An entry of the results' JSON for each crash.
    """
    end = time.monotonic() + seconds
    failed, first = [], 0
    for _ in range(2):
        done = 0

        def taken(rows: list[dict]) -> None:
            nonlocal done
            done += 1
            take(rows)

        left = end - time.monotonic()
        if left <= 0:
            print(f"out of time before {name}, {', '.join(cases[first])}")
            break
        own = ["--peer", name, "--first", str(first), "--minutes", str(left / 60)]
        reason = run_peer([*peer_command(), *own, *arguments], left + GRACE, taken)
        if reason is None:
            break
        first += done
        case = dict(zip(("shape", "locations", "dtype"), cases[first], strict=True))
        failed.append({"implementation": name, **case, "last_line": reason})
        print(f"{name}, {', '.join(cases[first])} failed: {reason}")
        first += 1
        if first == len(cases):
            break
    return failed


def peer_command() -> list[str]:
    return [sys.executable, str(SCRIPT)]


def run_peer(command: list[str], seconds: float, take: Callable[[list[dict]], None]) -> str | None:
    """Run a program that prints what `report` prints.

    Args:
        command: The program and its arguments.
        seconds: After this time it is killed.
        take: Is given the rows of each case as soon as they are printed.

    Returns:
        Why it failed, in one line: the last line of its output, if there is one. None if it did
        not fail.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    last = ""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.startswith(MARK):
                take(json.loads(line.removeprefix(MARK)))
            elif line.strip():
                last = line.strip()
                print(f"  {last}", flush=True)
    status = process.wait()
    timer.cancel()
    if status == 0:
        return None
    reason = f"killed after {seconds:.0f} s" if late.is_set() else f"exit status {status}"
    return f"{reason}: {last}" if last else reason


def report(rows: list[dict]) -> None:
    """Print the rows of one case for `run_peer` to read."""
    print(MARK + json.dumps(rows), flush=True)


def end_with(error: Exception) -> None:
    """End this process with an error in one line. After an error of the GPU nothing else works."""
    lines = str(error).splitlines()
    print(f"{type(error).__name__}: {lines[0] if lines else ''}", flush=True)
    sys.stderr.flush()
    os._exit(1)


def sanitize(tool: str) -> str | list[str]:
    """Run `gpu.py --check` under compute-sanitizer.

    Args:
        tool: "memcheck" or "racecheck".

    Returns:
        "clean", or why it did not run, or the lines that name an error.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        return "no compute-sanitizer on PATH"
    # When a kernel is loaded, the driver tries functions that it may not have; those are no errors.
    options = ["--report-api-errors", "no"] if tool == "memcheck" else []
    process = subprocess.Popen(
        [program, "--tool", tool, *options, "--error-exitcode", "9"]
        + [sys.executable, str(SCRIPT), "--check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        # Every tensor gets its own allocation, so that accesses out of bounds are noticed.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    try:
        output, _ = process.communicate(timeout=SANITIZER_SECONDS)
        unfinished = []
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        unfinished = [f"not finished in {SANITIZER_SECONDS} s"]
    if process.returncode == 0:
        return "clean"
    found = errors_named(output) + unfinished
    return found or output.splitlines()[-1:] or f"exit status {process.returncode}"


def errors_named(output: str) -> list[str]:
    """The lines of compute-sanitizer's output that name an error or count them, without its frames.

    Args:
        output: All of it.

    Returns:
        At most 20 lines.
    """
    lines = re.findall(r"^========= (\S.*)$", output, re.MULTILINE)
    return [line for line in lines if line != "COMPUTE-SANITIZER"][:20]
