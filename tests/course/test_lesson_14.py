"""Lesson 14: the steps of its ladder, what is counted of them, and its exercise in C++."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from notebook_reading import read

import ddetr_edu as dd
from ddetr_edu.attention.naive import ms_deform_attn_naive
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks, compiled_step, ladder, read_order, weighted_rows
from ddetr_edu.course.compiled_step import StepError, run_step, unavailable_reason
from ddetr_edu.course.cpp_source import show_cpp
from ddetr_edu.course.exercises.lesson_14_kernel import MISTAKES, kernel_with, my_kernel
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.models.preprocessing import make_batch, to_floats

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "csrc/ladder"
ALL_STEPS = {**ladder.STEPS, **ladder.THREADED}
compiled = pytest.mark.skipif(unavailable_reason() is not None, reason="there is no C++ compiler")
COUNTED = "eight heads of 32 channels"


def inputs_of(n, m, d, lq, p, shapes, margin=0.2):
    generator = torch.Generator().manual_seed(0)
    points = (n, lq, m, len(shapes), p)
    value = torch.randn(n, sum(h * w for h, w in shapes), m, d, generator=generator)
    locations = torch.rand(*points, 2, generator=generator) * (1 + 2 * margin) - margin
    return value, shapes, locations, torch.rand(points, generator=generator)


# The ladder.


def test_a_step_is_one_short_file():
    for path in FOLDER.glob("[0-9]*.cpp"):
        assert path.stem in ALL_STEPS
        assert len(path.read_text().splitlines()) < 80
    assert all((FOLDER / f"{name}.cpp").is_file() for name in ALL_STEPS)
    assert max(len(line) for p in FOLDER.iterdir() for line in p.read_text().splitlines()) <= 100


@compiled
@pytest.mark.parametrize("name", ALL_STEPS)
def test_each_step_computes_the_definition(name):
    cases = list(checks.kernel.cases().values())
    cases.append(inputs_of(2, 3, 45, 5, 7, [(5, 3), (1, 4), (2, 2)]))  # 45 = 32 + 8 + 5, 21 points
    for case in cases:
        ran = run_step(ladder.step_source(name), case, threads=2)
        torch.testing.assert_close(ran.output, ms_deform_attn_naive(*case), atol=2e-5, rtol=1e-4)


@compiled
def test_locations_that_are_no_numbers_reach_no_pixel():
    value, shapes, locations, weights = inputs_of(1, 2, 8, 4, 3, [(4, 5), (2, 3)])
    locations[0, 0, 0, 0] = torch.tensor([[torch.nan, 0.5], [torch.inf, 0.5], [0.5, -1e30]])
    for name in ALL_STEPS:
        ran = run_step(ladder.step_source(name), (value, shapes, locations, weights))
        expected = ms_deform_attn_naive(value, shapes, locations, weights)
        torch.testing.assert_close(ran.output, expected, atol=2e-5, rtol=1e-4)


def test_embedding_bag_computes_the_definition():
    for case in checks.kernel.cases().values():
        given = weighted_rows.ms_deform_attn_rows(*case)
        torch.testing.assert_close(given, ms_deform_attn_naive(*case), atol=2e-5, rtol=1e-4)


@compiled
def test_a_small_ladder_is_measured_and_a_wrong_step_is_left_out():
    inputs = inputs_of(1, 2, 32, 14, 4, [(3, 4), (1, 2)])
    threads = torch.get_num_threads()
    measured = ladder.measure_ladder(my_kernel(), inputs)
    assert torch.get_num_threads() == threads
    names = [rung.name for rung in measured.rungs]
    assert names[:2] == ["Python loops", "grid_sample"]
    assert names.index("yours") == names.index("3 geometry once") + 1
    assert names[-1] == "the library's kernel"
    for before, rung in zip(measured.rungs, measured.rungs[1:], strict=False):
        assert rung.error <= ladder.ALLOWED
        assert rung.gain == pytest.approx(before.milliseconds / rung.milliseconds)
        assert rung.total_gain == pytest.approx(measured.rungs[0].milliseconds / rung.milliseconds)
    wrong = kernel_with(("- 0.5f", "- 0.4f"))()
    measured = ladder.measure_ladder(wrong, inputs)
    assert "yours" not in [rung.name for rung in measured.rungs]
    assert "Your step is not in the table: yours is wrong" in measured.source


@compiled
def test_floors_are_measured():
    floors = ladder.measure_floors(inputs_of(1, 2, 32, 40, 4, [(8, 9), (2, 2)]))
    assert list(floors) == ["arrays once", "operations", "rows"]
    assert all(floor > 0 for floor in floors.values())


def test_the_shipped_figures_are_of_this_ladder():
    shipped = ladder.shipped_ladder()
    names = ["Python loops", "grid_sample", "embedding_bag", *ALL_STEPS.values()]
    assert [rung.name for rung in shipped.rungs] == [*names, "the library's kernel"]
    assert all(rung.error <= ladder.ALLOWED for rung in shipped.rungs)
    assert "measured on " in shipped.source
    lines = ladder.ladder_table(shipped).splitlines()
    assert len(lines) == len(shipped.rungs) + 2
    assert "benchmarks/results/ladder.json" in (ROOT / "pyproject.toml").read_text()


def test_an_unsolved_exercise_is_no_step():
    def stub():
        raise NotImplementedError

    assert ladder.own_source(stub) is None
    assert ladder.own_source(my_kernel) == my_kernel()


# What is counted.


def test_the_figure_has_the_numbers_of_the_text():
    tokens = [
        [y * 32 + x, y * 32 + x + 1, y * 32 + x + 32, y * 32 + x + 33]
        for x, y in [(20, 7), (3, 2), (11, 9), (27, 4)]
    ]
    changes = [
        read_order.line_changes(read_order.read_positions(tokens, 384, 2, 32, layout, loops))
        for layout in read_order.LAYOUTS
        for loops in read_order.LOOPS
    ]
    assert changes == [1023, 63, 511, 1023]


@compiled
def test_the_loops_read_in_the_order_that_is_drawn():
    height, width, heads, channels = 5, 7, 3, 4
    corners = [(1, 2), (0, 5), (3, 3)]  # (row, column) of the upper left one
    tokens = [
        [r * width + c, r * width + c + 1, (r + 1) * width + c, (r + 1) * width + c + 1]
        for r, c in corners
    ]
    locations = torch.tensor([[(c + 1) / width, (r + 1) / height] for r, c in corners])
    locations = locations[None, :, None, None, None].expand(1, 3, heads, 1, 1, 2).contiguous()
    value = torch.randn(1, height * width, heads, channels)
    inputs = value, [(height, width)], locations, torch.ones(1, 3, heads, 1, 1)
    for name, loops in (
        ("1_definition", "channels outside"),
        ("3_geometry_once", "channels inside"),
    ):
        ran = run_step(ladder.step_source(name), inputs, counting=True)
        expected = read_order.read_positions(tokens, height * width, heads, channels, loops=loops)
        np.testing.assert_array_equal(ran.value_reads, expected)


@compiled
def test_what_the_text_says_about_the_first_three_steps():
    case = checks.kernel.cases()[COUNTED]
    counted = []
    for name in ("1_definition", "2_channels_inside", "3_geometry_once"):
        ran = run_step(ladder.step_source(name), case, counting=True)
        jumps = read_order.count_jumps(ran.value_reads)
        counted.append((len(ran.value_reads), jumps, ran.location_reads / case[2].numel()))
    reads = counted[0][0]
    assert counted == [(reads, reads, 32), (reads, reads, 32), (reads, reads // 32, 1)]


def test_rows_that_are_read_side_by_side_do_not_jump():
    rows = np.array([0, 100, 200, 300])
    side_by_side = (rows + np.arange(16)[:, None]).ravel()
    assert read_order.count_jumps(side_by_side) == 4
    assert read_order.count_jumps(side_by_side[::-1]) == 64
    assert read_order.count_jumps(np.arange(40)) == 1
    assert read_order.line_changes(np.arange(40)) == 2


def test_how_many_samples_meet_in_a_pixel():
    detector = dd.load(shipped_checkpoint())
    images, mask = make_batch([to_floats(held_out_scenes()[18][0])], detector.resize)
    with torch.no_grad(), dd.capture(detector.model) as records:
        detector.model(images, mask)
    first = records[0]
    rows, coefs = weighted_rows.corner_rows(first.spatial_shapes, first.locations, first.weights)
    assert rows.shape == (1, 735, 4, 3, 4, 4)
    writers = torch.bincount(rows[coefs > 0], minlength=735 * 4).view(735, 4).float()
    means = [part.mean().item() for part in writers.split([560, 140, 35])]
    assert [round(mean) for mean in means] == [19, 63, 170]
    assert all(abs(mean % 1 - 0.5) > 0.02 for mean in means)  # none is about to tip over
    all_inside = [735 * 16 / pixels for pixels in (560, 140, 35)]
    assert all_inside == [21, 84, 336]
    assert means[2] / 336 == pytest.approx(1 / 2, abs=0.03)
    assert 1 - means[0] / 21 == pytest.approx(1 / 9, abs=0.01)
    mosts = [25 * round(part.max().item() / 25) for part in writers.split([560, 140, 35])]
    assert mosts == [25, 100, 350]
    added, last = np.zeros(735 * 4), np.zeros(735 * 4)
    np.add.at(added, rows.flatten().numpy(), coefs.flatten().double().numpy())
    last[rows.flatten().numpy()] += coefs.flatten().double().numpy()
    assert 0.0353 < last.sum() / added.sum() < 0.0447  # the lesson prints 4 %


def test_the_text_about_levels_and_intensity():
    areas = [height * width for height, width in ladder.LEVELS]
    assert sum(areas) == 5017
    assert areas[0] / sum(areas) == pytest.approx(0.75, abs=0.005)
    operations, row_bytes, array_bytes = checks.work.solution(1, 5017, 5017, 8, 4, 4, 32)
    assert operations / row_bytes == 0.5
    assert round(operations / array_bytes) == 9
    value, shapes, locations, weights = ladder.encoder_inputs()
    assert value.shape == (1, 5017, 8, 32)
    assert weights.shape == (1, 5017, 8, 4, 4)
    assert checks.work.solution(1, 6, 2, 2, 1, 3, 4) == [384, 768, 400]  # by hand


# The exercise in C++.


@compiled
def test_the_solution_passes(capsys):
    checks.kernel(my_kernel)
    printed = capsys.readouterr().out
    assert printed.startswith("passed: all 11 cases are right; of ")
    assert "each location is read once" in printed


@compiled
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[:30])
def test_each_mistake_is_named(mistake):
    source = my_kernel()
    assert all(old in source for old, _ in MISTAKES[mistake])
    passed, message, _ = checks.kernel.check(checks.kernel.mistakes[mistake])
    assert not passed
    assert message.endswith(f"it looks as if {mistake}")


LOOP = "for (int c = 0; c < s.channels; ++c) sum[c] += coef * corner[c];"
SIDE_BY_SIDE = """
#include "ladder.h"
static float at(const Number* row, int c) { return row ? float(row[c]) : 0.0f; }
void attend(const Sizes& s, const Number* value, const Number* locations, const Number* weights,
            float* output) {
  const int step = s.heads * s.channels, rows = s.images * s.queries * s.heads;
  for (int i = 0; i < rows * s.channels; ++i) output[i] = 0;
  for (int row = 0; row < rows; ++row)
    for (int point = 0; point < s.levels * s.points; ++point) {
      const int m = row % s.heads, n = row / s.heads / s.queries, l = point / s.points;
      const Number* where = locations + 2 * (row * s.levels * s.points + point);
      const float x = where[0] * s.width[l] - 0.5f, y = where[1] * s.height[l] - 0.5f;
      const float left = std::floor(x), top = std::floor(y), fx = x - left, fy = y - top;
      const float weight = weights[row * s.levels * s.points + point];
      const Number* corner[4];
      for (int k = 0; k < 4; ++k) {
        const int i = int(top) + k / 2, j = int(left) + k % 2;
        const bool inside = i >= 0 && i < s.height[l] && j >= 0 && j < s.width[l];
        const int token = n * s.tokens + s.start[l] + i * s.width[l] + j;
        corner[k] = inside ? value + token * step + m * s.channels : nullptr;
      }
      for (int c = 0; c < s.channels; ++c)
        output[row * s.channels + c] += weight * ((1 - fy) * (1 - fx) * at(corner[0], c) +
            (1 - fy) * fx * at(corner[1], c) + fy * (1 - fx) * at(corner[2], c) +
            fy * fx * at(corner[3], c));
    }
}
"""


@compiled
def test_right_answers_in_other_styles():
    backwards = "for (int l = s.levels - 1; l >= 0; --l) {"
    for answer in (
        lambda: SIDE_BY_SIDE,
        lambda: ladder.step_source("3_geometry_once"),
        kernel_with(("for (int l = 0; l < s.levels; ++l) {", backwards)),
        kernel_with((LOOP, f"if (coef != 0) {LOOP}")),
    ):
        result = checks.kernel.check(answer)
        assert result.passed, result.message


# A piece of the solution, and what makes it wrong.
CHANGES = [
    ("n * s.queries + q", "n + q"),
    ("(n * s.queries + q) * s.heads + m", "(n * s.queries + q) * s.heads"),
    ("output + row * s.channels", "output + row"),
    ("l < s.levels; ++l", "l < s.levels - 1; ++l"),
    ("p < s.points; ++p", "p < s.points - 1; ++p"),
    ("(row * s.levels + l) * s.points + p", "(row * s.levels + l) * s.points"),
    ("top + j < 0", "top + j < 1"),
    ("left + i < 0", "left + i < 1"),
    ("top + j >= height", "top + j > height"),
    ("left + i >= width", "left + i > width"),
    ("i ? x - left : 1 - (x - left)", "x - left"),
    ("j ? y - top : 1 - (y - top)", "1 - (y - top)"),
    ("weight * weight_x * weight_y", "weight * weight_x"),
    ("weight * weight_x * weight_y", "weight + weight_x * weight_y"),
    ("sum[c] += coef * corner[c]", "sum[c] = coef * corner[c]"),
    ("sum[c] += coef * corner[c]", "sum[c] += coef"),
    ("int(std::floor(y))", "int(std::ceil(y))"),
    ("j < 2; ++j", "j < 1; ++j"),
]


@compiled
@pytest.mark.parametrize(
    ("old", "new"), CHANGES, ids=[f"{new[:25]}-{i}" for i, (_, new) in enumerate(CHANGES)]
)
def test_changed_kernels_are_rejected(old, new):
    assert old in my_kernel()
    result = checks.kernel.check(kernel_with((old, new)))
    assert not result.passed
    assert "the compiler refuses" not in result.message


@compiled
def test_right_numbers_are_not_enough():
    slow = checks.kernel.check(lambda: ladder.step_source("1_definition")).message
    assert slow.startswith("not yet: all 11 cases are right, but not in order: of ")
    again = "const float y = locations[2 * point + 1] * height - 0.5f;"
    useless = f"for (int k = 0; k < 9; ++k) (void)float(locations[2 * point]);\n{again}"
    message = checks.kernel.check(kernel_with((again, useless))).message
    assert "and in order; but each location is read" in message
    hidden = "sum[c] += coef * reinterpret_cast<const float*>(corner)[c]"
    message = checks.kernel.check(kernel_with(("sum[c] += coef * corner[c]", hidden))).message
    assert "but only 0 of" in message
    twice = (
        "for (int k = 0; k < 3; ++k) for (int c = 0; c < s.channels; ++c) (void)float(corner[c]);"
    )
    message = checks.kernel.check(kernel_with((LOOP, f"{twice}\n{LOOP}"))).message
    assert "are enough" in message


def body(line: str):
    head, tail = my_kernel().split("  const int step", 1)
    return lambda: f"{head}  {line}\n  const int step{tail}"


@compiled
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("output[-1] = 0;", "it wrote outside the arrays, just before or after one of them"),
        ("float before = value[-3]; (void)before;", "it read outside the arrays, just before or"),
        (
            "output[1L << 40] = 1;",
            "it read or wrote outside the arrays: its process died (SIGSEGV)",
        ),
        ("Number sum_of_all = 1;", "Number is the type of what is read"),
        ("int n = 1", "the compiler refuses it: line "),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals have other names")
def test_what_goes_wrong_is_told(line, expected):
    result = checks.kernel.check(body(line))
    assert not result.passed
    assert expected in result.message


@compiled
def test_what_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(compiled_step, "TIMEOUT", 1)
    endless = body("for (volatile int i = 0; i < 1; ) {}")()
    with pytest.raises(StepError, match="did not end within 1 seconds"):
        run_step(endless, inputs_of(1, 1, 1, 1, 1, [(1, 1)]))


@compiled
def test_what_is_no_kernel_is_told():
    def stub():
        raise NotImplementedError  # put your answer here

    result = checks.kernel.check(stub)
    assert result.message.startswith("not attempted yet")
    assert not result.attempted
    assert "pass your function itself" in checks.kernel.check(my_kernel()).message
    assert (
        "None; a text with C++ was expected: is a `return` missing?"
        in checks.kernel.check(lambda: None).message
    )
    assert "ZeroDivisionError" in checks.kernel.check(lambda: 1 / 0).message
    assert "there is no function attend" in checks.kernel.check(lambda: "int x;").message


def test_conflicts_explains_every_wrong_word():
    for key, right in checks.conflicts.solution.items():
        for word in checks.conflicts.words:
            if word != right:
                assert checks.conflicts.against[key, word]
            passed, message, _ = checks.conflicts.check({**checks.conflicts.solution, key: word})
            assert passed == (word == right)
            assert passed or f'"{word}" is not it' in message


# Without a compiler.


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")


def test_without_a_compiler_the_exercise_is_not_judged(no_compiler):
    result = checks.kernel.check(my_kernel)
    assert not result.passed
    assert not result.attempted
    assert "not checked: this exercise needs a C++ compiler" in result.message
    assert "you may go on" in result.message


def test_without_a_compiler_the_figures_come_along(no_compiler):
    measured = ladder.measure_ladder(my_kernel())
    assert measured.rungs == ladder.shipped_ladder().rungs
    assert measured.source.startswith("no C++ compiler: there-is-no-such-compiler")
    assert "rows" not in ladder.measure_floors(inputs_of(1, 2, 32, 9, 2, [(3, 4)]))


def test_the_lesson_runs_without_a_compiler(tmp_path):
    """All its code, in a process that has no compiler and an empty cache."""
    notebook = read(ROOT / "lessons/14_cpu_kernel.ipynb")
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (tmp_path / "lesson.py").write_text("\n".join(cells), encoding="utf-8")
    environment = {
        **os.environ,
        "CXX": "there-is-no-such-compiler",
        "XDG_CACHE_HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [sys.executable, "lesson.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    first = ended.stdout.splitlines()[0]
    assert first.startswith("no C++ compiler: there-is-no-such-compiler")
    assert "These figures come along" in ended.stdout
    assert not list(tmp_path.rglob("ladder_*"))


# The sources.


def test_cpp_is_shown_with_its_name():
    shown = show_cpp("ladder/ladder.h", "row.h")
    markdown = shown._repr_markdown_()
    assert re.findall(r"<code>(.+?)</code>", markdown) == ["csrc/ladder/ladder.h", "csrc/row.h"]
    assert (ROOT / "csrc/row.h").read_text() in markdown
    assert "<details>" in markdown
    assert "<details open>" in show_cpp("row.h", opened=True)._repr_markdown_()
    assert repr(shown).startswith("// csrc/ladder/ladder.h\n")


def test_the_committed_figures_are_readable():
    figures = json.loads((ROOT / ladder.FIGURES).read_text())
    assert figures["machine"]["processor"]
    assert all(rung["milliseconds"] > 0 for rung in figures["rungs"])
