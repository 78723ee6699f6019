"""Compile csrc/ on first use, keep the result, and explain a failure.

Nothing is compiled at import. The library lands in the user's cache under a name that holds
everything it depends on: the sources, the compiler and its version, the flags and the processor
(-march=native makes code for this machine only). A changed source is therefore a new name, and an
old library is never taken for a new one.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILERS = ("g++", "clang++")
SOURCE = "ms_deform_attn_cpu.cpp"
# -O2 -ftree-vectorize makes the same speed here as -O3, in two thirds of the time to compile.
# -fno-math-errno and -fno-trapping-math give up error codes and signals, which nobody reads; NaN
# and infinity keep their meaning, as they would not under -ffast-math.
FLAGS = (
    "-std=c++17",
    "-O2",
    "-ftree-vectorize",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-shared",
    "-fPIC",
)
# Tried in this order: a compiler may come without OpenMP, or not know its own processor.
EXTRAS = (
    ("-march=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)


class BuildError(RuntimeError):
    """The kernel could not be compiled. `output` holds the compiler's own words, if it spoke."""

    def __init__(self, reason: str, output: str = ""):
        super().__init__(reason)
        self.output = output


def library() -> Path:
    """The compiled library: from the cache, or compiled now (a few seconds, once per machine).

    Several processes may ask at once: each compiles in a folder of its own and moves the finished
    file into the cache in one step, so that nobody ever loads half a library. If the cache cannot
    be written to, the library stays in a temporary folder and lives as long as this process.

    Raises: BuildError, with the compiler's output, if there is no compiler or it fails.
    """
    compiler = find_compiler()
    cached = cache_folder() / f"ms_deform_attn_{fingerprint(compiler)}{suffix()}"
    if cached.is_file():
        return cached
    workshop = tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True)
    fresh = compile_library(compiler, Path(workshop.name))
    try:
        move_into_place(fresh.read_bytes(), cached)
    except OSError:  # read-only, full, or not ours
        _kept.append(workshop)
        return fresh
    workshop.cleanup()
    return cached


_kept: list[tempfile.TemporaryDirectory] = []  # workshops that are still in use


def find_compiler() -> list[str]:
    """The C++ compiler as the beginning of a command: $CXX if set, else g++ or clang++ on PATH.

    Raises: BuildError if there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in COMPILERS]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    looked_for = f"{named[0]}, which $CXX names," if named else " or ".join(COMPILERS)
    raise BuildError(f"no C++ compiler: {looked_for} is not on PATH")


def compile_library(compiler: list[str], folder: Path) -> Path:
    """Compile csrc/ into `folder`. Raises: BuildError with the output of the first attempt."""
    target = folder / f"ms_deform_attn{suffix()}"
    outputs = []
    for extra in EXTRAS:
        command = [*compiler, *FLAGS, *extra, str(source_folder() / SOURCE), "-o", str(target)]
        result = run(command)
        if result.returncode == 0 and target.is_file():
            return target
        outputs.append(f"{shlex.join(command)}\n{result.stdout}{result.stderr}".strip())
    first_words = next((line for line in outputs[0].splitlines() if "error" in line), "no reason")
    raise BuildError(f"{compiler[0]} failed: {first_words.strip()}", outputs[0])


def move_into_place(content: bytes, cached: Path) -> None:
    """Write a file to its place in the cache so that it appears there whole or not at all.

    Raises: OSError if the cache cannot be written to.
    """
    cached.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, partial = tempfile.mkstemp(dir=cached.parent, prefix="partial-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, cached)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        if not cached.is_file():  # else another process was faster, and that is as good
            raise


def fingerprint(compiler: list[str]) -> str:
    """A short name for all that the machine code depends on."""
    version = run([*compiler, "--version"])
    if version.returncode != 0:
        raise BuildError(f"{compiler[0]} --version failed", version.stdout + version.stderr)
    parts = [*compiler, version.stdout, *FLAGS, repr(EXTRAS), processor()]
    sources = sorted(source_folder().glob("*.h")) + [source_folder() / SOURCE]
    parts += [path.read_text() for path in sources]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """The processor's model and abilities, which -march=native depends on."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        wanted = ("model name", "flags", "CPU part", "Features")
        return "\n".join(line for line in lines if line.startswith(wanted))
    if sys.platform == "darwin":
        return run(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout + platform.machine()
    return platform.processor() + platform.machine()


def source_folder() -> Path:
    """csrc/: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / SOURCE).is_file():
            return folder
    raise BuildError(f"the sources of the kernel are missing: no csrc/{SOURCE} near {package}")


def cache_folder() -> Path:
    """Where programs keep what they can make again, on this system."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches").expanduser()
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir()))
    else:
        base = Path("~/.cache").expanduser()
    return base / "ddetr_edu"


def suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def run(command: list[str]) -> subprocess.CompletedProcess:
    """Run a program and keep what it says. Raises: BuildError if it cannot be started."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error}") from None
