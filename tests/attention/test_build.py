"""Compiling on first use: cached, shared between processes, interrupted, impossible."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddetr_edu.attention.kernels import build, cpu
from ddetr_edu.attention.kernels.startup import Startup, load_or_recompile

BUILD = Path(build.__file__)
# A process that only builds: it runs build.py alone, because importing torch takes seconds.
BUILD_ONLY = f"import runpy; print(runpy.run_path({str(BUILD)!r})['library']())"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """`compiler(body)` makes $CXX a program that counts its calls and then runs `body`."""
    if sys.platform == "win32":
        pytest.skip("a shell script stands in for the compiler")

    def make(body):
        program, calls = tmp_path / "cxx", tmp_path / "calls"
        program.write_text(
            "#!/bin/sh\n"
            'if [ "$1" = --version ]; then echo stand-in 1.0; exit; fi\n'
            f"echo called >> {calls}\n"
            "for target; do :; done\n" + body  # the last argument is what to write
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(program))
        return lambda: calls.read_text().count("called") if calls.exists() else 0

    return make


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_compiles_once_and_is_found_again(cache, compiler):
    calls = compiler('echo code > "$target"')
    first = build.library()
    assert first.read_text() == "code\n" and first.is_relative_to(cache)
    assert build.library() == first
    assert calls() == 1
    assert files_in(cache) == [first.name]


def test_another_compiler_flag_source_or_processor_is_another_library(
    cache, compiler, monkeypatch, tmp_path
):
    compiler('echo code > "$target"')
    names = {build.library().name}
    monkeypatch.setattr(build, "processor", lambda: "another processor")
    names.add(build.library().name)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    names.add(build.library().name)
    program = Path(os.environ["CXX"])
    program.write_text(program.read_text().replace("stand-in 1.0", "stand-in 2.0"))
    names.add(build.library().name)
    sources = tmp_path / "csrc"
    sources.mkdir()
    for source in build.source_folder().glob("*.*"):
        (sources / source.name).write_text(source.read_text() + "// changed\n")
    monkeypatch.setattr(build, "source_folder", lambda: sources)
    names.add(build.library().name)
    assert len(names) == 5


def test_several_processes_at_once(cache, compiler):
    """Each gets a complete library, and all get the same one."""
    compiler('echo half > "$target"; sleep 0.5; echo whole > "$target"')
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILD_ONLY], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {process.communicate(timeout=600)[0].strip() for process in processes}
    assert len(paths) == 1
    assert Path(paths.pop()).read_text() == "whole\n"
    assert len(files_in(cache)) == 1


def test_a_build_killed_half_way_leaves_nothing_behind(cache, compiler, tmp_path):
    calls = compiler('echo half > "$target"; sleep 30')
    process = subprocess.Popen([sys.executable, "-c", BUILD_ONLY], start_new_session=True)
    while not calls():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert files_in(cache) == []
    compiler('echo whole > "$target"')
    assert build.library().read_text() == "whole\n"


def test_a_cache_that_cannot_be_made(compiler, monkeypatch, tmp_path):
    """A file is where the cache folder should be: like a read-only home, but also for root."""
    compiler('echo code > "$target"')
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    path = build.library()
    assert path.read_text() == "code\n"
    assert not path.is_relative_to(tmp_path / "occupied")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to read-only folders"
)
def test_a_read_only_cache(cache, compiler):
    compiler('echo code > "$target"')
    cache.mkdir(mode=0o500)
    assert build.library().read_text() == "code\n"


def test_a_full_disk(cache, compiler, monkeypatch):
    compiler('echo code > "$target"')

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.os, "fsync", full)
    path = build.library()
    assert path.read_text() == "code\n" and not path.is_relative_to(cache)
    assert files_in(cache) == []


def test_a_compiler_without_openmp(cache, compiler):
    """The next set of flags is tried, and the result is cached for all of them."""
    calls = compiler(
        'case "$*" in *-fopenmp*) echo "error: no OpenMP" >&2; exit 1;; esac; echo code > "$target"'
    )
    assert build.library().read_text() == "code\n"
    assert calls() == 2
    build.library()
    assert calls() == 2


def test_a_failing_compiler_is_quoted(cache, compiler):
    compiler('echo "kernel.cpp:7: error: a word it does not know" >&2; exit 1')
    with pytest.raises(build.BuildError, match="a word it does not know") as caught:
        build.library()
    assert "-fopenmp" in caught.value.output  # the command, so that one can run it by hand
    assert "kernel.cpp:7: error" in caught.value.output
    assert files_in(cache) == []


def test_no_compiler(cache, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler.*PATH"):
        build.library()
    monkeypatch.setenv("CXX", "icpc -fast")
    with pytest.raises(build.BuildError, match="icpc.*CXX"):
        build.library()


def test_a_damaged_library_is_compiled_again(kernel, cache):
    path = build.library()
    path.write_bytes(b"this is no library")
    loaded = load_or_recompile(lambda: cpu.load(build.library()), cached=build.cached_library)
    assert loaded.description
    assert path.stat().st_size > 1000


def test_a_kernel_starts_once_even_when_several_threads_ask():
    starts = []

    def start():
        time.sleep(0.05)
        starts.append("started")
        return "kernel"

    startup = Startup(start)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: startup.result(), range(4)))
    assert results == ["kernel"] * 4 and starts == ["started"]
    assert startup.unavailable_reason() is None


def test_a_kernel_that_cannot_start_is_not_tried_again():
    attempts = []

    def start():
        attempts.append("attempt")
        raise build.BuildError("no compiler")

    startup = Startup(start)
    for _ in range(2):
        assert str(startup.unavailable_reason()) == "no compiler"
        with pytest.raises(build.BuildError, match="no compiler"):
            startup.result()
    assert attempts == ["attempt"]


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
    )


def test_importing_compiles_nothing_and_leaves_the_slow_packages_alone(cache, tmp_path):
    result = run_python(
        """
        import sys, ddetr_edu
        print([name for name in ("torchvision", "matplotlib", "scipy", "torch._dynamo",
                                "cuda.core")
               if name in sys.modules])
        """,
        XDG_CACHE_HOME=str(cache),
        CXX="/bin/false",
    )
    assert result.stdout == "[]\n", result.stderr
    assert not cache.exists()


def test_without_a_compiler_everything_runs_on_grid_sample_and_says_so_once(cache, tmp_path):
    result = run_python(
        """
        import warnings, torch, ddetr_edu
        from ddetr_edu.attention import ms_deform_attn
        inputs = (torch.rand(1, 6, 2, 8), [(2, 3)], torch.rand(1, 4, 2, 1, 3, 2),
                  torch.rand(1, 4, 2, 1, 3))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outputs = [ms_deform_attn(*inputs) for _ in range(2)]
        (warning,) = [w for w in caught if w.category is RuntimeWarning]
        assert "no C++ compiler" in str(warning.message) and "doctor" in str(warning.message)
        assert torch.equal(outputs[0], ms_deform_attn(*inputs, backend="grid_sample"))
        note = ddetr_edu.backends()["cpu"]
        assert not note.available and "no C++ compiler" in str(note), note
        try:
            ms_deform_attn(*inputs, backend="cpu")
        except RuntimeError as error:
            assert "no C++ compiler" in str(error)
        else:
            raise AssertionError("the kernel ran")
        """,
        XDG_CACHE_HOME=str(cache),
        PATH=str(tmp_path),
        CXX="",
        DDETR_BACKEND="auto",
    )
    assert result.returncode == 0, result.stderr
