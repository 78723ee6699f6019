"""The CUDA kernel under AddressSanitizer and UndefinedBehaviorSanitizer, on the CPU."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from host_cuda import FLAGS

from ddetr_edu.attention.kernels import build

pytestmark = [pytest.mark.sanitizer, pytest.mark.usefixtures("compiler")]

DRIVER = Path(__file__).with_name("hostile_cuda.cpp")
SANITIZE = ("-O1", "-g", "-fno-sanitize-recover=all")
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
BEYOND = "out of bounds|insufficient space|buffer-overflow"  # an array's end


def run_hostile(folder, edit=lambda text: text, flags=()):
    """Compile csrc/ and the driver with sanitizers, run it, and return the finished process."""
    for source in build.source_folder().glob("*.*"):
        (folder / source.name).write_text(edit(source.read_text()))
    program = folder / "hostile"
    compiled = subprocess.run(
        [
            *build.find_compiler(),
            *FLAGS,
            *SANITIZE,
            SANITIZERS,
            *flags,
            f"-I{folder}",
            str(DRIVER),
            "-o",
            str(program),
        ],
        capture_output=True,
        text=True,
    )
    if "cannot find" in compiled.stderr:
        pytest.skip(f"this compiler has no sanitizers: {compiled.stderr.splitlines()[0]}")
    assert compiled.returncode == 0, compiled.stderr
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([program], capture_output=True, text=True, env=environment, timeout=600)


def test_hostile_locations_stay_within_the_arrays(tmp_path):
    result = run_hostile(tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "76 cases\n"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("first < size - 1", "first < size", "overflow"),  # one pixel too far
        ("pixel < T(size) ? pixel : T(size)", "pixel", "outside the range"),  # infinity to int
        ("lane * VECTOR;", "lane * VECTOR + 1;", "misaligned"),  # 16 bytes from an odd address
        ("SLOTS = 2 <<", "SLOTS = 1 <<", BEYOND),  # no counters for odd levels
        # No room for what fills up the list of a block whose points are all inside.
        ("NUM_CORNERS + TERMS", "NUM_CORNERS", BEYOND),
        # No room for the points of the last group.
        ("Offsets all_offsets[GROUPS]", "Offsets all_offsets[GROUPS - 1]", BEYOND),
    ],
)
def test_the_sanitizers_would_notice(tmp_path, old, new, message):
    assert any(old in source.read_text() for source in build.source_folder().glob("*.*"))
    result = run_hostile(tmp_path, lambda text: text.replace(old, new), ["-DFLOAT_ONLY"])
    assert result.returncode != 0 and re.search(message, result.stderr)
