"""A progress bar in a log file is a few whole lines; in a terminal it is one line, rewritten."""

import io
import subprocess
import sys

import pytest

from ddetr_edu.progress import LOG_INTERVAL, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(monkeypatch, capsys):
    """Gives what was written to stderr, which is a file here and no notebook."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not sys.stderr.isatty()
    return lambda: capsys.readouterr().err


def lines_of(text: str) -> list[str]:
    """The lines of a log: each ends in a newline, and nothing in it moves a cursor."""
    assert text.endswith("\n") and "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert all(line.strip() and len(line) <= 80 for line in lines)
    return lines


def test_a_log_file_gets_the_first_and_the_last_line(log):
    assert sum(progress(range(5000), desc="counting")) == 5000 * 4999 // 2
    first, last = lines_of(log())
    assert first.startswith("counting:   0%") and "0/5000" in first
    assert last.startswith("counting: 100%") and "5000/5000" in last


def test_a_log_file_gets_a_line_each_interval(log, monkeypatch):
    now = [1000.0]
    bar = progress(total=100, desc="steps")
    monkeypatch.setattr(bar, "_time", lambda: now[0])
    bar.start_t = bar.last_print_t = now[0]
    with bar:
        for _ in range(100):
            now[0] += LOG_INTERVAL / 10
            bar.update()
    lines = lines_of(log())
    assert 8 <= len(lines) <= 13  # at 0, after each tenth, and the end
    assert [line for line in lines if "50/100" in line]


def test_bars_inside_one_another_are_whole_lines_too(log):
    for _ in progress(range(2), desc="outer"):
        for _ in progress(range(3), desc="inner", leave=False):
            pass
    lines = lines_of(log())
    names = [line.split(":")[0] for line in lines]
    assert names == ["outer", "inner", "inner", "inner", "inner", "outer"]
    assert sum("3/3" in line for line in lines) == 2  # though that bar was to vanish


def test_a_bar_that_is_disabled_writes_nothing(log):
    assert list(progress(range(3), disable=True)) == [0, 1, 2]
    assert log() == ""


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in progress(range(3), desc="counting", mininterval=0):
        pass
    text = sys.stderr.getvalue()
    assert text.count("\r") >= 2 and text.count("\n") == 1 and text.endswith("\n")


def test_a_program_whose_errors_go_to_a_file(tmp_path):
    program = (
        "from ddetr_edu.progress import progress\n"
        "for _ in progress(range(100), desc='counting', mininterval=0): pass"
    )
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", program], stderr=file, check=True)
    text = (tmp_path / "log").read_bytes()
    assert b"\r" not in text and b"\x1b" not in text
    lines = text.decode().splitlines()
    assert len(lines) > 2 and "100/100" in lines[-1]
    assert all(line.startswith("counting:") for line in lines)
