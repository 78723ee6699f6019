"""Lesson 15: the simulated warp, its puzzles in other styles, the trace, the figures of a GPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.kernels.build import BuildError
from ddetr_edu.course import checks, gpu_figures
from ddetr_edu.course import traced_example as example
from ddetr_edu.course.kernel_trace import Events, Step, run_kernel_on_cpu, steps_of_warp
from ddetr_edu.course.puzzle import Puzzle
from ddetr_edu.course.warp import Array, Score, Warp

ROOT = Path(__file__).parents[2]
PUZZLES = {name: e for name, e in vars(checks).items() if isinstance(e, Puzzle)}
MISTAKES = [(name, mistake) for name, e in PUZZLES.items() for mistake in e.mistakes]


# The simulated warp.


def numbers(n=256):
    return Array("numbers", torch.arange(float(n)))


@pytest.mark.parametrize(
    ("index", "sectors"),
    [
        (lambda i: i, 4),
        (lambda i: i + 1, 5),
        (lambda i: 2 * i, 8),
        (lambda i: 8 * i, 32),
        (lambda i: i // 8, 1),
        (lambda i: 64 * (i // 8) + i % 8, 4),
        (lambda i: 31 - i, 4),
        (lambda i: 7, 1),
    ],
)
def test_sectors_are_counted_once(index, sectors):
    warp = Warp()
    read = warp.load(numbers(), index(warp.lane))
    assert warp.score == Score(sectors_read=sectors)
    assert read.tolist() == torch.as_tensor(index(warp.lane)).expand(32).tolist()
    target = Array("target", torch.zeros(256), is_output=True)
    if len(read.unique()) == 32:
        warp.store(target, index(warp.lane), warp.lane)
        assert warp.score.sectors_written == sectors


@pytest.mark.parametrize(("factor", "rounds"), [(1, 1), (2, 2), (3, 1), (8, 8), (32, 32), (33, 1)])
def test_banks_deliver_one_number_a_round(factor, rounds):
    warp = Warp()
    tile = warp.shared(33 * 32)
    assert warp.load(tile, warp.lane).isnan().all()
    before = warp.score.shared_rounds
    warp.store(tile, factor * warp.lane, warp.lane)
    assert warp.score.shared_rounds - before == rounds
    assert warp.load(tile, factor * warp.lane).tolist() == warp.lane.tolist()
    before = warp.score.shared_rounds
    warp.load(tile, 0)  # one number for all
    assert warp.score.shared_rounds - before == 1


def test_masked_lanes_do_nothing():
    warp = Warp()
    mask = warp.lane < 3
    assert warp.load(numbers(8), warp.lane + 2, mask).tolist() == [2.0, 3.0, 4.0] + 29 * [0]
    target = Array("target", torch.zeros(2), is_output=True)
    warp.atomic_add(target, warp.lane % 2, 1.0, mask)
    assert target.values.tolist() == [2, 1]
    assert warp.score == Score(sectors_read=1, additions=3)
    warp.load(numbers(), warp.lane, torch.zeros(32, dtype=torch.bool))
    assert warp.score == Score(sectors_read=1, additions=3)


def test_lanes_exchange_numbers():
    warp = Warp()
    assert warp.shuffle_xor(warp.lane, 5).tolist() == [i ^ 5 for i in range(32)]
    assert warp.shuffle(10 * warp.lane, 31 - warp.lane).tolist() == [
        310 - 10 * i for i in range(32)
    ]
    assert warp.shuffle(warp.lane, 7).tolist() == 32 * [7]
    assert warp.score == Score(shuffles=3)
    assert str(warp.score) == "3 (shuffles 3)" and str(Score()) == "0"


def test_corners_are_those_of_the_definition():
    warp, (height, width) = Warp(), (5, 3)
    generator = torch.Generator().manual_seed(0)
    x, y = 1.6 * torch.rand(2, 32, generator=generator, dtype=torch.float64) - 0.3
    value = torch.rand(1, height * width, 1, 2, generator=generator, dtype=torch.float64)
    pixels, weights = warp.corners(x, y, (height, width))
    rows = torch.where(pixels[..., None] >= 0, value[0, pixels.clamp(min=0), 0], 0)
    locations = torch.stack([x, y], -1)[None, :, None, None, None]
    ones = torch.ones(1, 32, 1, 1, 1, dtype=torch.float64)
    expected = ms_deform_attn(value, [(height, width)], locations, ones, backend="naive")
    torch.testing.assert_close((weights[..., None] * rows).sum(0), expected[0])
    assert (pixels < 0).any() and warp.score == Score(instructions=20)


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (lambda w, a, o: w.load(a, 8 * w.lane), IndexError, "lane 4 reads a[32], but there are on"),
        (lambda w, a, o: w.load(a, w.lane - 1), IndexError, "lane 0 reads a[-1]"),
        (lambda w, a, o: w.store(o, w.lane // 2, 0), ValueError, "lanes 0 and 1 write o[0] at the"),
        (lambda w, a, o: w.store(a, w.lane, 0), TypeError, "a is an input"),
        (lambda w, a, o: w.load(a, w.lane / 2), TypeError, "must be a whole number"),
        (lambda w, a, o: w.load(a, w.lane, w.lane), TypeError, "must be True or False"),
        (lambda w, a, o: w.load(a, torch.arange(8)), ValueError, "index has shape (8,)"),
        (lambda w, a, o: w.shuffle(w.lane, w.lane + 1), IndexError, "lane 31 asks lane 32"),
        (lambda w, a, o: w.atomic_add(w.shared(4), 0, 1), TypeError, "for global memory"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(kernel, error, message):
    arrays = Array("a", torch.zeros(32)), Array("o", torch.zeros(32), is_output=True)
    with pytest.raises(error) as caught:
        kernel(Warp(), *arrays)
    assert message in str(caught.value)


# The puzzles.


@pytest.mark.parametrize("name", PUZZLES)
def test_the_solution_passes_and_says_its_score(name):
    passed, message, _ = PUZZLES[name].check(PUZZLES[name].solution)
    assert passed
    first, yours, best = message.splitlines()
    assert first.startswith("passed: all ")
    assert yours.replace("your score:", "").split() == best.replace("allowed:", "").split()


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{n}-{m[:30]}" for n, m in MISTAKES])
def test_each_mistake_is_named(name, mistake):
    passed, message, _ = PUZZLES[name].check(PUZZLES[name].mistakes[mistake])
    assert not passed
    assert message.endswith(f"it looks as if {mistake}")


@pytest.mark.parametrize("name", PUZZLES)
def test_puzzles_have_enough_mistakes_and_cases(name):
    puzzle = PUZZLES[name]
    assert len(puzzle.mistakes) >= 6 and len(puzzle.cases()) >= 7
    kept = [repr(arguments) for arguments in puzzle.cases().values()]
    assert name == "sum_terms" or len(set(kept)) == len(kept), "no two cases have the same sizes"


def test_what_the_solutions_write():
    for name, expected in {
        "copy_row": lambda source, target, n: source.values,
        "transpose": lambda source, target, rows, columns: source.values.view(rows, columns).T,
        "sum_row": lambda source, target, n: source.values.sum()[None],
        "sum_terms": lambda source, target, t: source.values.view(t, 4, 8).sum(2).T,
        "scatter_add": lambda pixels, amounts, target, n: target.values.clone().index_add_(
            0, pixels.values, amounts.values
        ),
        "warp_attention": lambda value, locations, weights, output, shape, p: ms_deform_attn(
            value.values.view(1, -1, 1, 8),
            [shape],
            locations.values.view(1, 4, 1, 1, p, 2),
            weights.values.view(1, 4, 1, 1, p),
            backend="naive",
        ),
    }.items():
        for warp, *arguments in PUZZLES[name].cases().values():
            wanted = expected(*arguments).flatten()
            PUZZLES[name].solution(warp, *arguments)
            (output,) = (a for a in arguments if isinstance(a, Array) and a.is_output)
            torch.testing.assert_close(output.values, wanted)


def test_right_answers_in_other_styles():
    def copy_backwards(warp, source, target, n):
        first = (n - 1) // 32 * 32
        while first >= 0:
            index = np.arange(first, first + 32)
            warp.store(target, index, warp.load(source, index, index < n).numpy(), index < n)
            first -= 32

    def sum_downwards(warp, source, target, n):
        index = warp.lane.clone()
        total = warp.load(source, index, index < n)
        while (index := index + 32)[0] < n:
            total += warp.load(source, index, index < n)
        for k in range(5):
            total = total + warp.shuffle(total, (warp.lane + 2**k) % 32)
        warp.atomic_add(target, 0, total, warp.lane == 7)

    def transpose_by_columns(warp, source, target, rows, columns):
        tile = warp.shared(33 * 32)
        lane = warp.lane
        for tile_number in range(rows * columns // 1024):
            down, right = divmod(tile_number, columns // 32)
            for r in range(32):
                row = warp.load(source, (32 * down + r) * columns + 32 * right + lane)
                warp.store(tile, 33 * lane + r, row)  # turned while it is written
            for c in range(32):
                at = (32 * right + c) * rows + 32 * down + lane
                warp.store(target, at, warp.load(tile, 33 * c + lane))

    for puzzle, answer in [
        (checks.copy_row, copy_backwards),
        (checks.sum_row, sum_downwards),
        (checks.transpose, transpose_by_columns),
    ]:
        result = puzzle.check(answer)
        assert result.passed, result.message


def test_a_right_but_costly_answer_is_shown_both_scores():
    def lane_by_lane(warp, source, target, n):
        for i in range(n):
            warp.store(target, i, warp.load(source, i, warp.lane == i % 32), warp.lane == i % 32)

    message = checks.copy_row.check(lane_by_lane).message
    assert "all numbers are right, but this costs too much" in message
    assert "your score: 64 (sectors read 32, sectors written 32)" in message
    assert "allowed:    8 (sectors read 4, sectors written 4)" in message


def test_what_torch_can_do_and_a_warp_cannot_does_not_pass():
    def sum_over_lanes(warp, source, target, n):
        total = torch.zeros(32)
        for first in range(0, n, 32):
            index = first + warp.lane
            total = total + warp.load(source, index, index < n)
        warp.store(target, 0, total.sum(), warp.lane == 0)

    def sum_in_view(warp, source, target, n_terms):
        terms = torch.stack([warp.load(source, 32 * t + warp.lane) for t in range(n_terms)])
        sums = terms.view(n_terms, 4, 8).sum(2).T.flatten()
        at = warp.lane % (4 * n_terms)
        warp.store(target, at, sums[at], warp.lane < 4 * n_terms)

    def index_lanes(warp, value, locations, weights, output, shape, n_points):
        group, channel = warp.lane // 8, warp.lane % 8
        total = torch.zeros(32)
        for p in range(n_points):
            if p % 8 == 0:
                at = group * n_points + p + channel
                exists = p + channel < n_points
                x = warp.load(locations, 2 * at, exists)
                y = warp.load(locations, 2 * at + 1, exists)
                weight = warp.load(weights, at, exists)
                pixels, coefs = warp.corners(x, y, shape)
            for k in range(4):
                lane = group * 8 + p % 8
                pixel, coef = pixels[k][lane], (coefs[k] * weight)[lane]
                read = warp.load(value, pixel * 8 + channel, pixel >= 0)
                total = total + coef * read
        warp.store(output, warp.lane, total)

    def corners_by_hand(warp, value, locations, weights, output, shape, n_points):
        group, channel = warp.lane // 8, warp.lane % 8
        total = torch.zeros(32)
        for p in range(n_points):
            at = group * n_points + p
            column = warp.load(locations, 2 * at) * shape[1] - 0.5
            row = warp.load(locations, 2 * at + 1) * shape[0] - 0.5
            weight = warp.load(weights, at)
            for r in (row.floor(), row.floor() + 1):
                for c in (column.floor(), column.floor() + 1):
                    coef = weight * (1 - (row - r).abs()) * (1 - (column - c).abs())
                    inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
                    index = 8 * (r * shape[1] + c).long() + channel
                    total = total + coef * warp.load(value, index, inside)
        warp.store(output, warp.lane, total)

    for puzzle, answer, objection in [
        (checks.sum_row, sum_over_lanes, "without a shuffle"),
        (checks.sum_terms, sum_in_view, "without a shuffle"),
        (checks.warp_attention, index_lanes, "without a shuffle"),
        (checks.warp_attention, corners_by_hand, "not found by `warp.corners`"),
    ]:
        result = puzzle.check(answer)
        assert not result.passed
        assert objection in result.message, result.message


def test_arrays_are_read_and_written_by_the_warp_alone():
    def with_torch(warp, source, target, rows, columns):
        target.values[:] = source.values.view(rows, columns).T.flatten()

    message = checks.transpose.check(with_torch).message
    assert "memory was used without paying for it" in message and "your score: 0" in message


def test_a_mistake_is_named_at_any_score_but_for_no_other_error():
    def all_lanes_forget_the_weights(warp, value, locations, weights, output, shape, n_points):
        total = torch.zeros(32)
        for p in range(n_points):
            at = warp.lane // 8 * n_points + p
            x, y = (warp.load(locations, 2 * at + k) for k in range(2))
            for pixel, coef in zip(*warp.corners(x, y, shape), strict=True):
                number = warp.load(value, pixel * 8 + warp.lane % 8, pixel >= 0)
                total = total + coef * number
        warp.store(output, warp.lane, total)

    def misspelt(warp, *arguments):
        raise NameError("name 'lnae' is not defined")

    message = checks.warp_attention.check(all_lanes_forget_the_weights).message
    assert message.endswith("it looks as if the attention weights were left out")
    for puzzle in PUZZLES.values():
        message = puzzle.check(misspelt).message
        assert "NameError" in message and "it looks as if" not in message


def test_a_cheaper_answer_is_told_so():
    def two_numbers_in_one(warp, value, locations, weights, output, shape, n_points):
        first, channel = warp.lane // 8 * 8, warp.lane % 8
        total = torch.zeros(32)
        for begin in range(0, n_points, 8):
            exists = begin + channel < n_points
            at = warp.lane // 8 * n_points + begin + channel
            x, y = (warp.load(locations, 2 * at + k, exists) for k in range(2))
            weight = warp.load(weights, at, exists)
            pixels, coefs = warp.corners(x, y, shape)
            for p in range(min(8, n_points - begin)):
                for pixel, coef in zip(pixels, coefs, strict=True):
                    both = warp.shuffle(4 * (pixel + 1.0) + coef * weight, first + p)
                    pixel = (both // 4).long() - 1
                    number = warp.load(value, pixel * 8 + channel, pixel >= 0)
                    total = total + both % 4 * number
        warp.store(output, warp.lane, total)

    result = checks.warp_attention.check(two_numbers_in_one)
    assert result.passed and result.message.endswith("costs less than the solution in this lesson")


def test_a_stub_is_not_attempted_and_an_input_is_not_written():
    def my_copy_row(warp, source, target, n):
        """(warp, source (n,), target (n,), n): copies source to target"""
        raise NotImplementedError  # put your answer here

    assert not checks.copy_row.check(my_copy_row).attempted
    wrong = checks.copy_row.check(lambda warp, s, t, n: warp.store(s, warp.lane, 0, warp.lane < n))
    assert "source is an input; nothing may be written to it" in wrong.message


# The trace.


@pytest.fixture(scope="module")
def traced():
    try:
        return example.traced_now()
    except BuildError as reason:
        pytest.skip(str(reason))


def test_the_recording_is_what_the_kernel_does(traced):
    recorded = example.read_recording(traced.source)
    assert torch.equal(recorded.additions, traced.additions)
    assert recorded._replace(additions=None) == traced._replace(additions=None)


def test_the_kernel_computes_the_attention(traced):
    inputs = example.example_inputs()
    leaves = [t.clone().requires_grad_() for t in (inputs.value, inputs.locations, inputs.weights)]
    output = ms_deform_attn(
        leaves[0], inputs.spatial_shapes, leaves[1], leaves[2], backend="grid_sample"
    )
    grads = torch.autograd.grad(output, leaves, inputs.grad_output)
    forward, _ = run_kernel_on_cpu("forward", inputs)
    backward, _ = run_kernel_on_cpu("backward", inputs)
    torch.testing.assert_close(forward["output"], output.detach(), rtol=1e-5, atol=1e-4)
    for name, expected in zip(("value", "locations", "weights"), grads, strict=True):
        torch.testing.assert_close(backward[f"grad_{name}"], expected, rtol=1e-4, atol=1e-3)


def test_the_steps_are_those_that_the_text_tells():
    """Two reads of points, 8 points with 4 corners each, one write; groups of 8 lanes."""
    steps = example.read_recording("").steps
    assert [s.array for s in steps[:2]] == ["locations", "weights"] and steps[-1].array == "output"
    assert len(steps) == 2 + 8 * 4 + 1
    assert [o // 256 for o in steps[-1].offsets[::8]] == [20, 21, 22, 23]
    for step in steps[2:-1]:
        assert step.access == "read" and step.array in ("value", "") and step.bytes == 16
        for group in range(4):
            offsets = step.offsets[8 * group : 8 * group + 8]
            begin = offsets[0]
            idle = begin < 0
            assert offsets == 8 * [-1] if idle else [begin + 16 * k for k in range(8)]
            assert idle or begin % 256 == 128, "head 1 of a token"
    assert any(-1 in step.offsets and max(step.offsets) >= 0 for step in steps)
    reads_of_level_1 = [len(s.sectors()) for s in steps if max(s.offsets) >= 128 * 256]
    assert max(reads_of_level_1[:-1]) < 16 == max(len(s.sectors()) for s in steps)


def test_there_are_far_fewer_additions_than_corners():
    recording, corners = (
        example.read_recording(""),
        example.corners_on_tokens(example.example_inputs()),
    )
    assert corners.max() == 80 and recording.additions.max() == 10
    assert ((recording.additions > 0) == (corners > 0)).all()
    assert (recording.additions <= corners).all()
    assert 6.5 < corners.sum() / recording.additions.sum() < 7.5
    assert 9.5 < recording.sectors_asked / recording.sectors_distinct < 11


def test_lanes_that_skip_a_read_stay_in_step():
    rows = []  # address, block, thread, waits, access, bytes
    for lane in range(32):
        rows += [[0 if lane < 8 else 1000 + 4 * lane, 0, lane, 1, 0, 4], [2000, 0, lane, 1, 0, 4]]
        rows += [[3000 + 4 * lane, 0, lane, 2, 1, 4]]
    events = Events(
        torch.tensor(rows), {"a": 1000, "b": 2000, "c": 3000}, {"a": 1999, "b": 2999, "c": 3999}
    )
    first, second, third = steps_of_warp(events, block=0, warp=0)
    assert first == Step("read", "a", [-1] * 8 + [4 * lane for lane in range(8, 32)], 4)
    assert second == Step("read", "b", [0] * 32, 4) and second.sectors() == {0}
    assert third.access == "write" and len(third.sectors()) == 4
    assert steps_of_warp(events, block=1, warp=0) == []


def test_without_a_compiler_there_is_a_recording(monkeypatch):
    def fail():
        raise BuildError("no C++ compiler")

    monkeypatch.setattr(example, "traced_now", fail)
    recording = example.trace_example()
    assert len(recording.steps) == 35 and "no C++ compiler" in recording.source


# The figures of a GPU.


def test_the_figures_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks/results/gpu.json").read_text())
    copied = json.loads((ROOT / gpu_figures.FILE).read_text())
    assert copied == gpu_figures.extract(results, copied["sizes"])
    sizes = {"N": 2, "M": 8, "D": 32, "points": 16, "encoder": 19947, "decoder": 300}
    assert copied["sizes"] == sizes
    figures = gpu_figures.read_gpu_figures()
    (case,) = (
        c
        for c in results["cases"]
        if (c["shape"], c["locations"], c["dtype"], c["implementation"], c["direction"])
        == ("encoder", "gaussian", "fp32", "official", "backward")
    )
    assert figures.time("encoder", "backward", "official") == case["median_us"]


def test_what_the_text_says_of_the_figures():
    gpu = gpu_figures.read_gpu_figures()
    rows = 4 * gpu.sizes["N"] * gpu.sizes["encoder"] * gpu.sizes["M"] * gpu.sizes["points"]
    forward, backward = (gpu.time("encoder", d) for d in ("forward", "backward"))
    gathering = rows * 128 / (gpu.ceilings["gather_TB_s"] * 1e6)
    adding = rows * 32 / (gpu.ceilings["adds_G_s"] * 1e3)
    assert 0.45 < gathering / forward < 0.55, "half of its time"
    assert round(100 * adding / backward) == 132
    sectors = {key: gpu.ceilings[f"{key}_TB_s"] / 32 for key in ("gather", "gather_L2", "copy")}
    assert 0.9 < 1e3 * sectors["gather"] / gpu.ceilings["adds_G_s"] < 1.1
    assert 2.7 < sectors["gather"] / sectors["gather_L2"] < 3.3
    assert 6.7 < sectors["gather"] / sectors["copy"] < 7.7
    samples = rows // 4 * 32 * 4 / (gpu.ceilings["copy_TB_s"] * 1e6)
    assert 3.5 < 4 * samples / forward < 4, "nearly four times as long as the whole forward pass"
    assert 60 < gpu.sizes["encoder"] / gpu.sizes["decoder"] < 70
    assert forward / gpu.time("decoder", "forward") < 25, "not nearly 66 times less time"
    slope = (forward - gpu.time("decoder", "forward")) / (19947 - 300)
    assert gpu.time("decoder", "forward") - 300 * slope > 0.6 * gpu.time("decoder", "forward")
    triton = [gpu.time("encoder", d, "deformops-triton") for d in ("forward", "backward")]
    assert 1.15 < triton[0] / forward < 1.25 and 1.8 < triton[1] / backward < 2
