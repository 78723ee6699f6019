"""The benchmark measures what it says, and its results are those that README and docs show."""

import json
import runpy
from pathlib import Path

import pytest

from ddetr_edu.attention import benchmark
from ddetr_edu.cli.bench_attention import BenchConfig, bench_attention

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program():
    """Names of benchmarks/readme_table.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return runpy.run_path(str(ROOT / "benchmarks/readme_table.py"))


def test_a_benchmark_prints_a_table_and_writes_a_plot_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "LEVELS", [(5, 7), (3, 2)])
    monkeypatch.setattr(benchmark, "QUERIES", {"encoder": 41, "decoder": 3})
    config = BenchConfig(
        backends=("grid_sample", "naive"),
        shapes=("decoder",),
        locations=("initial", "gaussian"),
        rounds=1,
        images=1,
        out=tmp_path / "speed",
    )
    results = bench_attention(config)
    assert len(results["cases"]) == 2 * 2 * 3  # locations x backends x directions
    assert all(case["max_error"] < 1e-4 for case in results["cases"])
    assert results["machine"]["date"] and results["machine"]["processor"]
    assert json.loads((tmp_path / "speed.json").read_text()) == results
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 12


def test_results_are_written_among_a_learners_runs_and_not_over_tracked_ones():
    assert BenchConfig().out == Path("runs/bench/attention")


@pytest.mark.parametrize(
    "setting", [{"backends": ("gpu",)}, {"locations": ("moon",)}, {"rounds": 0}, {"threads": (0,)}]
)
def test_a_wrong_setting_is_named(setting):
    with pytest.raises(ValueError, match=f"--{next(iter(setting))}|backend"):
        BenchConfig(**setting)


def test_the_readme_table_is_inserted_between_its_comments(program):
    results = json.loads((ROOT / "benchmarks/results/attention.json").read_text())
    table = program["speed_table"](results)
    assert "| encoder | gaussian, 2 px |" in table and results["machine"]["date"] in table
    begin, end = program["SPEED"]
    once = program["with_table"](f"above\n{begin}\nold\n{end}\nbelow\n", table, begin, end)
    assert once == f"above\n{begin}\n{table}\n{end}\nbelow\n"
    assert program["with_table"](once, table, begin, end) == once
    with pytest.raises(ValueError, match="speed table"):
        program["with_table"]("a README without comments", table, begin, end)


def test_the_tables_of_a_gpu_have_each_time_beside_ours():
    tables = runpy.run_path(str(ROOT / "benchmarks/gpu_tables.py"))
    case = {
        "shape": "encoder",
        "locations": "gaussian",
        "dtype": "fp32",
        "accurate": True,
        "peak_MB": 82.4,
    }
    cases = [
        {**case, "implementation": name, "direction": direction, "median_us": us, "times_ours": x}
        for name, us, x in (("msda-triton", 322.8, 2.0), ("cuda", 161.4, 1.0))
        for direction in ("forward", "backward", "both")
    ]
    cases += [{**row, "locations": "uniform"} for row in cases]
    cases += [{**row, "dtype": "fp16"} for row in cases]
    for row in cases[:3]:
        row["accurate"] = False
    machine = {"gpu": "a GPU", "torch": "2.11.0+cu130", "date": "today"}
    results = {"cases": cases, "machine": machine}
    lines = tables["gpu_table"](results, ["encoder", "decoder"], ["fp32"]).splitlines()
    assert lines[2] == "| encoder | fp32 | **ours** | 161 us | 161 us | 161 us | 82 MB |"
    assert lines[3] == (
        "| encoder | fp32 | msda-triton (inaccurate) | 323 us (2x) | 323 us (2x) | 323 us (2x) "
        "| 82 MB |"
    )
    assert len(lines) == 6 and "a GPU, torch 2.11.0, today" in lines[5]
    short = tables["short_gpu_table"](results).splitlines()
    assert short[2] == "| **ours** | 161 us |  |  |  |"
    assert short[3] == "| msda-triton | 323 us (2x), inaccurate |  |  |  |"
    assert short[4:] == lines[4:]


def test_every_implementation_that_is_timed_has_a_name(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = runpy.run_path(str(ROOT / "benchmarks/gpu_tables.py"))["NAMES"]
    peers = runpy.run_path(str(ROOT / "benchmarks/gpu_peers.py"))["NAMES"]
    assert set(names) == {"cuda", "grid_sample", "compiled", *peers}


@pytest.mark.parametrize(
    ("name", "table", "comments"),
    [
        ("attention", "speed_table", "SPEED"),
        ("shapes", "shapes_table", "SHAPES"),
        ("gpu", "short_gpu_table", "GPU"),
    ],
)
def test_the_readme_shows_the_committed_results(program, name, table, comments):
    readme = (ROOT / "README.md").read_text()
    results = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    rows = {"least_seeds": program["SEEDS"]} if name == "shapes" else {}
    made = program[table](results, **rows)
    updated = program["with_table"](readme, made, *program[comments])
    assert updated == readme, f"run benchmarks/readme_table.py: {name}.json has changed"


def test_the_results_page_shows_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    program = runpy.run_path(str(ROOT / "benchmarks/results_page.py"))
    page = (ROOT / "docs/results.md").read_text()
    assert page == program["page"](), "run benchmarks/results_page.py: a result has changed"
