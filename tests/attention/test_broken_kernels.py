"""The comparisons of test_cpu_kernel.py would notice a broken kernel.

Each mistake is put into a copy of csrc/ (or, where it cannot be made there, into the module),
compiled without optimisation, and must change a result. Unchanged sources must not.
"""

import subprocess

import pytest
import torch

from ddetr_edu.attention import MSDeformAttn, ms_deform_attn
from ddetr_edu.attention import module as attention_module
from ddetr_edu.attention.kernels import build, cpu

pytestmark = pytest.mark.usefixtures("kernel")

HEADER, KERNEL = "ms_deform_attn.h", "ms_deform_attn_cpu.cpp"
OUTPUT, GRAD_VALUE, GRAD_LOCATIONS, GRAD_WEIGHTS = range(4)
STORE = "top_sum.store(output + row * s.channels);"
STORE_IN_ALL_HEADS = """
    for (std::ptrdiff_t other = 0; other < s.heads; ++other) {
      T* to = output + (row - m + other) * s.channels;
      auto sum = m == 0 ? Row<T, WIDTH>::zeros() : Row<T, WIDTH>::load(to);
      sum.add(top_sum);
      sum.store(to);
    }"""

# name: the first result that must be wrong, the file, and (text, replacement) pairs
BROKEN = {
    "x and y swapped": (
        OUTPUT,
        KERNEL,
        [("locations[2 * p], locations[2 * p + 1]", "locations[2 * p + 1], locations[2 * p]")],
    ),
    "corners aligned": (
        OUTPUT,
        HEADER,
        [("location * T(size) - T(0.5)", "location * T(size - 1)")],
    ),
    "border repeated": (
        OUTPUT,
        HEADER,
        [
            ("pixel > T(-1) ? pixel : T(-2)", "pixel > T(0) ? pixel : T(0)"),
            ("pixel < T(size) ? pixel : T(size)", "pixel < T(size - 1) ? pixel : T(size - 1)"),
        ],
    ),
    "width and height swapped": (
        OUTPUT,
        KERNEL,
        [
            ("levels.height.data() + first", "levels.width.data() + first "),
            ("widths = levels.width.data() + first;", "widths = levels.height.data() + first;"),
        ],
    ),
    "heads summed": (OUTPUT, KERNEL, [(STORE, STORE_IN_ALL_HEADS)]),
    "weights ignored": (OUTPUT, KERNEL, [("weights[p] * (", "T(1) * (")]),
    "the right and bottom border left out": (
        OUTPUT,
        HEADER,
        [("first < size - 1", "first < size - 2")],
    ),
    "locations in pixels": (GRAD_LOCATIONS, HEADER, [("T(width) * weight", "weight")]),
    "slopes reversed": (
        GRAD_LOCATIONS,
        HEADER,
        [("(dot_right - dot_left)", "(dot_left - dot_right)")],
    ),
    "value's gradient without its bilinear weight": (
        GRAD_VALUE,
        KERNEL,
        [("add(block.coef[c][p], grad)", "add(weights[point + p], grad)")],
    ),
    "weight's gradient times weight": (
        GRAD_WEIGHTS,
        HEADER,
        [("return {weight_top * dot_top", "return {weight * weight_top * dot_top")],
    ),
    "only the last channels' gradient kept": (
        GRAD_WEIGHTS,
        KERNEL,
        [("if (first_chunk)", "if (true)")],
    ),
}


def kernel_from(folder, file=None, replacements=()):
    """Compile csrc/ with some text replaced. Each old text must exist, or nothing is tested."""
    for source in build.source_folder().glob("*.*"):
        text = source.read_text()
        if source.name == file:
            for old, new in replacements:
                assert old in text, f"{file} no longer contains {old!r}"
                text = text.replace(old, new)
        (folder / source.name).write_text(text)
    target = folder / f"broken{build.suffix()}"
    subprocess.run(
        [
            *build.find_compiler(),
            "-std=c++17",
            "-O0",
            "-Wno-psabi",
            "-shared",
            "-fPIC",
            str(folder / KERNEL),
            "-o",
            str(target),
        ],
        check=True,
    )
    return cpu.load(target)


def wrong_results(problem, monkeypatch, kernel):
    """Which of output and gradients differ from grid_sample's, by number."""
    monkeypatch.setattr(cpu, "loaded_library", lambda: kernel)
    value, levels, locations, weights = problem(channels=17)
    results = {}
    for backend in ("cpu", "grid_sample"):
        inputs = [t.clone().requires_grad_() for t in (value, locations, weights)]
        output = ms_deform_attn(inputs[0], levels, *inputs[1:], backend=backend)
        grad = torch.randn(
            output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype
        )
        results[backend] = [output.detach(), *torch.autograd.grad(output, inputs, grad)]
    pairs = zip(results["cpu"], results["grid_sample"], strict=True)
    return [i for i, (a, b) in enumerate(pairs) if (a - b).abs().max() > 1e-12 * b.abs().max()]


def test_an_unchanged_kernel_is_right(problem, monkeypatch, tmp_path):
    assert wrong_results(problem, monkeypatch, kernel_from(tmp_path)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_caught(problem, monkeypatch, tmp_path, name):
    first_wrong, file, replacements = BROKEN[name]
    kernel = kernel_from(tmp_path, file, replacements)
    assert first_wrong in wrong_results(problem, monkeypatch, kernel)


def softmax_over_points_only(scores):
    return scores.softmax(-1)


def offsets_not_normalised(reference_points, offsets, spatial_shapes):
    return reference_points[:, :, None, :, None, :] + offsets


@pytest.mark.parametrize(
    "function, broken",
    [
        ("attention_weights", softmax_over_points_only),
        ("sampling_locations", offsets_not_normalised),
    ],
)
def test_a_broken_module_is_caught(monkeypatch, function, broken):
    """The two mistakes that can be made before the kernel is called."""
    torch.manual_seed(0)
    attention = MSDeformAttn(10, 5, 2, 3)
    torch.nn.init.normal_(attention.attention_weights.weight)
    query, value, reference = torch.randn(2, 3, 10), torch.randn(2, 29, 10), torch.rand(2, 3, 2, 2)
    levels = [(5, 3), (2, 7)]
    attention.backend = "grid_sample"
    expected = attention(query, reference, value, levels)
    attention.backend = "cpu"
    torch.testing.assert_close(attention(query, reference, value, levels), expected)
    monkeypatch.setattr(attention_module, function, broken)
    assert (attention(query, reference, value, levels) - expected).abs().max() > 1e-3
