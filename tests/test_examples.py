"""The programs of examples/ run as they are, and do what they say."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import ddetr_edu as dd

ROOT = Path(__file__).parents[1]
IMAGE = str(ROOT / "data/shapes-mini/val/000002.png")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run("detect.py", IMAGE) -> what it printed; in an empty folder, where its files go."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_every_example_is_short_and_says_how_to_run_it():
    programs = sorted((ROOT / "examples").glob("*.py"))
    assert len(programs) == 5
    for program in programs:
        source = program.read_text()
        assert len(source.splitlines()) <= 45
        assert f"uv run python examples/{program.name}" in source


def test_detect_prints_what_is_found(run):
    lines = run("detect.py", IMAGE).splitlines()
    assert lines
    assert all(re.fullmatch(r"[a-z]+ +\d\.\d\d  \((\d+, ){3}\d+\)", line) for line in lines)


def test_a_loop_of_ones_own_learns_and_saves(run):
    losses = [float(line.split()[-1]) for line in run("own_loop.py", "4").splitlines()]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert len(dd.load("runs/own_loop.safetensors").categories) == 6


def test_fine_tuning_writes_a_run(run):
    output = run("fine_tune.py", str(ROOT / "data/shapes-mini"), "1")
    assert re.search(r"^AP \d+\.\d$", output, re.MULTILINE)
    assert Path("runs/fine_tune/checkpoint.pt").exists()


def test_attention_in_another_model(run):
    assert "560 + 140 tokens in, (2, 700, 64) out" in run("attention_in_your_model.py")


def test_look_inside_saves_a_figure(run):
    run("look_inside.py", IMAGE, "figure.png")
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")
