"""Runs that are killed and resumed, by the benchmark that does so many times; here only a few."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from ddetr_edu.training import loop
from ddetr_edu.training.trainer import Trainer

PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/resume.py"))


@pytest.fixture
def short(config):
    return replace(
        PROGRAM["CONFIG"], data=config().data, steps=9, eval_every=6, save_every=2, batch_size=2
    )


@pytest.mark.parametrize("processes, kills", [(1, 2), (2, 1)])
def test_killed_and_resumed_gives_the_same_to_the_last_bit(short, tmp_path, processes, kills):
    found = PROGRAM["measure"](short, processes, kills, tmp_path)
    assert len(found) == kills and all(kill["same"] for kill in found)


def test_the_program_notices_a_run_that_is_not_the_same(short, tmp_path, monkeypatch):
    finish = PROGRAM["finish"]
    whole, resumed = (replace(short, out=tmp_path / name) for name in ("whole", "resumed"))
    finish(whole, 1)
    real_step, real_restore = loop.train_step, Trainer.restore

    def stopped(trainer, batches, step, progress):
        if step == 5:
            raise RuntimeError("the power fails")
        return real_step(trainer, batches, step, progress)

    def incomplete(self, model, state):
        real_restore(self, model, {**state, "optimizer": self.optimizer.state_dict()})

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)  # the forked process inherits it
        with pytest.raises(AssertionError, match="exit codes"):
            finish(resumed, 1)
    monkeypatch.setattr(Trainer, "restore", incomplete)
    finish(replace(resumed, resume=True), 1)
    prints = [PROGRAM["fingerprint"](config.out) for config in (whole, resumed)]
    assert prints[0] != prints[1]
