"""Compile csrc/ for the CPU on first use, keep the result, and explain a failure.

Nothing is compiled at import. The library is kept in the user's cache under a name that contains a
hash of everything it depends on: the sources, the compiler and its version, the flags and the
processor (-march=native makes code for this machine only). So a changed source has a new name, and
an old library is never mistaken for a new one.
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

from ddetr_edu.files import atomic_write, cache_folder, find_shipped

COMPILERS = ("g++", "clang++")
SOURCE = "ms_deform_attn_cpu.cpp"
# -O2 -ftree-vectorize gives the same speed here as -O3, in two thirds of the time to compile.
# -fno-math-errno and -fno-trapping-math drop error codes and signals, which are not used; NaN and
# infinity keep their meaning, which -ffast-math would not guarantee.
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
# Tried in this order: a compiler may lack OpenMP, or not know its own processor.
EXTRAS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


class BuildError(RuntimeError):
    """A kernel could not be compiled or loaded.

    Args:
        reason: One sentence, which is the message.
        output: What the compiler printed, if it ran; kept as an attribute.
    """

    def __init__(self, reason: str, output: str = ""):
        super().__init__(reason)
        self.output = output


def library() -> Path:
    """The compiled library: from the cache, or compiled now (a few seconds, once per machine).

    Several processes may ask at once: each compiles in its own folder and moves the finished file
    into the cache in one step, so that no process ever loads half a library. If the cache cannot be
    written to, the library stays in a temporary folder and lives as long as this process.

    Returns:
        The path of a shared library.

    Raises:
        BuildError: If there is no compiler or it fails; with the compiler's output.
    """
    compiler = find_compiler()
    cached = cached_library(compiler)
    if cached.is_file():
        return cached
    folder = tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True)
    fresh = compile_library(compiler, Path(folder.name))
    try:
        move_into_cache(fresh.read_bytes(), cached)
    except OSError:  # read-only, full, or owned by someone else
        _kept.append(folder)
        return fresh
    folder.cleanup()
    return cached


_kept: list[tempfile.TemporaryDirectory] = []  # the folders of libraries that are still in use


def cached_library(compiler: list[str] | None = None) -> Path:
    """The library's file in the cache, whether or not it exists.

    Args:
        compiler: The compiler's command; that of `find_compiler` if None.

    Returns:
        A path in the cache folder.

    Raises:
        BuildError: If there is no compiler, or it does not even tell its version.
    """
    return cache_folder() / f"ms_deform_attn_{fingerprint(compiler or find_compiler())}{suffix()}"


def find_compiler() -> list[str]:
    """The C++ compiler as the beginning of a command: $CXX if set, else g++ or clang++ on PATH.

    Returns:
        The path of the program, and the arguments that $CXX adds to it.

    Raises:
        BuildError: If there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in COMPILERS]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    missing = f"{named[0]}, which $CXX names," if named else " or ".join(COMPILERS)
    raise BuildError(f"no C++ compiler: {missing} is not on PATH")


def compile_library(compiler: list[str], folder: Path) -> Path:
    """Compile csrc/ into a folder, with the first set of extra flags that works.

    Args:
        compiler: The compiler's command.
        folder: Where the library is written.

    Returns:
        The path of the library.

    Raises:
        BuildError: If no set of flags works; with the output of the first attempt.
    """
    target = folder / f"ms_deform_attn{suffix()}"
    outputs = []
    for extra in EXTRAS:
        command = [*compiler, *FLAGS, *extra, str(source_folder() / SOURCE), "-o", str(target)]
        result = run(command)
        if result.returncode == 0 and target.is_file():
            return target
        outputs.append(f"{shlex.join(command)}\n{result.stdout}{result.stderr}".strip())
    reason = next((line for line in outputs[0].splitlines() if "error" in line), "no reason given")
    raise BuildError(f"{compiler[0]} failed: {reason.strip()}", outputs[0])


def move_into_cache(content: bytes, cached: Path) -> None:
    """Write a compiled file into the cache so that it appears there whole or not at all.

    Args:
        content: The bytes of the file.
        cached: Its path.

    Raises:
        OSError: If the cache cannot be written to.
    """
    cached.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        atomic_write(cached, content)
    except OSError:
        if not cached.is_file():  # otherwise another process was faster, which is as good
            raise


def fingerprint(compiler: list[str]) -> str:
    """A short hash of everything that the machine code depends on.

    Args:
        compiler: The compiler's command.

    Returns:
        16 hexadecimal digits.

    Raises:
        BuildError: If the compiler does not tell its version.
    """
    version = run([*compiler, "--version"])
    if version.returncode != 0:
        raise BuildError(f"{compiler[0]} --version failed", version.stdout + version.stderr)
    parts = [*compiler, version.stdout, *FLAGS, repr(EXTRAS), processor()]
    sources = sorted(source_folder().glob("*.h")) + [source_folder() / SOURCE]
    parts += [path.read_text() for path in sources]
    return short_hash(parts)


def short_hash(parts: list[str]) -> str:
    """A short hash of some texts, for the name of a file in the cache.

    Args:
        parts: The texts, in order.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """The processor's model and instruction sets, which -march=native depends on."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        keys = ("model name", "flags", "CPU part", "Features")
        return "\n".join(line for line in lines if line.startswith(keys))
    if sys.platform == "darwin":
        return run(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout + platform.machine()
    return platform.processor() + platform.machine()


def source_folder() -> Path:
    """csrc/: inside an installed package, or beside the package in a checkout.

    Raises:
        BuildError: If it is in neither.
    """
    path = find_shipped(f"csrc/{SOURCE}")
    if path is None:
        package = Path(__file__).parents[2]
        raise BuildError(f"the sources of the kernel are missing: no csrc/{SOURCE} near {package}")
    return path.parent


def suffix() -> str:
    """The suffix of shared libraries on this system."""
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program and capture what it prints.

    Args:
        command: The program and its arguments.

    Returns:
        The finished process: its return code, stdout and stderr.

    Raises:
        BuildError: If the program cannot be started.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error}") from None
