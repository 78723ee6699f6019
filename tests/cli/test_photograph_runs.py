"""benchmarks/own_images.py measures what it says, never twice, and the results page shows it."""

import importlib
import json
import shutil
import statistics
from pathlib import Path

import pytest

from ddetr_edu.data.coco import CocoDetection

ROOT = Path(__file__).parents[2]
SMALL = "--image-size.short-side 64 --image-size.long-side 96 --batch-size 2 --workers 0"


@pytest.fixture
def program(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("own_images")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results" / "own_images.json")
    return module


@pytest.fixture
def results_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("results_page")


@pytest.fixture
def other_results(results_page, monkeypatch, tmp_path):
    """A folder that stands for benchmarks/results/."""
    monkeypatch.setattr(importlib.import_module("results_tables"), "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def few_images(tmp_path):
    """Three images of data/shapes-mini for training and two to validate."""
    folder = tmp_path / "few"
    for split, count in (("train", 3), ("val", 2)):
        name = f"instances_{split}.json"
        content = json.loads((ROOT / "data/shapes-mini/annotations" / name).read_text())
        content["images"] = content["images"][:count]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        (folder / split).mkdir(parents=True)
        for image in content["images"]:
            source = ROOT / "data/shapes-mini" / split / image["file_name"]
            shutil.copy(source, folder / split / image["file_name"])
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / name).write_text(json.dumps(content))
    return folder


def row(seed: int, ap: float, **changes) -> dict:
    metrics = {"AP": ap, "AP50": ap, "AP75": ap, "AP_S": -1.0, "AP_M": ap, "AP_L": ap}
    return {
        "data": "cells",
        "categories": "all categories",
        "preset": "lite",
        "weights": "seen.safetensors",
        "minutes": 15.0,
        "flags": "--precision bf16",
        "seed": seed,
        "steps": 100 * (seed + 1),
        "train": {"images": 20, **metrics, "AP": 0.9},
        "val": {"images": 7, **metrics},
        "curve": [[15.0, ap, ap]],
        "machine": {"processor": "P", "cores": 2, "torch": "2", "date": "today"},
        **changes,
    }


def test_a_run_is_measured_once_and_written_at_once(program, few_images, tmp_path, capsys):
    arguments = [str(few_images), "--minutes", "0.001", "--scratch", "tiny", "--flags", SMALL]
    arguments += ["--out", str(tmp_path / "runs"), "--seeds"]
    program.main([*arguments, "0"])
    (measured,) = json.loads(program.RESULTS.read_text())["runs"]
    assert (measured["data"], measured["preset"], measured["seed"]) == ("few", "tiny", 0)
    assert measured["steps"] >= 1 and measured["curve"][-1][1] == measured["val"]["AP"]
    assert (measured["train"]["images"], measured["val"]["images"]) == (3, 2)
    objects = CocoDetection(few_images, "val").object_counts().sum()
    outcomes = measured["outcomes"]
    assert 0 <= outcomes["missed"] + outcomes["correct"] <= objects
    assert measured["machine"]["processor"] and "cores_used_by_others" in measured["machine"]
    assert str(tmp_path) not in program.RESULTS.read_text()  # no path of this machine
    (drawing,) = (tmp_path / "runs").glob("*/*/found.png")
    assert drawing.read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    program.main([*arguments, "0", "1", "--publish", "A. Nyone, CC BY 4.0"])
    results = json.loads(program.RESULTS.read_text())
    assert results["runs"][0] == measured
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    out = capsys.readouterr().out
    assert "seed 0: done before" in out and "1 of 2 runs are left" in out
    assert out.count("ddetr train") == 1 and "median" in out
    (published,) = results["images"].values()
    assert published["credit"] == "A. Nyone, CC BY 4.0"
    assert program.RESULTS.with_name(published["file"]).is_file()
    assert program.RESULTS.with_name("own_images-few-all-categories.png").is_file()


def test_nothing_is_trained_before_all_settings_are_checked(program, few_images, tmp_path):
    arguments = [str(few_images), "--minutes", "9", "--out", str(tmp_path / "runs"), "--flags"]
    with pytest.raises(ValueError, match="precision"):
        program.main([*arguments, "--precision bf17"])
    with pytest.raises(ValueError, match="nonesuch"):
        program.main([*arguments, SMALL, "--scratch", "tiny", "nonesuch"])
    assert not program.RESULTS.exists() and not list(tmp_path.glob("runs/*/*"))


def test_a_data_set_of_some_categories_keeps_all_images(program, few_images, tmp_path):
    whole = CocoDetection(few_images, "train")
    name = next(iter(whole.categories.values()))
    for _ in range(2):  # it may be there from an earlier call
        folder = program.only_categories(few_images, [name], tmp_path / "some")
    some = CocoDetection(folder, "train", strict=True)
    assert list(some.categories.values()) == [name] and len(some) == len(whole)
    label = next(iter(some.categories))
    for (_, target), (_, expected) in zip(some, whole, strict=True):
        kept = expected["labels"] == label
        assert target["boxes"].tolist() == expected["boxes"][kept].tolist()
    with pytest.raises(ValueError, match="has no category unicorn"):
        program.only_categories(few_images, ["unicorn"], tmp_path / "none")


def test_the_page_shows_medians_over_the_seeds(results_page):
    rows = [row(0, 0.3), row(1, 0.5), row(2, 0.6), row(0, 0.1, weights=None)]
    heading, table, about, commands = results_page.results_training.photographs(rows)
    assert heading == "### cells, all categories"
    lines = table.splitlines()
    assert lines[2].startswith("| 1: `lite`, pretrained backbone | 15 | 3 | 200 | 50.0 | 50.0 |  |")
    assert lines[2].endswith("| 30.0 to 60.0 | 90.0 |")
    assert lines[3].startswith("| 2: `lite`, from scratch | 15 | 1 | 100 | 10.0 |")
    assert about.startswith("Medians over the seeds; a row of one seed is a screening. 20 images")
    assert "--preset lite --backbone-weights seen.safetensors --minutes 15" in commands
    assert results_page.results_training.photographs(rows[:1])[2].startswith(
        "Screening, one seed. "
    )
    assert results_page.results_training.photographs(rows[:3])[2].startswith(
        "Medians over the seeds. "
    )


def test_the_page_does_without_results_that_are_not_there(results_page, other_results):
    assert results_page.results_training.own_images() == ""
    assert results_page.results_speed.other_models() == ""
    images = {"cells-all-categories": {"file": "found.png", "run": "a run", "credit": "MIT"}}
    results = {"runs": [row(0, 0.3)], "images": images}
    (other_results / "own_images.json").write_text(json.dumps(results))
    page = results_page.results_training.own_images()
    assert "(../benchmarks/results/found.png)" in page and page.endswith("Images: MIT.")
    assert "own_images-cells-all-categories.png" not in page  # no such file


def test_the_page_shows_inference(results_page, other_results):
    side = {"time_of_ours": 0.5, "difference": 1e-6, "peak_megabytes": 800}
    results = {
        "machine": row(0, 0.3)["machine"],
        "transformers": "5",
        "onnxruntime": "1",
        "cases": {"lite": {"size": [320, 416], "sides": {"a side": {"seconds": [0.2], **side}}}},
    }
    (other_results / "inference.json").write_text(json.dumps(results))
    page = results_page.results_speed.inference()
    assert "`lite`, 320 x 416 px:" in page
    assert "| a side | 200 | 200 to 200 | 0.50x | 1e-06 | 800 |" in page


def test_the_page_shows_other_peoples_models(results_page, other_results):
    model = {"size": [640, 640], "seconds": {"theirs": [2, 4], "ours": [1, 2]}, "ratio": 2.0}
    results = {
        "machine": row(0, 0.3)["machine"],
        "transformers": "5",
        "models": {"RT-DETR": {**model, "largest_difference": 2e-6}},
    }
    (other_results / "other_models.json").write_text(json.dumps(results))
    page = results_page.results_speed.other_models()
    assert "| RT-DETR | 640 x 640 | 3.00 | 1.50 | **2.00x** | 2e-06 |" in page


def test_the_readme_says_what_was_measured_on_blood_cells():
    runs = json.loads((ROOT / "benchmarks/results/own_images.json").read_text())["runs"]
    aps: dict[str, list[float]] = {"tiny_two_stage": [], "lite": []}
    for run in runs:
        if run["data"].startswith("BCCD") and "official" in run["flags"] and run["minutes"] == 15:
            aps[run["preset"]].append(100 * run["val"]["AP"])
    said = " ".join((ROOT / "README.md").read_text().split())
    scratch, pretrained = (f"{statistics.median(aps[name]):.1f}" for name in aps)
    assert (
        f"reached an AP of {scratch}, and `lite` with a pretrained backbone {pretrained}]" in said
    )
