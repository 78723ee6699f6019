"""The log of the matching: what it holds, that training does not notice, and that it resumes."""

import json
from dataclasses import replace

import pytest
import torch

from ddetr_edu.analysis.matching_trace import trace_matching
from ddetr_edu.checkpoints.io import load
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.models.capture import capture
from ddetr_edu.models.config import DETR_PRESETS
from ddetr_edu.models.preprocessing import to_floats
from ddetr_edu.training import loop
from ddetr_edu.training.loop import train
from ddetr_edu.training.match_log import match_entry, matched_queries


def log_of(config):
    return [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]


def matchings_of(config):
    return [entry for entry in log_of(config) if "matched_queries" in entry]


@pytest.fixture
def dataset(shapes_folder):
    return CocoDetection(shapes_folder, "val")


def test_the_queries_are_those_of_the_last_layer(build, dataset):
    detector = build(categories=dataset.categories)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    detector.train()
    expected = []
    for image, target in dataset:
        found = matched_queries(detector, image, target)
        assert detector.training
        traced = trace_matching(detector, to_floats(image), target).queries
        detector.train()
        assert found.tolist() == traced[-1].tolist()
        expected += found.tolist()
    entry = match_entry(detector, dataset, [])
    assert entry == {"matched_queries": expected} and len(expected) > 3


def test_in_two_stages_the_token_stands_for_the_query(build, dataset):
    detector = build(categories=dataset.categories, two_stage=True)
    image, target = dataset[0]
    ranks = trace_matching(detector, to_floats(image), target).queries[-1]
    with capture(detector.model) as records:
        detector([to_floats(image)])
    tokens = records.proposals[0].topk_indices[0]
    assert matched_queries(detector, image, target).tolist() == tokens[ranks].tolist()


def test_the_share_is_that_of_the_last_entry_before(build, dataset):
    detector = build(categories=dataset.categories)
    queries = match_entry(detector, dataset, [])["matched_queries"]
    other = [queries[0] + 1, *queries[1:]]
    log = [{"matched_queries": queries}, {"matched_queries": other}, {"step": 3, "loss": 1.0}]
    entry = match_entry(detector, dataset, log)
    assert entry["match_changes"] == pytest.approx(1 / len(queries))
    assert "match_changes" not in match_entry(detector, dataset, [{"matched_queries": [1]}])


def test_it_is_logged_and_training_does_not_notice(config, tmp_path):
    usual = config(steps=4)
    watched = replace(usual, log_matches=2, out=tmp_path / "watched")
    train(usual)
    train(watched)
    one, other = (load(c.out / "checkpoint.pt").model.state_dict() for c in (usual, watched))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert matchings_of(usual) == []
    first, second = matchings_of(watched)
    assert (first["step"], second["step"]) == (2, 4)
    assert "match_changes" not in first and 0 <= second["match_changes"] <= 1
    assert len(first["matched_queries"]) == len(second["matched_queries"]) > 3


def test_a_resumed_run_compares_with_what_was_logged_before(config, tmp_path, monkeypatch):
    whole = config(steps=4, log_matches=1, save_every=1, out=tmp_path / "whole")
    train(whole)
    stopped = replace(whole, out=tmp_path / "stopped")
    real = loop.train_step

    def power_cut(trainer, batches, step, progress):
        if step == 3:
            raise RuntimeError("the power fails")
        return real(trainer, batches, step, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", power_cut)
        with pytest.raises(RuntimeError, match="the power fails"):
            train(stopped)
    train(replace(stopped, resume=True))
    for entries in zip(matchings_of(whole), matchings_of(stopped), strict=True):
        one, other = ({**entry, "minutes": 0} for entry in entries)
        assert one == other


def test_detr_has_it_too(config, monkeypatch):
    small = dict(d_model=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, d_ffn=8)
    monkeypatch.setitem(
        DETR_PRESETS, "detr_tiny", {**DETR_PRESETS["detr_tiny"], **small, "n_queries": 7}
    )
    run = config(preset="detr_tiny", steps=2, log_matches=1)
    train(run)
    assert all(-1 <= query < 7 for entry in matchings_of(run) for query in entry["matched_queries"])


def test_images_without_objects_have_no_share(build, dataset):
    class Empty:
        def __len__(self):
            return 1

        def __getitem__(self, i):
            image, target = dataset[i]
            return image, {**target, "boxes": target["boxes"][:0], "labels": target["labels"][:0]}

    detector = build(categories=dataset.categories)
    assert match_entry(detector, Empty(), [{"matched_queries": []}]) == {"matched_queries": []}
