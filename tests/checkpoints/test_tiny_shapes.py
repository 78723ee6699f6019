"""The trained model that comes with the course has the results that its files state."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ddetr_edu.checkpoints.io import load
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.settings import flatten_settings

FOLDER = Path(__file__).parents[2] / "data/tiny-shapes"


def test_it_is_small_and_has_the_stated_ap():
    assert (FOLDER / "model.safetensors").stat().st_size < 8_000_000
    stated = json.loads((FOLDER / "result.json").read_text())
    metrics, _ = evaluate(load(FOLDER / "model.safetensors"), held_out_scenes("test"), 8, workers=0)
    for name in ("AP", "AP50", "AP_S"):  # other processors round differently
        assert metrics[name] == pytest.approx(stated[name], abs=0.003), name


def test_its_settings_have_the_names_of_today():
    config = json.loads((FOLDER / "config.json").read_text())
    today = flatten_settings(asdict(TrainConfig(steps=1)))
    assert config.keys() == (today.keys() - {"out"}) | {"processes", "images"}


def test_its_log_ends_with_the_steps_stated():
    stated = json.loads((FOLDER / "result.json").read_text())
    log = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((FOLDER / "config.json").read_text())
    assert log[-1]["step"] == stated["steps"]
    assert config["preset"] == stated["preset"] and config["seed"] == stated["seed"]
    assert log[0]["loss"] > 3 * log[-2]["loss"]  # also of the denoising queries
