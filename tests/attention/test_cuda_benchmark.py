"""benchmarks/gpu.py, run on a CPU that imitates a GPU, because time on a GPU is short."""

import contextlib
import json
import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
from host_cuda import HostLaunch, attention

from ddetr_edu.attention import benchmark as bench
from ddetr_edu.attention.kernels import build, cuda, cuda_build

PATH = Path(__file__).parents[2] / "benchmarks/gpu.py"


@pytest.fixture
def program(monkeypatch, host_library):
    """The script's names, with the host instead of the GPU."""
    names = runpy.run_path(str(PATH))
    script = names["main"].__globals__
    monkeypatch.setattr(cuda, "launch", HostLaunch(host_library))
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
    monkeypatch.setattr(cuda, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(bench, "LEVELS", [(5, 7), (3, 2)])
    monkeypatch.setattr(bench, "QUERIES", {"encoder": 41, "decoder": 3})
    monkeypatch.setattr(torch.cuda, "Stream", lambda: types.SimpleNamespace(wait_stream=id))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    ours = script["ms_deform_attn"]

    def either(value, levels, locations, weights, backend):
        if backend == "cuda":
            return attention(value, levels, locations, weights)
        return ours(value, levels, locations, weights, backend)

    script |= {
        "CASES": [case for case in script["CASES"] if case[2] != "bf16"],
        "DEVICE": "cpu",
        "REPEATS": 1,
        "ms_deform_attn": either,
        "machine": lambda: {"date": "today", "gpu": "none"},
        "ceilings": lambda: {"copy_TB_s": 4.0, "gather_TB_s": 20.0, "adds_G_s": 900.0},
        "recorded": lambda work, stream: work,
        "median_ms": lambda work, *_, **__: (work(), 2.0)[1],
        "sanitize": lambda tool: "clean",
    }
    return script


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_everything_is_checked_measured_and_written(program, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results" / "gpu.json"
    program["DTYPES"].pop("bf16")
    command = ["gpu.py", "--rounds", "1", "--images", "1", "--no-compile", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    assert program["main"]() == 0, capsys.readouterr().out
    results = json.loads(out.read_text())
    assert set(results["errors"]) == {"fp32", "fp16", "fp64"} and results["correct"]
    assert results["errors"]["fp64"]["output"] < 1e-12 < results["errors"]["fp32"]["output"]
    cases = results["cases"]
    assert len(cases) == 2 * 3 * 2 * 2 * 3  # shapes, spreads, dtypes, implementations, directions
    forward, backward, both = cases[:3]
    assert forward["median_us"] == 2000 and forward["times_grid_sample"] == 1
    assert set(forward["percent_of_ceiling"]) == {"copy_TB_s", "gather_TB_s"}
    assert set(backward["percent_of_ceiling"]) == {"copy_TB_s", "adds_G_s"}
    assert both["direction"] == "both" and results["sanitizers"]["memcheck"] == "clean"
    assert "correct in every dtype" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_a_wrong_kernel_and_a_lack_of_time_are_reported(program, monkeypatch, tmp_path, capsys):
    arguments = ["--no-sanitizer", "--minutes", "-1", "--out", str(tmp_path / "gpu.json")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    program["DTYPES"] = {}
    correct = program["check"]
    program["check"] = lambda dtype: {
        what: 2 * error + 1e-9 for what, error in correct(dtype).items()
    }
    assert program["main"]() == 1
    assert "WRONG" in (said := capsys.readouterr().out) and "out of time before encoder" in said


def test_without_a_gpu_it_says_so_in_one_sentence(monkeypatch, capsys):
    main = runpy.run_path(str(PATH))["main"]
    problem = build.BuildError("there is no GPU")
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: problem)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert main() == 1
    assert capsys.readouterr().err == "nothing to measure: there is no GPU\n"


def test_the_kernels_that_measure_the_ceilings_compile():
    try:
        cuda_build.nvrtc_version()
    except build.BuildError as problem:
        pytest.skip(str(problem))
    from cuda.core import Program, ProgramOptions

    source = runpy.run_path(str(PATH))["CEILINGS"]
    for arch in ("sm_80", "sm_90"):
        assert Program(source, "c++", ProgramOptions(arch=arch)).compile("cubin").code
