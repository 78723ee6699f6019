"""The C++ kernel under AddressSanitizer and UndefinedBehaviorSanitizer, in another process."""

import os
import subprocess
from pathlib import Path

import pytest

from ddetr_edu.attention.kernels import build

pytestmark = [pytest.mark.sanitizer, pytest.mark.usefixtures("kernel")]

DRIVER = Path(__file__).with_name("hostile.cpp")
SANITIZE = (
    "-std=c++17",
    "-O1",
    "-g",
    "-fopenmp",
    "-Wno-psabi",
    "-fno-sanitize-recover=all",
    "-fsanitize=address,undefined,float-cast-overflow",
)


def run_hostile(folder, edit=lambda text: text):
    """Compile csrc/ and the driver with sanitizers, run it, and return the finished process."""
    for source in build.source_folder().glob("*.*"):
        (folder / source.name).write_text(edit(source.read_text()))
    program = folder / "hostile"
    compiled = subprocess.run(
        [*build.find_compiler(), *SANITIZE, f"-I{folder}", str(DRIVER), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    if "cannot find" in compiled.stderr:
        pytest.skip(f"this compiler has no sanitizers: {compiled.stderr.splitlines()[0]}")
    assert compiled.returncode == 0, compiled.stderr
    # The search for leaks uses ptrace, which containers may forbid; the kernel owns only vectors.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([program], capture_output=True, text=True, env=environment, timeout=600)


def test_hostile_locations_stay_within_the_arrays(tmp_path):
    result = run_hostile(tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "420 cases\n"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("first < size - 1", "first < size", "overflow"),  # one pixel too far
        ("pixel < T(size) ? pixel : T(size)", "pixel", "outside the range"),  # infinity to int
    ],
)
def test_the_sanitizers_would_notice(tmp_path, old, new, message):
    def edit(text):
        return text.replace(old, new)

    result = run_hostile(tmp_path, edit)
    assert result.returncode != 0 and message in result.stderr
