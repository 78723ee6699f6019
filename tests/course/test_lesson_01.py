"""Lesson 01: its exercises agree with the library and with torch, and its counts are right."""

import itertools
import math
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddetr_edu.analysis import attention_cost
from ddetr_edu.analysis.attention_cost import (
    attention_layer,
    crossing,
    implementations,
    kept_bytes,
    level_shapes,
    shortest_time,
    time_attention,
)
from ddetr_edu.course import checks, solutions

LESSON = Path(__file__).parents[2] / "lessons/01_why_a_few_points.ipynb"
NAMES = ["dense, stored", "dense, fused", "deformable, grid_sample", "deformable, kernel"]


def n_tokens(height: int, width: int) -> int:
    return sum(h * w for h, w in level_shapes(height, width))


def test_the_solutions_agree_with_torch_and_with_the_library():
    for arguments in checks.dense_attention.cases().values():
        expected = F.scaled_dot_product_attention(*arguments)
        torch.testing.assert_close(solutions.dense_attention(*arguments), expected)
    for arguments in checks.crossing.cases().values():
        assert crossing(*arguments) == pytest.approx(float(solutions.crossing(*arguments)))


def test_right_answers_in_other_styles():
    def all_pairs(spatial_shapes, n_heads, n_points):
        tokens = [
            (l, r, c) for l, (h, w) in enumerate(spatial_shapes) for r in range(h) for c in range(w)
        ]
        dense = len(list(itertools.product(range(n_heads), tokens, tokens)))
        points = itertools.product(range(n_heads), tokens, spatial_shapes, range(n_points))
        few = len(list(points))
        return torch.tensor([dense, few, dense * 32 // 8, few * (4 + 4 + 4)])

    def by_loops(query, key, value):
        output = np.zeros(query.shape)
        for n, q in itertools.product(range(query.shape[0]), range(query.shape[1])):
            scores = [float(query[n, q] @ k) / math.sqrt(len(k)) for k in key[n]]
            weights = [math.exp(score - max(scores)) for score in scores]
            for weight, v in zip(weights, value[n], strict=True):
                output[n, q] += weight / sum(weights) * v.numpy()
        return output

    def by_einsum(query, key, value):
        scores = torch.einsum("nqd,nsd->nqs", query, key) * query.shape[-1] ** -0.5
        exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
        return torch.einsum(
            "nqs,nsd->nqd", exponentials / exponentials.sum(-1, keepdim=True), value
        )

    def by_numpy(tokens, dense, deformable):
        order = np.argsort(tokens.numpy())
        x = np.log(tokens.numpy()[order])
        y = np.log(dense.numpy().min(0)[order]) - np.log(deformable.numpy().min(0)[order])
        if y[-1] < 0:
            return np.inf
        if (y >= 0).all():
            return 0
        k = np.nonzero(y < 0)[0][-1]
        return np.exp(np.interp(0, y[k : k + 2], x[k : k + 2]))

    for exercise, answer in [
        (checks.attention_cost, all_pairs),
        (checks.dense_attention, by_loops),
        (checks.dense_attention, by_einsum),
        (checks.crossing, by_numpy),
        (checks.crossing, crossing),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


def test_infinity_is_not_accepted_for_any_number_nor_any_number_for_infinity():
    def never_infinite(*arguments):
        return min(float(solutions.crossing(*arguments)), 1e9)

    message = checks.crossing.check(never_infinite).message
    assert "dense attention is faster at every size" in message
    assert "expected inf, got 1000000000" in message
    assert not checks.crossing.check(lambda *a: math.inf).passed


def test_the_counts_that_the_text_relies_on():
    shapes = level_shapes(800, 1200)
    assert shapes == [(100, 150), (50, 75), (25, 38), (13, 19)]
    assert n_tokens(800, 1200) == 19947
    dense, deformable, dense_bytes, deformable_bytes = solutions.attention_cost(shapes, 8, 4)
    assert dense / deformable == pytest.approx(1246.7, abs=0.05)
    assert dense_bytes == 8 * 19947**2 * 4 == pytest.approx(12.7e9, rel=0.01)
    assert deformable_bytes == 8 * 19947 * 16 * (4 + 8)
    assert 20.9 < 19947 / 950 < 21.1
    assert 0.33 < deformable / 8 / 950**2 < 0.36, "a third of DETR's pairs"
    assert n_tokens(32, 48) == 33
    assert deformable / 8 / 3 > 300 * 300, "the decoder's self-attention"


def test_dense_attention_keeps_its_weights_unless_it_is_fused():
    """Of the stored weights nothing else grows with the square of the number of tokens."""
    sizes = [(32, 48), (64, 96), (128, 192)]
    for height, width in sizes:
        s = n_tokens(height, width)
        weights = 8 * s * s * 4
        assert (kept_bytes("dense, stored", height, width) - weights) % s == 0
        assert kept_bytes("dense, stored", height, width) - weights <= 6200 * s
    for name in implementations()[1:]:
        per_token = [kept_bytes(name, *size) / n_tokens(*size) for size in sizes]
        assert per_token == pytest.approx([per_token[-1]] * 3, rel=0.01), name


def test_without_a_compiler_the_cells_that_are_compared_print_the_same():
    notebook = nbformat.read(LESSON, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith("# NBVAL_IGNORE_OUTPUT"):
            assert "implementations" not in cell.source, cell.id
            assert "deformable, kernel" not in cell.source, cell.id
            assert not any("kernel" in output.get("text", "") for output in cell.outputs), cell.id


def test_a_kernel_keeps_less_than_grid_sample():
    if "deformable, kernel" not in implementations():
        pytest.skip("no compiler")
    s = n_tokens(64, 96)
    kept = {name: kept_bytes(name, 64, 96) for name in NAMES}
    # The value and the locations and weights of 128 points, and the inputs of the linear layers.
    assert kept["deformable, kernel"] > (256 + 3 * 128) * 4 * s
    assert kept["deformable, grid_sample"] > 4 * kept["deformable, kernel"]
    assert kept["deformable, kernel"] < kept["dense, fused"]


def test_shapes_alone_give_the_same_count(monkeypatch):
    by_shape = kept_bytes("dense, stored", 48, 72)
    monkeypatch.setattr(
        attention_cost, "attention_layer", lambda name, h, w, device: attention_layer(name, h, w)
    )
    assert kept_bytes("dense, stored", 48, 72) == by_shape


def test_parameters_and_shared_memory_do_not_count_twice(monkeypatch):
    linear = torch.nn.Linear(5, 3)
    x = torch.zeros(7, 5, requires_grad=True)
    layer = attention_cost.Layer(linear, lambda: linear(x) + linear(x[:4]).sum(), 7)
    monkeypatch.setattr(attention_cost, "attention_layer", lambda *arguments: layer)
    assert kept_bytes("dense, fused", 1, 1) == 7 * 5 * 4


@pytest.mark.parametrize("name", NAMES)
def test_all_implementations_update_every_token(name):
    if name not in implementations():
        pytest.skip("no compiler")
    layer = attention_layer(name, 33, 50)
    assert layer.n_tokens == n_tokens(33, 50)
    assert layer.run().shape == (1, layer.n_tokens, 256)


def test_implementations_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    calls = []

    def fake(run):
        calls.append(run)
        return float(len(calls))

    monkeypatch.setattr(attention_cost, "shortest_time", fake)
    monkeypatch.setattr(attention_cost, "MAX_STORED_TOKENS", 50)
    tokens, times = time_attention([(32, 48), (48, 72)], rounds=3)
    assert tokens.tolist() == [33, 77]
    each_turn = 2 * len(times) - 1  # the stored weights of the second image are left out
    assert len(calls) == 4 * each_turn
    assert times["dense, stored"].isnan().tolist() == [[False, True]] * 3
    assert times["dense, fused"].shape == (3, 2)
    assert min(of_name[:, 0].min().item() for of_name in times.values()) == each_turn + 1
    assert (times["dense, fused"].diff(dim=0) == each_turn).all()


def test_a_short_call_is_repeated_and_its_shortest_time_counts(monkeypatch):
    moments = iter([0.0, 0.0, 0.004, 0.005, 0.007, 0.008, 0.011])  # started; before, after; ...
    monkeypatch.setattr(attention_cost, "clock", lambda: lambda: next(moments))
    calls = []
    assert shortest_time(lambda: calls.append(1)) == pytest.approx(2.0)
    assert len(calls) == 3


def test_with_one_thread_other_programs_do_not_count(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(attention_cost.os, "name", "posix")
    assert shortest_time(lambda: time.sleep(0.001)) < 1  # asleep, a process has no processor
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert attention_cost.clock() is time.perf_counter
