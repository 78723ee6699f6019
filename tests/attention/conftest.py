"""Small inputs whose axes all have different sizes, so that swapped axes are noticed."""

import sys

import pytest
import torch
from host_cuda import ALL, build_host_library

from ddetr_edu.attention.kernels import build, cpu

LEVELS = [(5, 3), (2, 7), (1, 1)]


@pytest.fixture
def kernel():
    """Skip the test, with the reason, where the C++ kernel cannot be built."""
    problem = cpu.unavailable_reason()
    if problem is not None:
        pytest.skip(f"no C++ kernel: {problem}")


@pytest.fixture(scope="session")
def compiler():
    """Skip the test where the CUDA kernel cannot be compiled for the CPU."""
    if sys.platform == "win32":
        pytest.skip("host_cuda.h needs ucontext.h")
    try:
        return build.find_compiler()
    except build.BuildError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def host_library(tmp_path_factory, compiler):
    """All CUDA kernels, compiled for the CPU."""
    return build_host_library(tmp_path_factory.mktemp("host"), ALL)


@pytest.fixture
def problem():
    """`make(dtype, ...)` gives value, spatial_shapes, sampling_locations, attention_weights."""
    return make


def make(
    dtype=torch.float64,
    coordinates=None,
    n_images=2,
    n_queries=3,
    n_heads=5,
    channels=7,
    n_points=11,
    levels=LEVELS,
    seed=0,
):
    """Random inputs; a third of the locations lie outside the level.

    No location comes within 0.05 pixels of a row or column of pixel centres, where the gradient
    jumps.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    n_tokens = sum(height * width for height, width in levels)
    points = (n_images, n_queries, n_heads, len(levels), n_points)
    value = uniform(n_images, n_tokens, n_heads, channels) * 2 - 1
    sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]  # (L, 1, 2)
    pixels = (uniform(*points, 2) * 1.6 - 0.3) * sizes - 0.5
    pixels = pixels.floor() + 0.05 + 0.9 * (pixels - pixels.floor())
    locations = (pixels + 0.5) / sizes
    weights = uniform(*points).flatten(-2).softmax(-1).view(points)
    coordinates = coordinates or dtype
    return value.to(dtype), levels, locations.to(coordinates), weights.to(coordinates)
