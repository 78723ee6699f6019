"""benchmarks/gpu.py, run on a CPU that imitates a GPU, because time on a GPU is short."""

import contextlib
import gc
import importlib
import json
import runpy
import sys
import types
import weakref
from pathlib import Path

import pytest
import torch
from host_cuda import attention, run_on_the_host

from ddetr_edu.attention import benchmark as bench
from ddetr_edu.attention.kernels import build, cuda, cuda_build

PATH = Path(__file__).parents[2] / "benchmarks/gpu.py"
CASES = [("encoder", "gaussian", dtype) for dtype in ("fp32", "fp16", "bf16")]


@pytest.fixture(autouse=True)
def neighbours(monkeypatch):
    """The modules beside the script, which Python finds when it runs the script itself."""
    monkeypatch.syspath_prepend(PATH.parent)


@pytest.fixture
def timing():
    return importlib.import_module("gpu_timing")


@pytest.fixture
def processes():
    return importlib.import_module("gpu_processes")


@pytest.fixture
def program(monkeypatch, host_library, timing, processes):
    """The script's names, with the host instead of the GPU, and one peer, which is wrong."""
    script = runpy.run_path(str(PATH))["main"].__globals__
    run_on_the_host(monkeypatch, host_library)
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
    monkeypatch.setattr(bench, "LEVELS", [(5, 7), (3, 2)])
    monkeypatch.setattr(bench, "QUERIES", {"encoder": 41, "decoder": 3})
    monkeypatch.setattr(torch.cuda, "Stream", lambda: types.SimpleNamespace(wait_stream=id))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timing, "DEVICE", "cpu")
    monkeypatch.setattr(timing, "REPEATS", 1)
    monkeypatch.setattr(timing, "peak_megabytes", lambda forward, leaves: 1.5)
    monkeypatch.setattr(timing, "recorded", lambda work, stream: timing.Work(work, 1, work))
    monkeypatch.setattr(timing, "median_ms", lambda work, *_, **__: (work(), 2.0)[1])
    monkeypatch.setattr(processes, "sanitize", lambda tool: "clean")
    real = script["ms_deform_attn"]

    def either(value, levels, locations, weights, backend):
        if backend == "cuda":
            return attention(value, levels, locations, weights)
        return real(value, levels, locations, weights, backend)

    def wrong(value, levels, locations, weights):
        return 1.01 * real(value, levels, locations, weights, "grid_sample")

    def run_peer(command, seconds, take):
        """As another process would, but here."""
        monkeypatch.setattr(sys, "argv", command[1:])
        monkeypatch.setattr(processes, "report", take)
        return None if script["main"]() == 0 else "it failed"

    monkeypatch.setattr(processes, "run_peer", run_peer)
    script |= {
        "CASES": [case for case in script["CASES"] if case[2] != "bf16"],
        "DEVICE": "cpu",
        "ms_deform_attn": either,
        "machine": lambda: {"date": "today", "gpu": "none"},
        "ceilings": lambda device: {"copy_TB_s": 4.0, "gather_TB_s": 20.0, "adds_G_s": 900.0},
        "NAMES": ("wrong", "absent", "refused"),
        "missing": lambda name: "it is absent" if name == "absent" else None,
        "load": lambda name: script["Peer"](wrong, dtypes=(torch.float32,)),
    }
    return script


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_everything_is_checked_measured_and_written(program, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results" / "gpu.json"
    program["DTYPES"] = {"fp32": torch.float32, "fp16": torch.float16}
    arguments = ["--rounds", "1", "--images", "1", "--no-compile", "--without", "refused"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--out", str(out)])
    assert program["main"]() == 0, capsys.readouterr().out
    results = json.loads(out.read_text())
    assert set(results["errors"]) == {"fp32", "fp16", "fp64"} and results["correct"]
    assert results["errors"]["fp64"]["output"] < 1e-12 < results["errors"]["fp32"]["output"]
    cases = results["cases"]
    # Shapes, spreads, directions, and two implementations in two dtypes, one in one.
    assert len(cases) == 2 * 3 * 3 * (2 * 2 + 1) and results["failed"] == []
    forward, backward, both = cases[:3]
    assert forward["implementation"] == "cuda" and forward["accurate"] and forward["peak_MB"] == 1.5
    assert set(forward["errors"]) == {"output", "value", "locations", "weights"}
    assert {case["implementation"] for case in cases if not case["accurate"]} == {"wrong"}
    assert forward["median_us"] == 2000 and all(case["times_ours"] == 1 for case in cases)
    assert set(forward["percent_of_ceiling"]) == {"copy_TB_s", "gather_TB_s"}
    assert set(backward["percent_of_ceiling"]) == {"copy_TB_s", "gather_TB_s", "adds_G_s"}
    assert both["direction"] == "both" and results["sanitizers"]["memcheck"] == "clean"
    said = capsys.readouterr().out
    assert "correct in every dtype" in said and "absent is not timed: it is absent" in said
    # Peers come after all of ours.
    assert [case["implementation"] == "wrong" for case in cases] == [False] * 72 + [True] * 18


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_a_wrong_kernel_and_a_lack_of_time_are_reported(program, monkeypatch, tmp_path, capsys):
    arguments = ["--no-sanitizer", "--minutes", "-1", "--out", str(tmp_path / "gpu.json")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    program["DTYPES"] = {}
    correct = program["check"]
    program["check"] = lambda *arguments: {
        what: 2 * error + 1e-9 for what, error in correct(*arguments).items()
    }
    assert program["main"]() == 1
    said = capsys.readouterr().out
    assert "WRONG" in said and "out of time before encoder, gaussian, fp32: cuda, grid_" in said
    assert "out of time before wrong, encoder, gaussian, fp32" in said
    assert "out of time before encoder, gaussian, fp32: cuda, compiled" in said


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_recorded_graph_keeps_its_tensors(timing, monkeypatch, direction):
    """A CUDA graph reads from addresses; what lies there must not be given to others."""
    graph = types.SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(timing, "median_ms", lambda work, repeats: 1.0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: types.SimpleNamespace(wait_stream=id))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    leaves = [torch.ones(3, requires_grad=True) for _ in range(3)]
    alive = [weakref.ref(leaf) for leaf in leaves]
    peer = types.SimpleNamespace(call=lambda value, levels, x, weights: value * x * weights)
    work = timing.works_of(peer, leaves, [(1, 3)])[direction]
    del leaves
    gc.collect()
    assert work.run is graph.replay and all(leaf() is not None for leaf in alive)
    del work
    gc.collect()
    assert not any(leaf() is not None for leaf in alive)


# ---- Other processes ----

PEER = """
import sys, time
first = int(sys.argv[sys.argv.index("--first") + 1])
for case in range(first, 3):
    if case in {crashes}:
        print("measuring case", case)
        {crash}
    print('measured: [{{"case": %d}}]' % case, flush=True)
"""


@pytest.mark.parametrize(
    "crashes, measured, failed",
    [
        ([], [0, 1, 2], []),
        ([1], [0, 2], ["fp16"]),
        ([2], [0, 1], ["bf16"]),
        ([0, 1], [], ["fp32", "fp16"]),  # it is started twice only
    ],
)
def test_a_crash_loses_one_case_of_one_peer(processes, monkeypatch, crashes, measured, failed):
    source = PEER.format(crashes=crashes, crash="sys.exit('an illegal access')")
    monkeypatch.setattr(processes, "peer_command", lambda: [sys.executable, "-c", source])
    rows = []
    found = processes.measure_peer("theirs", CASES, [], 60, rows.extend)
    assert [row["case"] for row in rows] == measured
    assert [entry["dtype"] for entry in found] == failed
    for entry in found:
        assert entry["implementation"] == "theirs" and entry["locations"] == "gaussian"
        assert entry["last_line"] == "exit status 1: an illegal access"


@pytest.mark.parametrize(
    "crash, seconds, reason",
    [("import os; os.abort()", 60, "exit status -6"), ("time.sleep(60)", 0.5, "killed after 0 s")],
)
def test_a_peer_that_is_killed_or_hangs_is_reported(processes, crash, seconds, reason):
    source = PEER.format(crashes=[0], crash=crash)
    command = [sys.executable, "-c", source, "--first", "0"]
    assert processes.run_peer(command, seconds, print).startswith(reason)


def test_a_peers_error_is_one_line(processes, monkeypatch, capsys):
    monkeypatch.setattr(processes.os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match="1"):
        processes.end_with(RuntimeError("CUDA error: an illegal access\nSee the manual"))
    assert capsys.readouterr().out == "RuntimeError: CUDA error: an illegal access\n"


MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at ms_deform_attn+0x120 in ms_deform_attn.cu:17
=========     Host Frame: load_cubin in cuda.py:267
correct in every dtype
========= ERROR SUMMARY: 1 error
"""


def test_only_lines_that_name_an_error_are_kept(processes, monkeypatch, tmp_path):
    program = tmp_path / "compute-sanitizer"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def pretend(body):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        return processes.sanitize("memcheck")

    (tmp_path / "output").write_text(MEMCHECK)
    named = ["Invalid __global__ read of size 4 bytes", "ERROR SUMMARY: 1 error"]
    assert pretend(f"cat {tmp_path / 'output'}; exit 9") == named
    assert pretend("exit 0") == "clean"
    assert pretend("echo WRONG; exit 1") == ["WRONG"]
    assert pretend('case "$*" in *"--report-api-errors no"*) exit 0;; *) exit 1;; esac') == "clean"
    monkeypatch.setattr(processes, "SANITIZER_SECONDS", 0.5)
    assert pretend(f"cat {tmp_path / 'output'}; sleep 60") == [*named, "not finished in 0.5 s"]


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

    source = importlib.import_module("gpu_ceilings").CEILINGS
    for arch in ("sm_80", "sm_90"):
        assert Program(source, "c++", ProgramOptions(arch=arch)).compile("cubin").code
