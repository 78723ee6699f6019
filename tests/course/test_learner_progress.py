"""A learner's progress: nothing that was recorded is lost, and nothing goes wrong loudly."""

import subprocess
import sys

import pytest

from ddetr_edu.course import learner_progress
from ddetr_edu.course.learner_progress import (
    Progress,
    Tries,
    progress_file,
    read_progress,
    record,
    record_copy,
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    learner_progress._say_once.cache_clear()


def test_before_the_first_record():
    assert read_progress() == Progress({}, [], 0)
    assert not progress_file().exists()


def test_tries_are_counted_and_the_first_success_is_kept(monkeypatch):
    for date, passed in [("30", False), ("30", False), ("31", True), ("31", False), ("32", True)]:

        class Date:
            @staticmethod
            def isoformat(date=date):
                return f"2026-05-{date}"

        class Today:
            today = Date

        with monkeypatch.context() as patch:
            patch.setattr(learner_progress.datetime, "date", Today)
            record("assign", passed)
    record("aggregate", False)
    assert read_progress().exercises == {
        "assign": Tries(5, "2026-05-31"),
        "aggregate": Tries(1, None),
    }


def test_copies_are_kept_the_latest_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "se cond", "first"):
        record_copy(tmp_path.joinpath(name).relative_to(tmp_path))
    assert read_progress().copies == [tmp_path / "first", tmp_path / "se cond"]


@pytest.mark.parametrize(
    "damage",
    [b"\x00\xff\xfe", b"[" * 10**5, b'{"exercise": "assign", "pas', b'{"exercise": 1}', b"[]"],
    ids=["bytes", "brackets", "cut off", "another type", "a list"],
)
def test_a_damaged_line_costs_only_itself(damage):
    record("assign", True)
    with progress_file().open("ab") as file:
        file.write(b"\n" + damage)  # with no line break at its end, as if it was cut off
    record("assign", False)
    progress = read_progress()
    assert progress.exercises["assign"].times == 2 and progress.unreadable == 1


def test_a_file_that_cannot_be_written_is_said_once_and_never_raises(capsys):
    progress_file().mkdir(parents=True)  # a folder of that name: not even root can write to it
    record("assign", True)
    record("assign", True)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith("your progress cannot be kept: ") and str(progress_file()) in err
    with pytest.raises(OSError, match="^your progress cannot be read: "):
        read_progress()


def test_a_user_without_a_home(monkeypatch, capsys):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(learner_progress.Path, "expanduser", homeless)
    monkeypatch.setattr(sys, "platform", "linux")
    record("assign", True)
    assert capsys.readouterr().err.startswith("your progress cannot be kept")


def test_two_notebooks_at_once_lose_nothing():
    program = (
        "import sys; from ddetr_edu.course.learner_progress import record\n"
        "sys.stdin.read(1)\n"  # both begin at the same time
        "for n in range(500):\n"
        "    record(sys.argv[1], n == 250)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, name], stdin=subprocess.PIPE)
        for name in ("assign", "aggregate")
    ]
    for writer in writers:
        writer.stdin.write(b"x")
        writer.stdin.flush()
    assert [writer.wait() for writer in writers] == [0, 0]
    progress = read_progress()
    assert {name: tries.times for name, tries in progress.exercises.items()} == {
        "assign": 500,
        "aggregate": 500,
    }
    assert all(tries.first_passed for tries in progress.exercises.values())
    assert progress.unreadable == 0
