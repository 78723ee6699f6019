"""A file is written completely or not at all, whatever ends the writing."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from ddetr_edu import files
from ddetr_edu.files import atomic_write, cache_folder, data_folder, find_shipped


@pytest.fixture
def existing(tmp_path):
    """A file with content, alone in its folder."""
    file = tmp_path / "folder" / "c.bin"
    atomic_write(file, b"old")
    return file


def assert_untouched(file: Path) -> None:
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]  # and no temporary file is left


def test_it_writes_bytes_or_calls_a_function_and_creates_the_folder(tmp_path):
    file = tmp_path / "a" / "b" / "c.bin"
    atomic_write(file, b"one")
    assert file.read_bytes() == b"one"
    atomic_write(file, lambda out: out.write(b"two"))
    assert file.read_bytes() == b"two" and list(file.parent.iterdir()) == [file]


def test_the_temporary_file_is_in_the_folder_given(existing, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def write(out):
        assert [Path(out.name)] == list(temporary.iterdir())
        assert_untouched(existing)
        out.write(b"new")

    atomic_write(existing, write, temporary)
    assert existing.read_bytes() == b"new" and not list(temporary.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError("a sentence")])
def test_an_exception_half_way_is_passed_on_and_leaves_the_old_file(error, existing):
    def write(out):
        out.write(b"ne")
        out.flush()
        raise error

    with pytest.raises(type(error)) as raised:
        atomic_write(existing, write)
    assert raised.value is error
    assert_untouched(existing)


FULL = OSError(28, "No space left on device", "/some/temporary/file")


def test_a_full_disk_is_named_in_one_sentence(existing, monkeypatch):
    def full(descriptor):
        raise FULL

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as raised:
        atomic_write(existing, b"new")
    assert str(raised.value) == (
        f"{existing} could not be written: No space left on device; "
        "an earlier file of that name is untouched"
    )
    assert_untouched(existing)


@pytest.mark.parametrize(
    "error, reason",
    [(FULL, "No space left on device"), (RuntimeError("unexpected pos"), "disk seems to be full")],
)
def test_a_disk_that_is_full_while_a_function_writes(error, reason, existing):
    def write(out):
        out.write(b"ne")
        raise error

    with pytest.raises(OSError, match=f"could not be written: .*{reason}") as raised:
        atomic_write(existing, write)
    assert raised.value.__cause__ is error
    assert_untouched(existing)


def test_a_killed_process_leaves_the_old_file(existing):
    """SIGKILL leaves no time to clean up, but the file itself is the old one."""
    program = (
        "import os, signal, sys; from pathlib import Path; from ddetr_edu.files import *\n"
        "def write(out):\n"
        "    out.write(b'ne'); out.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_write(Path(sys.argv[1]), write)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(existing)])
    assert done.returncode == -signal.SIGKILL
    assert existing.read_bytes() == b"old"
    atomic_write(existing, b"new")
    assert existing.read_bytes() == b"new"


def test_two_threads_write_the_same_file_at_once(existing):
    """Each has written half when the other begins; either content is complete."""
    contents = [bytes([n]) * 100_000 for n in range(2)]
    both_half_way = threading.Barrier(2, timeout=60)
    errors = []

    def write(content):
        def halves(out):
            out.write(content[:50_000])
            out.flush()
            both_half_way.wait()
            out.write(content[50_000:])

        try:
            atomic_write(existing, halves)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert existing.read_bytes() in contents and list(existing.parent.iterdir()) == [existing]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(existing):
    existing.parent.chmod(0o500)
    with pytest.raises(OSError, match="could not be written: Permission denied"):
        atomic_write(existing, b"new")
    existing.parent.chmod(0o700)
    assert_untouched(existing)


@pytest.mark.parametrize(
    "platform, variables, cache, data",
    [
        ("linux", {"XDG_CACHE_HOME": "/x", "XDG_DATA_HOME": "/y"}, "/x", "/y"),
        ("darwin", {"XDG_CACHE_HOME": "/x", "XDG_DATA_HOME": "/y"}, "/x", "/y"),
        ("win32", {"XDG_CACHE_HOME": "/x", "XDG_DATA_HOME": "/y"}, "/x", "/y"),
        ("linux", {}, "/home/me/.cache", "/home/me/.local/share"),
        ("darwin", {}, "/home/me/Library/Caches", "/home/me/Library/Application Support"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local", "/local"),
    ],
)
def test_the_folders_are_where_the_system_has_them(platform, variables, cache, data, monkeypatch):
    monkeypatch.setattr(files.sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(cache, "ddetr_edu")
    assert data_folder() == Path(data, "ddetr_edu")


def test_tests_do_not_touch_the_users_data():
    """conftest.py at the root sees to it, for the lessons' kernels, too: they inherit this."""
    assert Path(os.environ["XDG_DATA_HOME"]).name.startswith("ddetr-tests-")
    assert data_folder().is_relative_to(tempfile.gettempdir())


def test_what_comes_with_the_library_is_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "ddetr_edu"
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    assert find_shipped("lessons") is None
    (tmp_path / "lessons").mkdir()
    assert find_shipped("lessons") == tmp_path / "lessons"
    (package / "lessons").mkdir(parents=True)
    assert find_shipped("lessons") == package / "lessons"
