"""Runs that are killed, by the program that does so twenty times; here a few times only."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from ddetr_edu.training.learner import Learner

PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/resume.py"))


@pytest.fixture
def short(config):
    return replace(
        PROGRAM["CONFIG"], data=config().data, steps=9, eval_every=6, save_every=2, batch=2
    )


@pytest.mark.parametrize("processes, kills", [(1, 2), (2, 1)])
def test_killed_and_resumed_gives_the_same_to_the_last_bit(short, tmp_path, processes, kills):
    found = PROGRAM["measure"](short, processes, kills, tmp_path)
    assert len(found) == kills and all(kill["same"] for kill in found)


def test_the_program_notices_a_run_that_is_not_the_same(short, tmp_path, monkeypatch):
    measure = PROGRAM["finish"]
    out = [replace(short, out=tmp_path / name) for name in ("a", "b")]
    measure(out[0], 1)
    real = Learner.restore
    monkeypatch.setattr(
        Learner, "restore",
        lambda self, model, state: real(self, model, {**state, "optimizer": fresh(self)}),
    )  # fmt: skip
    assert stop_in_the_middle(out[1])
    measure(replace(out[1], resume=True), 1)
    prints = [PROGRAM["fingerprint"](config.out) for config in out]
    assert prints[0] != prints[1]


def fresh(learner):
    return learner.optimizer.state_dict()


def stop_in_the_middle(config):
    """Train until the first checkpoint is there, then kill; tried again if it was too quick."""
    import time

    for _ in range(5):
        (process,) = PROGRAM["start"](config, 1)
        while not (config.out / "checkpoint.pt").exists():
            time.sleep(0.005)
        process.kill()
        process.join()
        if process.exitcode < 0:
            return True
    return False
