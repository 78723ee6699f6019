"""Keeping freed memory: glibc is told so, with the right numbers; nothing is done elsewhere.

What the system then does with its pages depends on the machine, and is not tested.
"""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ddetr_edu.training import malloc

# glibc's malloc.h: M_MMAP_THRESHOLD is -3, at most 32 MiB; M_TRIM_THRESHOLD is -1.
EXPECTED = [(-3, 32 * 1024**2), (-1, 2**31 - 1)]


@pytest.fixture
def calls(monkeypatch):
    """The calls of mallopt, on a system with glibc whose mallopt does nothing and succeeds."""
    calls = []

    def mallopt(parameter, value):
        calls.append((parameter, value))
        return 1

    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    return calls


def test_with_glibc_freed_memory_is_kept(calls):
    assert malloc.keep_freed_pages() is True
    assert calls == EXPECTED


@pytest.mark.parametrize("refused", [-3, -1])
def test_a_refusal_of_glibc_is_reported(calls, monkeypatch, refused):
    library = SimpleNamespace(mallopt=lambda parameter, value: int(parameter != refused))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: library)
    assert malloc.keep_freed_pages() is False


@pytest.mark.parametrize("library", ["", "musl"])
def test_with_another_c_library_nothing_is_done(calls, monkeypatch, library):
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: (library, ""))
    assert malloc.keep_freed_pages() is False
    assert calls == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_real_glibc_accepts_the_numbers():
    # In a process of its own, so that the memory of later tests is managed as usual.
    program = "from ddetr_edu.training import malloc; assert malloc.keep_freed_pages()"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
