"""A wheel is built, installed without the repository, and used: it has all that it needs."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = "Scripts" if os.name == "nt" else "bin"


@pytest.fixture(scope="module")
def ddetr(tmp_path_factory):
    """ddetr("doctor") -> what the installed command prints; in a folder of its own."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    variables = ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    environment = {name: text for name, text in os.environ.items() if name not in variables}

    def run(*command: object, **more: str) -> str:
        process = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment | more,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    run(uv, "build", "--wheel", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    run(uv, "venv", "--python", sys.executable, "env")
    run(uv, "pip", "install", "--python", "env", "--no-deps", wheel)
    # Its dependencies are those of this environment. A folder that a .pth file names is only added
    # to the path: the .pth file in it that leads to this repository is not read.
    (site,) = (folder / "env").rglob("site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    # An empty cache, so that the kernel has to be compiled.
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "LOCALAPPDATA": str(folder / "cache")}
    return lambda *words, program="ddetr": run(folder / "env" / BIN / program, *words, **cache)


def test_the_doctor_finds_the_kernel_and_what_it_is_compiled_from(ddetr):
    report = ddetr("doctor")
    assert str(ROOT) not in report
    if shutil.which("g++") or shutil.which("clang++"):
        assert "compiled here" in report


def test_it_trains_and_evaluates(ddetr):
    small = ("--image-size.short-side", "64", "--image-size.long-side", "96")
    ddetr("data", "shapes", "--out", "scenes", "--train", "4", "--val", "2")
    ddetr("train", "--data", "scenes", "--steps", "2", "--batch-size", "2", "--out", "run", *small)
    table = ddetr("eval", "--data", "scenes", "--checkpoint", "run/checkpoint.pt")
    assert "Average Precision" in table


def test_the_lessons_and_the_shipped_model_are_in_it(ddetr):
    lessons = len(list((ROOT / "lessons").glob("*.ipynb"))) + 1  # and the glossary
    assert f"copied {lessons} files" in ddetr("course", "copy", "my-course")
    code = "from ddetr_edu.checkpoints.shipped import shipped_checkpoint as s; print(s())"
    assert "site-packages" in ddetr("-c", code, program="python")


def test_the_ladder_of_lesson_14_is_in_it(ddetr):
    code = (
        "from ddetr_edu.course.ladder import *; print(step_source('6_threads'), shipped_ladder())"
    )
    printed = ddetr("-c", code, program="python")
    assert "#pragma omp parallel for" in printed and "These figures come along" in printed
