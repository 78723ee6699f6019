"""benchmarks/gpu_training.py, in small on the CPU, because time on a GPU is short."""

import json
import sys
from pathlib import Path

import pytest

from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.models.config import PRESETS

SMALL = dict(d_model=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=2, d_ffn=11, n_queries=13)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(*arguments): the exit code and the results of a dry run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu_training

    preset = "tiny_two_stage"
    monkeypatch.setitem(PRESETS, preset, {**PRESETS[preset], **SMALL})
    out = tmp_path / "results.json"
    fixed = ["--dry-run", "--device", "cpu", "--out", str(out), "--runs", str(tmp_path / "runs")]

    def make(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu_training.py", *fixed, *arguments])
        code = gpu_training.main()
        return code, json.loads(out.read_text()) if out.exists() else {}

    return make


def test_minutes_of_training_are_measured(run):
    code, results = run("--parts", "tiny", "--workers", "0")
    (entry,) = results["tiny"]
    assert code == 0 and entry["steps"] == 2 and entry["test_scenes"] == 4
    assert 0 <= entry["waiting_for_data"] < 1 and entry["steps_per_second_on_one_batch"] > 0
    assert 0 <= entry["test"]["AP"] <= 1 and entry["machine"]["convolutions_in_tf32"]


def test_results_of_other_runs_are_kept(run, tmp_path):
    import gpu_training as program

    out = tmp_path / "new" / "results.json"
    run_a = {"preset": "tiny", "minutes": 1, "seed": 0}
    program.write(out, "r50", {"cases": 1})
    for entry in ({**run_a, "AP": 0.1}, {**run_a, "seed": 1}, {**run_a, "AP": 0.2}):
        program.write(out, "tiny", entry)
    results = json.loads(out.read_text())
    assert results == {"r50": {"cases": 1}, "tiny": [{**run_a, "seed": 1}, {**run_a, "AP": 0.2}]}


def test_steps_of_both_sides_are_measured(run, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    import gpu_training_steps as steps

    def kernel(value, levels, locations, weights):
        return ms_deform_attn(value, levels, locations, weights, "grid_sample")

    monkeypatch.setattr(steps, "official_kernel", lambda: kernel)
    code, results = run("--parts", "r50")
    entry = results["r50"]
    sides = ("ours, grid_sample", "ours, C++ kernel", "theirs, grid_sample")
    assert code == 0 and entry["failed"] == {}
    assert set(entry["cases"]) == {
        f"{side}, {precision}"
        for side in (*sides, "theirs, official kernel")
        for precision in ("fp32", "bf16")
    }
    assert all(len(case["seconds"]) == 2 for case in entry["cases"].values())
    assert all(d["median"] < 1e-5 for d in entry["differences"].values())


def test_what_fails_does_not_stop_the_rest(run, monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    import gpu_training_steps as steps

    def broken(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(steps, "official_kernel", lambda: broken)
    code, results = run("--precisions", "fp32", "--workers", "0")
    reasons = results["r50"]["failed"]
    assert code == 0 and "no kernel image" in reasons["theirs, official kernel, fp32"]
    assert len(results["r50"]["cases"]) == 3 and len(results["tiny"]) == 1
    monkeypatch.setattr(steps, "build_sides", broken)
    code, _ = run("--parts", "r50")
    assert code == 1 and "no kernel image" in capsys.readouterr().err
