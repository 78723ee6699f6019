"""A training beside other programs: how many threads it uses, and what it says."""

import pytest
import torch

from ddetr_edu import processor
from ddetr_edu.processor import ProcessorTimes, ProcessorUse
from ddetr_edu.training import contention
from ddetr_edu.training.contention import ThreadWatch, describe_slowdown
from ddetr_edu.training.loop import train


def test_what_others_cost_is_said_with_the_speed_that_was_expected():
    line = describe_slowdown(ProcessorUse(2, 0.6, 1.4), threads=1, steps_per_second=1.2)
    assert line == (
        "slow     1.2 steps per second, where about 2 could be expected: other programs use 1.4 "
        "of the 2 cores; end them, or this run takes about 1.7 times as long"
    )


def test_threads_without_a_core_of_their_own_wait_for_each_other():
    line = describe_slowdown(ProcessorUse(2, 0.95, 1.0), threads=2, steps_per_second=0.09)
    assert line.startswith("slow     0.09 steps per second: other programs use 1.0 of the 2 cores")
    assert "resume with 1 thread (--threads or OMP_NUM_THREADS)" in line
    assert "expected" not in line  # by what factor is not known


@pytest.mark.parametrize(
    "use, threads",
    [
        (ProcessorUse(2, 1.9, 0.1), 2),  # nobody else
        (ProcessorUse(2, 1.2, 0.2), 2),  # the rest is waiting for itself, not for others
        (ProcessorUse(2, 1.0, 1.0), 1),  # one thread has the core that it can use
        (ProcessorUse(16, 3.9, 8.0), 4),  # enough cores for everybody
    ],
)
def test_nothing_is_said_where_others_cost_nothing(use, threads):
    assert describe_slowdown(use, threads, 1.0) is None


@pytest.fixture
def threads(monkeypatch):
    """torch as it is on two cores; the number that is set last is in the list."""
    numbers = [2]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


@pytest.fixture
def processor_of(monkeypatch):
    """processor_of(others, ...): how many of two cores others use in each period of ten seconds.

    This process uses the rest.
    """

    def use(*others):
        times = [ProcessorTimes(0.0, 2, 0.0, 0.0)]
        for cores in others:
            at, own = times[-1].at + 10, times[-1].own + 10 * (2 - cores)
            times.append(ProcessorTimes(at, 2, own, 2 * at))
        answers = iter(times)
        monkeypatch.setattr(contention, "read_times", lambda: next(answers))
        return range(len(times))

    return use


def lines_of(watch, looks):
    """What the watch says at each look, ten seconds apart."""
    return [watch.check(step, minutes=step * 10 / 60) for step in looks]


def test_it_uses_the_cores_that_others_leave_once_two_looks_agree(threads, processor_of):
    looks = processor_of(0.1, 1.9, 0.2, 1.8, 1.8, 1.8, 0.1, 0.1)
    lines = lines_of(ThreadWatch(max_threads=2), looks)
    assert [line for line in lines if line] == [
        "threads  2 -> 1: other programs use 1.8 of the 2 cores: computing with 1 thread",
        "threads  1 -> 2: other programs leave 2 cores again",
    ]
    assert lines[5] and lines[8] and threads == [2, 1, 2]


def test_it_never_uses_more_threads_than_it_may(threads, processor_of):
    threads.append(1)
    assert not any(lines_of(ThreadWatch(max_threads=1), processor_of(0.1, 0.1, 0.1)))
    assert threads == [2, 1]


def test_a_number_that_the_user_has_chosen_stays_and_its_cost_is_said_once(threads, processor_of):
    lines = lines_of(ThreadWatch(max_threads=2, is_fixed=True), processor_of(0.1, 1.0, 1.0, 1.0))
    assert threads == [2]
    assert [bool(line) for line in lines] == [False, False, True, False, False]
    assert lines[2].startswith("slow     0.1 steps per second: other programs")


def test_it_looks_every_five_seconds(threads, processor_of):
    processor_of(0.1)  # a third question would raise
    watch = ThreadWatch(max_threads=2)
    assert [watch.check(step, minutes=step * 2 / 60) for step in range(5)] == [None] * 5


def test_where_the_system_does_not_tell_it_does_not_ask_again(threads, monkeypatch):
    answers = iter([None])
    monkeypatch.setattr(contention, "read_times", lambda: next(answers))
    watch = ThreadWatch(max_threads=2)
    assert [watch.check(step, minutes=step) for step in range(9)] == [None] * 9


def test_a_training_that_computes_elsewhere_does_not_ask(processor_of):
    processor_of()
    watch = ThreadWatch(max_threads=0)
    assert [watch.check(step, minutes=step) for step in range(9)] == [None] * 9


def test_a_training_begins_with_the_free_cores_and_leaves_torch_as_it_was(
    config, threads, monkeypatch, capsys
):
    monkeypatch.setattr(processor, "read_times", lambda: ProcessorTimes(10.0, 2, 0.0, 16.0))
    monkeypatch.setattr(contention, "read_times", lambda: ProcessorTimes(0.0, 2, 0.0, 0.0))
    train(config(steps=1))
    assert "threads  other programs use 1.6 of the 2 cores: computing with 1" in (
        capsys.readouterr().out
    )
    assert threads == [2, 1, 2]


def test_a_resumed_run_uses_as_many_threads_as_before(config, threads, monkeypatch):
    """Another number would round the sums differently."""
    monkeypatch.setattr(contention, "share_processor", lambda start: threads.append(1))
    train(config(steps=2))
    monkeypatch.setattr(contention, "share_processor", lambda start: None)
    threads[:] = [2]
    train(config(steps=2, resume=True))
    assert threads == [2, 1, 2]
    threads[:] = [2]
    train(config(steps=2, resume=True, threads=2))
    assert threads == [2, 2, 2]


def test_the_number_of_threads_can_be_chosen(config, threads, monkeypatch):
    monkeypatch.setattr(contention, "share_processor", lambda start: pytest.fail("it was chosen"))
    train(config(steps=1, threads=1))
    assert threads == [2, 1, 2]
