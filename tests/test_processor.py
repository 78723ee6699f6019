"""How much of the processor other programs use, and how many threads that leaves."""

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddetr_edu import processor
from ddetr_edu.cli import doctor, main
from ddetr_edu.processor import (
    ProcessorTimes,
    ProcessorUse,
    read_times,
    share_processor,
    use_between,
    use_free_cores,
)


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """proc(stat, **processes): a /proc of our own on a machine of three cores; two are for us."""
    monkeypatch.setattr(processor, "PROC", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(processor.time, "process_time", lambda: 3.0)
    workers = [SimpleNamespace(pid=7)]
    monkeypatch.setattr(multiprocessing, "active_children", lambda: workers)
    worker = "7 (a (strange) name) S 1 7 7 0 -1 4194304 5 0 0 0 150 50 0 0 20 0 1 0 99"
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(worker)
    return tmp_path


def test_times_are_those_of_our_cores_and_our_workers(proc):
    # user nice system idle iowait irq softirq steal guest guest_nice
    (proc / "stat").write_text(
        "cpu  999 9 9 999 9 9 9 9 9 9\n"
        "cpu0 100 20 30 900 80 1 2 3 50 10\n"
        "cpu1 777 7 7 777 7 7 7 7 7 7\n"
        "cpu2 200 0 0 900 0 0 0 0 0 0\n"
        "intr 12 34\n"
    )
    times = read_times()
    assert times.cores == 2
    assert times.own == pytest.approx(3.0 + 1.5 + 0.5)
    assert times.all == pytest.approx((100 + 20 + 30 + 1 + 2 + 3 + 200) / 100)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux")
def test_this_machine_tells():
    before, after = read_times(), read_times()
    assert 1 <= before.cores <= os.cpu_count()
    assert 0 < before.own <= after.own and 0 < before.all <= after.all


@pytest.mark.parametrize("missing", ["stat", "affinity", "odd"])
def test_a_system_that_does_not_tell_is_no_error(proc, monkeypatch, missing):
    if missing != "stat":
        (proc / "stat").write_text("cpu0 x 2 3 4 4 5 6\n" if missing == "odd" else "cpu0 1 2 3 4\n")
    if missing == "affinity":
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert read_times() is None


def test_the_use_is_an_average_over_the_time_between():
    use = use_between(ProcessorTimes(100.0, 2, 7.0, 50.0), ProcessorTimes(110.0, 2, 16.0, 69.0))
    assert use == ProcessorUse(2, pytest.approx(0.9), pytest.approx(1.0))
    assert use.is_contended
    # The two clocks are read one after the other: nobody uses less than nothing.
    use = use_between(ProcessorTimes(100.0, 2, 7.0, 50.0), ProcessorTimes(110.0, 2, 27.5, 70.0))
    assert use.others == 0 and not use.is_contended


@pytest.mark.parametrize(
    "cores, others, free",
    [(2, 0.4, 2), (2, 0.6, 1), (2, 1.9, 1), (2, 2.0, 1), (1, 1.0, 1), (8, 1.9, 8), (8, 2.2, 6)],
)
def test_a_thread_for_each_core_that_others_leave(cores, others, free):
    assert ProcessorUse(cores, 0.0, others).free_cores == free


@pytest.fixture
def two_threads(monkeypatch):
    """torch as it is on two cores; the number that is set last is in the list."""
    numbers = [2]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


def busy(monkeypatch, others):
    """From now on others use this many of two cores; the times at the start."""
    monkeypatch.setattr(processor, "read_times", lambda: ProcessorTimes(10.0, 2, 0.0, 10 * others))
    return ProcessorTimes(0.0, 2, 0.0, 0.0)


def test_torch_gets_the_cores_that_others_leave(monkeypatch, two_threads):
    sentence = share_processor(busy(monkeypatch, 1.9))
    assert two_threads == [2, 1]
    assert sentence == "other programs use 1.9 of the 2 cores: computing with 1 thread"


def test_nothing_changes_alone_or_where_the_user_has_chosen(monkeypatch, two_threads):
    assert share_processor(busy(monkeypatch, 0.3)) is None
    assert share_processor(None) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert share_processor(busy(monkeypatch, 1.9)) is None
    assert two_threads == [2]


def test_a_notebook_uses_the_free_cores_without_a_word(monkeypatch, two_threads, capsys):
    times = iter([busy(monkeypatch, 1.9), ProcessorTimes(10.0, 2, 0.0, 19.0)])
    monkeypatch.setattr(processor, "read_times", lambda: next(times))
    use_free_cores()
    assert two_threads == [2, 1] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command, shares", [("predict", True), ("doctor", False)])
def test_commands_share_the_processor_and_say_so(monkeypatch, capsys, command, shares):
    monkeypatch.delitem(main.sys.modules, "torch")
    monkeypatch.setattr(main, "parse", lambda prog, arguments: lambda: None)
    monkeypatch.setattr(main, "share_processor", lambda start: "others compute")
    assert main.main([command]) == 0
    assert ("ddetr predict: others compute\n" in capsys.readouterr().err) == shares


# The doctor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("others, says", [(0.1, False), (0.6, True), (1.9, True)])
def test_the_doctor_says_when_others_have_the_processor(monkeypatch, others, says):
    start = ProcessorTimes(0.0, 2, 0.0, 0.0)
    monkeypatch.setattr(
        processor, "read_times", lambda: ProcessorTimes(10.0, 2, 1.0, 1.0 + 10 * others)
    )
    line = doctor.neighbours(start)
    assert (line is not None) == says
    if says:
        assert line.startswith(f"other programs use {others:.1f} of the 2 cores now")


@pytest.mark.parametrize("load, says", [(1.4, False), (3.2, True)])
def test_elsewhere_the_doctor_asks_for_the_load_average(monkeypatch, load, says):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    line = doctor.neighbours(None)
    assert (line is not None) == says
    assert not says or "(load average 3.2)" in line


def test_where_nothing_is_told_the_doctor_says_nothing(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert doctor.neighbours(None) is None


def test_the_report_has_the_sentence_below_the_processor(monkeypatch):
    monkeypatch.setattr(doctor, "neighbours", lambda start: "others compute")
    lines = list(doctor.examine())
    index = next(i for i, line in enumerate(lines) if line.startswith("processor"))
    assert lines[index + 1] == "             others compute"
