"""Two processes: one answer, written once, equal to that of one process."""

import json
import signal

import pytest
import torch

from ddetr_edu.data import CATEGORIES, CocoDetection, Shapes
from ddetr_edu.training import NonFiniteLoss, distributed, evaluate, load, loop, train
from ddetr_edu.training.evaluate import METRICS, detect
from ddetr_edu.training.learner import Learner

CPU = torch.device("cpu")


def test_alone_everything_comes_back_as_it_was():
    with distributed.processes(CPU):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.total([3.0], CPU) == [3.0] == distributed.largest([3.0], CPU)
        assert distributed.gathered([1, 2]) == [1, 2]
        distributed.take_buffers_of_first(torch.nn.BatchNorm2d(3))


def test_two_agree(in_processes):
    def work():
        with distributed.processes(CPU):
            me = distributed.rank()
            norm = torch.nn.BatchNorm1d(2)
            norm.running_mean += me + 1
            distributed.take_buffers_of_first(norm)
            return [
                me, distributed.world_size(), distributed.total([me + 1, 5], CPU),
                distributed.largest([me, -me], CPU), distributed.gathered([me] * (me + 1)),
                norm.running_mean.tolist(),
            ]  # fmt: skip

    first, second = in_processes(work)
    assert (first[:2], second[:2]) == ([0, 2], [1, 2])
    assert first[2:] == second[2:] == [[3, 10], [1, 0], [0, 1, 1], [1, 1]]


def test_together_they_find_what_one_finds_and_no_picture_twice(build, in_processes):
    detector, scenes = build(categories=CATEGORIES), Shapes(5, seed=3)

    def work():
        with distributed.processes(CPU):
            found = detect(detector, scenes, batch=2, progress=False)
            return found, evaluate(detector, scenes, 2, progress=False)

    alone = detect(detector, scenes, batch=2, progress=False)
    for found, scores in in_processes(work):
        assert sorted(map(str, found)) == sorted(map(str, alone)) and len(found) == 500
        assert scores == evaluate(detector, scenes, 2, progress=False)


def test_a_run_of_two_writes_once_and_can_be_resumed_by_two(config, in_processes, tmp_path):
    def run(**changes):
        settings = config(**{**dict(batch=1, steps=4, eval_every=2), **changes})
        return lambda: train(settings)

    metrics, same = in_processes(run())
    assert metrics == same
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [("loss" in line, line["step"]) for line in log] == [(True, 1), (False, 2), (False, 4)]
    detector = load(tmp_path / "run/checkpoint.pt")
    alone, _ = evaluate(detector, CocoDetection(config().data, "val"), 1, progress=False)
    assert alone == metrics

    (tmp_path / "run/checkpoint-0000002.pt").replace(tmp_path / "run/checkpoint.pt")
    assert in_processes(run(resume=True)) == [metrics, metrics]
    again = load(tmp_path / "run/checkpoint.pt").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in detector.state_dict().items())
    with pytest.raises(ValueError, match="--processes was 2 and is now 1"):
        run(resume=True)()


def test_both_evaluate_the_same_weights_and_norms(config, in_processes, monkeypatch):
    """Each has seen other pictures, so their batch norms remember other means."""

    def look(detector, *arguments):
        return dict.fromkeys(METRICS, 0.5), str(sum(b.sum() for b in detector.buffers()).item())

    monkeypatch.setattr(loop, "evaluate", look)

    def work():
        tables = []
        monkeypatch.setattr(loop, "say", tables.append)
        train(config(batch=1, ema=0.5))
        return [text for text in tables if "done after" in text][0].splitlines()[0]

    first, second = in_processes(work)
    assert first == second and float(first) != 0


def test_both_read_the_same_clock(in_processes):
    def work():
        with distributed.processes(CPU):
            clock = loop.Clock(minutes=1, steps=None)
            clock.start(minutes=0.25 * (1 + distributed.rank()))
            clock.tick(CPU)
            return clock.minutes, clock.progress

    first, second = in_processes(work)
    assert first == second and 0.5 <= first[0] < 0.6


def test_the_loss_of_one_going_wrong_stops_all_and_names_all_pictures(
    config, in_processes, monkeypatch
):
    real = Learner.losses

    def poisoned(self, images, targets):
        losses = real(self, images, targets)
        if distributed.rank() == 1:
            losses["loss_l1"] = losses["loss_l1"] * torch.nan
        return losses

    def work():
        try:
            train(config(batch=2))
        except NonFiniteLoss as error:
            return str(error)

    monkeypatch.setattr(Learner, "losses", poisoned)
    first, second = in_processes(work)
    assert first == second and "at step 1 the loss is nan" in first
    ids = first.split("ids ")[1].split(";")[0].split(", ")
    assert len(set(ids)) == 4


def test_one_asked_to_stop_stops_all(config, in_processes, monkeypatch):
    real = Learner.step

    def interrupted(self, batches, step, progress):
        if step == 2 and distributed.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(self, batches, step, progress)

    def work():
        try:
            train(config(steps=9))
        except KeyboardInterrupt as error:
            return str(error)

    monkeypatch.setattr(Learner, "step", interrupted)
    for said in in_processes(work):
        assert said.startswith("stopped after 2 steps")
    assert torch.load(config().out / "checkpoint.pt", weights_only=True)["step"] == 2
