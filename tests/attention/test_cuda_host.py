"""The CUDA kernel agrees with the definition: its source, run on a CPU by host_cuda.h."""

import math
import subprocess

import pytest
import torch
from host_cuda import assert_agree, attention, output_and_gradients, run_on_the_host

from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.kernels import build


@pytest.fixture(autouse=True)
def on_the_host(host_library, monkeypatch):
    run_on_the_host(monkeypatch, host_library)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_agrees_with_the_definition(problem, dtype, tolerance):
    assert_agree(problem(dtype), tolerance, peer="naive")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 16, 32, 64, 71])
def test_every_width(problem, channels, dtype, tolerance):
    assert_agree(problem(dtype, channels=channels, n_heads=3), tolerance)


@pytest.mark.parametrize("n_points", [1, 2, 4, 5, 8])  # 4 levels: 8 lanes full, ragged, both
def test_every_number_of_points(problem, n_points):
    levels = [(7, 5), (2, 3), (1, 1), (3, 1)]
    assert_agree(problem(n_points=n_points, levels=levels, channels=8, n_heads=3), 1e-12)


@pytest.mark.parametrize("in_all", range(1, 25))
def test_every_number_of_points_in_all(problem, in_all):
    """L * P: 8 lanes take 8 of them at once."""
    n_levels = 3 if in_all % 3 == 0 else 2 - in_all % 2
    levels = [(7, 5), (2, 3), (4, 1)][:n_levels]
    assert_agree(
        problem(n_points=in_all // n_levels, levels=levels, channels=16, n_heads=1, n_images=1),
        1e-12,
    )


@pytest.mark.parametrize("channels", [7, 32])
def test_queries_that_are_the_tokens(problem, channels):
    """A block takes a rectangle of a level; the levels here are full, ragged and tiny."""
    levels = [(8, 16), (11, 9), (1, 17), (1, 1)]
    n_tokens = sum(height * width for height, width in levels)
    assert_agree(
        problem(levels=levels, n_queries=n_tokens, channels=channels, n_heads=3, n_points=1), 1e-12
    )


@pytest.mark.parametrize("n_queries", [1, 16, 17, 67])
def test_any_number_of_other_queries(problem, n_queries):
    assert_agree(problem(n_queries=n_queries, n_points=2), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_heads", [3, 4])  # an even number is read in pairs, if D is 32
@pytest.mark.parametrize("n_queries", [3, 30])  # the queries are the tokens, if there are 30
@pytest.mark.parametrize("channels", [7, 32, 64])
def test_16_bit_values_are_summed_in_32_bits(problem, dtype, channels, n_queries, n_heads):
    """The only error is that of rounding the result once."""
    value, levels, locations, weights = problem(
        torch.float32, channels=channels, n_queries=n_queries, n_heads=n_heads, n_points=3
    )
    value = value.to(dtype)
    results = output_and_gradients(attention, value, levels, locations, weights)
    # The same numbers in 64 bits; the incoming gradient has been rounded to 16 bits there too.
    inputs = [t.double().requires_grad_() for t in (value, locations, weights)]
    exact = ms_deform_attn(inputs[0], levels, *inputs[1:], backend="grid_sample")
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(dtype).double()
    expected = [exact.detach(), *torch.autograd.grad(exact, inputs, grad)]
    rounding = torch.finfo(dtype).eps / 2
    for result, reference in zip(results[:2], expected[:2], strict=True):
        assert result.dtype == dtype
        assert ((result.double() - reference).abs() <= rounding * reference.abs() + 1e-6).all()
    for result, reference in zip(results[2:], expected[2:], strict=True):
        assert result.dtype == torch.float32
        assert (result - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_numbers_are_read_exactly_and_rounded_as_torch_rounds(dtype):
    """Every seventh of all 65536, NaN and infinity among them, and numbers between them."""
    centre = torch.full((1, 1, 1, 1, 1, 2), 0.5)
    bits = torch.arange(-(2**15), 2**15, 7, dtype=torch.int16)[:9344]  # 64 at once
    value = bits.view(dtype)[None, None, None, :]  # a channel each
    output = attention(value, [(1, 1)], centre, torch.ones(1, 1, 1, 1, 1))
    torch.testing.assert_close(output.flatten(), value.flatten(), rtol=0, atol=0, equal_nan=True)
    generator = torch.Generator().manual_seed(0)
    for exponent in range(-8, 6):
        number = torch.randn(1, generator=generator) * 10.0**exponent
        one = torch.ones(1, 1, 1, 1, dtype=dtype)
        output = attention(one, [(1, 1)], centre, number.view(1, 1, 1, 1, 1))
        torch.testing.assert_close(output.flatten(), number.to(dtype), rtol=0, atol=0)


def test_gradcheck(problem):
    value, levels, locations, weights = problem(
        n_images=1, n_queries=2, n_heads=1, channels=2, n_points=2, levels=[(3, 2), (1, 4)]
    )
    assert torch.autograd.gradcheck(
        lambda v, x, w: attention(v, levels, x, w),
        tuple(tensor.requires_grad_() for tensor in (value, locations, weights)),
    )


def test_inputs_in_any_memory_order_and_from_any_address(problem):
    value, levels, locations, weights = problem(torch.float32, channels=8)
    odd = torch.empty(value.numel() + 1)[1:].view_as(value).copy_(value)
    assert odd.data_ptr() % 16 == 4
    reference = output_and_gradients(attention, value, levels, locations, weights)
    for unusual in (value.transpose(1, 2).contiguous().transpose(1, 2), odd):
        result = attention(unusual, levels, locations.flip(1).contiguous().flip(1), weights)
        assert torch.equal(result, reference[0])


@pytest.mark.parametrize("axis", ["n_images", "n_queries"])
def test_nothing_to_do(problem, axis):
    inputs = problem(**{axis: 0})
    output, grad_value, *others = output_and_gradients(attention, *inputs)
    assert output.shape == (inputs[2].shape[0], inputs[2].shape[1], 35)
    assert grad_value.shape == inputs[0].shape and not grad_value.any()
    assert all(other.numel() == 0 for other in others)


@pytest.mark.parametrize("coordinate", [math.nan, math.inf, -math.inf, 1e30, -1e30, 3.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_location_out_of_reach_reads_zero_and_gives_no_gradient(problem, coordinate, dtype):
    """Even if the map itself holds NaN: nothing of it is read."""
    value, levels, locations, weights = problem(dtype, channels=8, n_heads=2, n_points=3)
    value = torch.full_like(value, math.nan)
    for x, y in ((coordinate, 0.5), (0.5, coordinate), (coordinate, coordinate)):
        everywhere = torch.tensor([x, y], dtype=dtype).expand_as(locations)
        for result in output_and_gradients(attention, value, levels, everywhere, weights):
            assert not result.any()  # NaN would count as true


def test_a_pixel_of_nan_is_read_only_by_its_neighbours():
    """Corners outside the level are not read from elsewhere in memory."""
    value = torch.arange(1.0, 13.0).view(1, 12, 1, 1).clone()  # 3 rows of 4
    value[0, 0], value[0, 11] = math.nan, math.nan
    location = torch.tensor([3.9, 0.1]) / torch.tensor([4.0, 3.0])  # beyond the top right corner
    output = attention(value, [(3, 4)], location.view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
    torch.testing.assert_close(output.item(), 4 * 0.6 * 0.6)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_exactly_on_pixel_centres(problem):
    """The slope jumps there; all our implementations take the one to the right and below."""
    levels = [(2, 8), (4, 4)]  # sizes that floats divide exactly
    value, _, locations, weights = problem(levels=levels, n_points=3)
    sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
    on_centres = (locations * sizes).floor().add(0.5) / sizes
    assert_agree((value, levels, on_centres, weights), 1e-12, peer="naive")


# ---- host_cuda.h reports what would go wrong on a GPU ----

WRONG = {
    "lane_7_misses_a_shuffle": (
        "if (threadIdx.x != 7) __shfl_sync(0xffffffff, 1, 0);",
        "block 0: thread 0 waits in __shfl_sync, line 1, but thread 7 has ended",
    ),
    "two_places_to_wait": (
        "if (threadIdx.x < 40) __syncwarp();\nelse __syncwarp();",
        "block 0: thread 32 waits in __syncwarp, line 1, but thread 40 waits in __syncwarp, line 2",
    ),
    "half_a_block_at_a_barrier": (
        "if (threadIdx.x < 32) __syncthreads();",
        "block 0: thread 0 waits in __syncthreads, line 1, but thread 32 has ended",
    ),
    "half_a_warp": ("__shfl_sync(0xffff, 1, 0);", "only whole warps can wait here"),
    "nothing_wrong": (
        """__shared__ unsigned shared[64];
        const unsigned i = threadIdx.x, last_of_4 = i % 4 == 3;
        shared[i] = i;
        __syncthreads();
        const unsigned next = __shfl_down_sync(0xffffffff, i, 1, 4);
        if (shared[63 - i] != 63 - i || next != i + !last_of_4) throw std::runtime_error("wrong");
        """,
        "",
    ),
}


def test_threads_that_miss_each_other_are_reported(tmp_path):
    kernels = "".join(
        f"__global__ void {name}() {{\n#line 1\n{body}\n}}\n" for name, (body, _) in WRONG.items()
    )
    runs = "".join(f"report({name});\n" for name in WRONG)
    (tmp_path / "kernels.cpp").write_text(
        '#include "host_cuda.h"\n#include <cstdio>\n'
        "void report(void (*kernel)()) {\n"
        '  try { host_cuda::run({1, 1, 1}, 64, 0, kernel); std::puts(""); }\n'
        "  catch (const std::runtime_error& error) { std::puts(error.what()); }\n"
        f"}}\n{kernels}\nint main() {{\n{runs}}}\n"
    )
    program = tmp_path / "kernels"
    subprocess.run(
        [
            *build.find_compiler(),
            "-std=c++17",
            f"-I{build.source_folder()}",
            str(tmp_path / "kernels.cpp"),
            "-o",
            str(program),
        ],
        check=True,
    )
    result = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines() == [message for _, message in WRONG.values()]
