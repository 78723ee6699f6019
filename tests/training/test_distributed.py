"""Two processes: the same result as one process, written once."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch

from ddetr_edu import distributed
from ddetr_edu.checkpoints.io import load
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.scenes import CATEGORIES
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.evaluation.coco_metrics import METRICS, detect, evaluate
from ddetr_edu.training import clock as clock_module
from ddetr_edu.training import loop
from ddetr_edu.training.loop import train
from ddetr_edu.training.trainer import NonFiniteLoss, Trainer

CPU = torch.device("cpu")


def test_a_single_process_gets_back_what_it_gave():
    with distributed.process_group(CPU):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert (
            distributed.all_reduce_mean([3.0], CPU)
            == [3.0]
            == distributed.all_reduce_max([3.0], CPU)
        )
        assert distributed.all_gather([1, 2]) == [1, 2]
        distributed.broadcast_buffers(torch.nn.BatchNorm2d(3))


def test_two_processes_agree(in_processes):
    def work():
        with distributed.process_group(CPU):
            me = distributed.rank()
            norm = torch.nn.BatchNorm1d(2)
            norm.running_mean += me + 1
            distributed.broadcast_buffers(norm)
            return [
                me,
                distributed.world_size(),
                distributed.all_reduce_mean([me + 1, 5], CPU),
                distributed.all_reduce_max([me, -me], CPU),
                distributed.all_gather([me] * (me + 1)),
                norm.running_mean.tolist(),
            ]

    first, second = in_processes(work)
    assert (first[:2], second[:2]) == ([0, 2], [1, 2])
    assert first[2:] == second[2:] == [[1.5, 5], [1, 0], [0, 1, 1], [1, 1]]


def test_two_processes_detect_what_one_detects_and_no_image_twice(build, in_processes):
    detector, scenes = build(categories=CATEGORIES), Shapes(5, seed=3)

    def work():
        with distributed.process_group(CPU):
            found = detect(detector, scenes, batch_size=2, show_progress=False)
            return found, evaluate(detector, scenes, 2, show_progress=False)

    alone = detect(detector, scenes, batch_size=2, show_progress=False)
    for found, scores in in_processes(work):
        assert sorted(map(str, found)) == sorted(map(str, alone)) and len(found) == 500
        assert scores == evaluate(detector, scenes, 2, show_progress=False)


def test_a_run_of_two_writes_once_and_can_be_resumed_by_two(config, in_processes, tmp_path):
    def run(**changes):
        settings = config(**{**dict(batch_size=1, steps=4, eval_every=2), **changes})
        return lambda: train(settings)

    metrics, same = in_processes(run())
    assert metrics == same
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [("loss" in line, line["step"]) for line in log] == [(True, 1), (False, 2), (False, 4)]
    detector = load(tmp_path / "run/checkpoint.pt")
    alone, _ = evaluate(detector, CocoDetection(config().data, "val"), 1, show_progress=False)
    assert alone == metrics

    (tmp_path / "run/checkpoint-0000002.pt").replace(tmp_path / "run/checkpoint.pt")
    assert in_processes(run(resume=True)) == [metrics, metrics]
    again = load(tmp_path / "run/checkpoint.pt").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in detector.state_dict().items())
    with pytest.raises(ValueError, match="the number of processes .* was 2 and is now 1"):
        run(resume=True)()


def test_both_evaluate_the_same_parameters_and_norms(config, in_processes, monkeypatch):
    """Each process has seen different images, so their batch norms have different means."""

    sums = []

    def add_up_buffers(detector, *arguments):
        sums.append(sum(b.sum() for b in detector.buffers()).item())
        return []

    monkeypatch.setattr(loop, "detect", add_up_buffers)
    monkeypatch.setattr(
        loop, "summarize", lambda coco: (dict.fromkeys(METRICS, 0.5), str(sums[-1]))
    )

    def work():
        tables = []
        monkeypatch.setattr(loop, "log0", tables.append)
        train(config(batch_size=1, ema=0.5))
        return [text for text in tables if "done after" in text][0].splitlines()[0]

    first, second = in_processes(work)
    assert first == second and float(first) != 0


def test_both_read_the_same_clock(in_processes, monkeypatch):
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: 1000.0))

    def work():
        with distributed.process_group(CPU):
            clock = loop.Clock(max_minutes=1, max_steps=None)
            clock.start(minutes=0.25 * (1 + distributed.rank()))
            clock.tick(CPU)
            return clock.minutes, clock.progress

    first, second = in_processes(work)
    assert first == second == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_nan_loss_in_one_process_stops_all_and_names_all_images(
    config, in_processes, monkeypatch
):
    real = Trainer.losses

    def poisoned(self, images, targets, *counts):
        losses = real(self, images, targets, *counts)
        if distributed.rank() == 1:
            losses["loss_l1"] = losses["loss_l1"] * torch.nan
        return losses

    def work():
        try:
            train(config(batch_size=2))
        except NonFiniteLoss as error:
            return str(error)

    monkeypatch.setattr(Trainer, "losses", poisoned)
    first, second = in_processes(work)
    assert first == second and "at step 1 the loss is nan" in first
    ids = first.split("ids ")[1].split(";")[0].split(", ")
    assert len(set(ids)) == 4


def test_a_signal_to_one_process_stops_all(config, in_processes, monkeypatch):
    real = loop.train_step

    def interrupted(trainer, batches, step, progress):
        if step == 2 and distributed.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(trainer, batches, step, progress)

    def work():
        try:
            train(config(steps=9))
        except KeyboardInterrupt as error:
            return str(error)

    monkeypatch.setattr(loop, "train_step", interrupted)
    for message in in_processes(work):
        assert message.startswith("stopped after 2 steps")
    assert torch.load(config().out / "checkpoint.pt", weights_only=True)["step"] == 2
