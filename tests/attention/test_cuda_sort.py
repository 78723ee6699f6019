"""Value's gradient: a block sorts the corners of its points by pixel, and adds each pixel once.

The source is run on a CPU by host_cuda.h, as in test_cuda_host.py.
"""

import ctypes
import math

import pytest
import torch
from host_cuda import (
    assert_agree,
    attention,
    build_host_library,
    output_and_gradients,
    run_on_the_host,
)

MAP = [(8, 16)]  # as many pixels as there are slots for a level
N_TOKENS = 8 * 16
DTYPES = pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)]
)
# As many queries as tokens, as in an encoder, or others.
QUERIES = pytest.mark.parametrize("n_queries", [N_TOKENS, 150])


@pytest.fixture(autouse=True)
def on_the_host(host_library, monkeypatch):
    run_on_the_host(monkeypatch, host_library)


def inputs_at(problem, pixels, dtype=torch.float64, levels=MAP, channels=16, **sizes):
    """Inputs whose points are at `pixels`: (x, y), 0 at the centre of the first pixel.

    pixels: anything that can be expanded to (N, Lq, M, L, P, 2).
    """
    sizes = {"n_images": 1, "n_heads": 1, "n_points": 8, **sizes}
    value, levels, locations, weights = problem(dtype, channels=channels, levels=levels, **sizes)
    extent = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
    wanted = ((torch.as_tensor(pixels, dtype=torch.float64) + 0.5) / extent).to(dtype)
    return value, levels, wanted.expand_as(locations).contiguous(), weights


@QUERIES
@DTYPES
@pytest.mark.parametrize("pixel", [(-0.6, -0.3), (15.4, 7.4), (3.2, 4.9)])
def test_all_points_on_one_pixel(problem, n_queries, dtype, tolerance, pixel):
    """More than a thousand points: a block's list is one segment, or four."""
    assert_agree(inputs_at(problem, pixel, dtype, n_queries=n_queries), tolerance)


@pytest.mark.parametrize("n_queries", [128, 7])
def test_all_points_on_different_pixels(problem, n_queries):
    """The only corner of each point is the last pixel of a level, and each is a head's only one."""
    levels = [(1, 1)] * 16
    inputs = inputs_at(
        problem, (0.4, 0.3), levels=levels, n_points=1, n_heads=8, n_queries=n_queries
    )
    assert_agree(inputs, 1e-12)
    # A map with room for a pixel for each corner.
    number = torch.arange(128)
    pixels = torch.stack([number % 16 * 2.0 + 0.3, number // 16 * 2.0 + 0.6], -1)
    pixels = pixels.view(1, 128, 1, 1, 1, 2)[:, :n_queries]
    assert_agree(
        inputs_at(problem, pixels, levels=[(16, 32)], n_points=1, n_queries=n_queries), 1e-12
    )


@QUERIES
def test_different_pixels_that_share_a_slot(problem, n_queries):
    """Rows 8 apart, columns 16 apart, levels 2 apart; they take turns in the list."""
    shared = [(x, y) for x in (2.3, 18.3, 34.3) for y in (1.6, 9.6, 17.6)]
    levels = [(20, 40), (2, 2), (20, 40)]
    inputs = inputs_at(problem, shared, levels=levels, n_points=9, n_queries=n_queries)
    assert_agree(inputs, 1e-12)


@QUERIES
@pytest.mark.parametrize("missing", [slice(None), slice(0, 64), slice(1, None), slice(0, 1)])
def test_queries_whose_points_all_lie_outside(problem, n_queries, missing):
    """All of them, whole blocks, or all but one: a block's list may be empty."""
    value, levels, locations, weights = problem(
        levels=MAP, channels=16, n_heads=2, n_points=4, n_queries=n_queries
    )
    locations[:, missing] = torch.tensor([-3.0, 7.0], dtype=torch.float64)
    results = output_and_gradients(attention, value, levels, locations, weights)
    expected = output_and_gradients("grid_sample", value, levels, locations, weights)
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-11, atol=1e-12)


@QUERIES
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nothing_that_is_not_read_matters(problem, n_queries, number):
    """What fills up a list reads the first pixel and the first query, and must not use them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, n_queries, 1, 1, 8, 2, generator=generator, dtype=torch.float64) * 4 + 2
    pixels[:, 0] = -3  # the first query reads nothing
    value, levels, locations, weights = inputs_at(problem, pixels, n_queries=n_queries, channels=32)
    clean = output_and_gradients(attention, value, levels, locations, weights)
    read = clean[1].abs().sum((0, 2, 3)) > 0
    assert not read[0] and read.sum() == 5 * 5
    value[:, ~read] = number
    unread = value.clone().requires_grad_()
    others = [locations.clone().requires_grad_(), weights.clone().requires_grad_()]
    output = attention(unread, levels, *others)
    generator = torch.Generator().manual_seed(1)  # as in output_and_gradients
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    grad[:, 0] = number
    results = [output.detach(), *torch.autograd.grad(output, [unread, *others], grad)]
    for result, reference in zip(results, clean, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-12, atol=1e-13)


def test_a_gradient_that_is_not_a_number_stays_where_it_belongs(problem):
    """With the first query's gradient NaN, exactly the pixels that it reads get NaN."""
    pixels = torch.tensor([4.5, 3.5], dtype=torch.float64).repeat(1, 64, 1, 1, 8, 1)
    pixels[:, 1:, ..., 0] = 9.5
    value, levels, locations, weights = inputs_at(problem, pixels, n_queries=64)
    value.requires_grad_()
    output = attention(value, levels, locations, weights)
    grad = torch.ones_like(output)
    grad[:, 0] = math.nan
    (grad_value,) = torch.autograd.grad(output, value, grad)
    found = grad_value.isnan().all(-1).view(8, 16).nonzero().tolist()
    assert found == [[row, column] for row in (3, 4) for column in (4, 5)]
    assert grad_value.isnan().any(-1).sum() == 4 and grad_value.isfinite()[0, 3 * 16 + 9].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_heads", [1, 3, 4])
def test_a_16_bit_gradient_is_a_sum_of_32_bits(problem, dtype, n_heads):
    """Two thousand equal numbers; a 16-bit sum would stop growing at 2048 or 256 of them."""
    value, levels, locations, weights = inputs_at(
        problem,
        (3.0, 4.0),
        torch.float32,
        n_heads=n_heads,
        n_queries=N_TOKENS,
        channels=32,
        n_points=16,
    )
    value = value.to(dtype).requires_grad_()
    output = attention(value, levels, locations, torch.ones_like(weights))
    (grad_value,) = torch.autograd.grad(output, value, torch.ones_like(output))
    expected = torch.zeros_like(grad_value)
    expected[:, 4 * 16 + 3] = 16 * N_TOKENS
    torch.testing.assert_close(grad_value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("queries_are_tokens", [True, False])
@pytest.mark.parametrize("n_levels", [1, 2])
def test_memory_gets_one_sum_for_each_pixel(
    problem, monkeypatch, tmp_path, compiler, queries_are_tokens, n_levels
):
    """That, and not one for each corner, is what sorting is for.

    A pixel's entries may belong to several groups of lanes, but a group has no other pixel between
    them. So there are at most as many sums as pixels and groups.
    """
    n_queries = N_TOKENS * n_levels if queries_are_tokens else 48
    queries, entries = (32, 2) if queries_are_tokens else (8, 4)  # of a block, of a group
    vector, lanes = 2, 8
    count = 'extern "C" { int adds; }'  # of one lane each
    edits = [
        ("cuda_backward.h", "#pragma once", f"#pragma once\n{count}"),
        (
            "cuda_backward.h",
            "  for (int i = 0; i < N; ++i) atomic",
            "  ++adds;\n  for (int i = 0; i < N; ++i) atomic",
        ),
    ]
    cases = [
        (direction, "double", vector, lanes, queries, 1, entries)
        for direction in ("forward", "backward")
    ]
    library = build_host_library(tmp_path, cases, edits=edits)
    run_on_the_host(monkeypatch, library)
    generator = torch.Generator().manual_seed(0)
    sizes = (1, n_queries, 1, n_levels, 8 // n_levels, 2)
    pixels = torch.rand(sizes, generator=generator, dtype=torch.float64) * 4 + 2  # 5 * 5 of a level
    inputs = inputs_at(
        problem, pixels, levels=MAP * n_levels, n_points=8 // n_levels, n_queries=n_queries
    )
    assert_agree(inputs, 1e-12)
    adds = ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "adds").value
    blocks = n_queries // queries
    assert 0 < adds <= blocks * (5 * 5 * n_levels + queries) * lanes
