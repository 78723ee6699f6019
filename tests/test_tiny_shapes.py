"""The trained model that comes with the course is what its result says."""

import json
from pathlib import Path

import pytest

from ddetr_edu.data import held_out_scenes
from ddetr_edu.training import load
from ddetr_edu.training.evaluate import evaluate

FOLDER = Path(__file__).parents[1] / "data/tiny-shapes"


def test_it_is_small_and_finds_the_stated_ap():
    assert (FOLDER / "model.safetensors").stat().st_size < 8_000_000
    stated = json.loads((FOLDER / "result.json").read_text())
    metrics, _ = evaluate(load(FOLDER / "model.safetensors"), held_out_scenes("test"), 8, workers=0)
    for name in ("AP", "AP50", "AP_S"):  # other processors round differently
        assert metrics[name] == pytest.approx(stated[name], abs=0.003), name


def test_its_log_ends_with_the_steps_stated():
    stated = json.loads((FOLDER / "result.json").read_text())
    log = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((FOLDER / "config.json").read_text())
    assert log[-1]["step"] == stated["steps"]
    assert config["preset"] == stated["preset"] and config["seed"] == stated["seed"]
    assert log[0]["loss"] > 5 * log[-2]["loss"]
