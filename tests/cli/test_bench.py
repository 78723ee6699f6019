"""The benchmark measures what it says, and its results are those that README and docs show."""

import json
import runpy
from pathlib import Path

import pytest

from ddetr_edu.attention import benchmark
from ddetr_edu.cli.bench_attention import BenchConfig, bench_attention

ROOT = Path(__file__).parents[2]
PROGRAM = runpy.run_path(str(ROOT / "benchmarks/readme_table.py"))


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


def test_the_readme_table_is_inserted_between_its_comments():
    results = json.loads((ROOT / "benchmarks/results/attention.json").read_text())
    table = PROGRAM["speed_table"](results)
    assert "| encoder | gaussian, 2 px |" in table and results["machine"]["date"] in table
    begin, end = PROGRAM["BEGIN"], PROGRAM["END"]
    once = PROGRAM["with_table"](f"above\n{begin}\nold\n{end}\nbelow\n", table)
    assert once == f"above\n{begin}\n{table}\n{end}\nbelow\n"
    assert PROGRAM["with_table"](once, table) == once
    with pytest.raises(ValueError, match="speed table"):
        PROGRAM["with_table"]("a README without comments", table)


def test_the_table_of_a_gpu_has_each_time_beside_ours():
    case = {
        "shape": "encoder",
        "locations": "gaussian",
        "dtype": "fp32",
        "accurate": True,
        "peak_MB": 82.4,
    }
    cases = [
        {**case, "implementation": name, "direction": direction, "median_us": us, "times_ours": x}
        for name, us, x in (("cuda", 161.4, 1.0), ("peer", 322.8, 2.0))
        for direction in ("forward", "backward", "both")
    ]
    cases += [{**row, "locations": "uniform"} for row in cases]
    cases[-7]["accurate"] = False  # the peer's, in both directions
    machine = {"gpu": "a GPU", "torch": "2.11.0+cu130", "date": "today"}
    lines = PROGRAM["gpu_table"]({"cases": cases, "machine": machine}).splitlines()
    assert lines[2] == "| encoder | fp32 | **ours** | 161 us | 161 us | 161 us | 82 MB |"
    assert lines[3] == (
        "| encoder | fp32 | peer (inaccurate) | 323 us (2x) | 323 us (2x) | 323 us (2x) | 82 MB |"
    )
    assert len(lines) == 6 and "a GPU, torch 2.11.0, today" in lines[5]


def test_the_readme_shows_the_committed_results():
    readme = (ROOT / "README.md").read_text()
    for name in ("attention", "shapes"):
        results = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        if name == "attention":
            updated = PROGRAM["with_table"](readme, PROGRAM["speed_table"](results))
        else:
            updated = PROGRAM["with_table"](
                readme, PROGRAM["shapes_table"](results), *PROGRAM["SHAPES"]
            )
        assert updated == readme, f"run benchmarks/readme_table.py: {name}.json has changed"


def test_the_results_page_shows_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    program = runpy.run_path(str(ROOT / "benchmarks/results_page.py"))
    page = (ROOT / "docs/results.md").read_text()
    assert page == program["page"](), "run benchmarks/results_page.py: a result has changed"
