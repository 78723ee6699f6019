"""Which CUDA kernel runs, on how many blocks of threads, and with which numbers.

`plan` knows nothing of GPUs, so tests can follow on a CPU what a GPU would be given.
"""

import ctypes
import functools
import math
from dataclasses import dataclass

import torch

MAX_LEVELS, TILE_WIDTH = 16, 8  # as in csrc/cuda_point.h
MAX_GRID = 65535  # of the second and third axis of a grid


class Arguments(ctypes.Structure):
    """The argument of a kernel, field by field as csrc/cuda_point.h declares it.

    A test compares the two declarations.
    """

    _fields_ = [
        ("value", ctypes.c_void_p),  # addresses on the GPU
        ("locations", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("grad_output", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("grad_value", ctypes.c_void_p),
        ("grad_locations", ctypes.c_void_p),
        ("grad_weights", ctypes.c_void_p),
        ("tokens", ctypes.c_longlong),  # S
        ("queries", ctypes.c_longlong),  # Lq
        ("heads", ctypes.c_int),  # M
        ("channels", ctypes.c_int),  # D
        ("levels", ctypes.c_int),  # L
        ("points", ctypes.c_int),  # P
        ("inverse_points", ctypes.c_uint),  # 2^31 / P, rounded up
        ("queries_are_tokens", ctypes.c_int),
        ("height", ctypes.c_int * MAX_LEVELS),
        ("width", ctypes.c_int * MAX_LEVELS),
        ("start", ctypes.c_int * MAX_LEVELS),  # the first token of each level
    ]


@dataclass(frozen=True)
class Kernel:
    """One kernel of csrc/ms_deform_attn.cu."""

    direction: str  # "forward" or "backward"
    dtype: torch.dtype  # of value, output and grad_output
    vector: int  # channels that a lane reads in one load
    lanes: int  # lanes that work together on one head of one query
    queries: int  # in a block
    heads: int  # in a block, of each query
    entries: int  # of its sorted list that a group handles at once, in the backward pass
    blocks: int  # on a multiprocessor, at least; limits the registers of a thread

    @property
    def name(self) -> str:
        """The kernel in a few letters, such as "forward_float32_8x4_32x1"."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.direction}_{dtype}_{self.lanes}x{self.vector}_{self.queries}x{self.heads}"

    @property
    def threads(self) -> int:
        """Threads in a block."""
        return self.lanes * self.queries * self.heads


@dataclass(frozen=True)
class Plan:
    """A launch without its addresses: the kernel, its grid, and its sizes."""

    kernel: Kernel
    grid: tuple[int, int, int]  # blocks: tiles of queries, heads, images
    sizes: bytes  # the Arguments, in which all addresses are 0

    def arguments(self, addresses: dict[str, int]) -> Arguments:
        """The complete argument of the kernel.

        Args:
            addresses: The address of each array, by the name of its field; 0 for those left out.

        Returns:
            A new struct.
        """
        arguments = Arguments.from_buffer_copy(self.sizes)
        for name, address in addresses.items():
            setattr(arguments, name, address)
        return arguments


@functools.lru_cache(maxsize=1024)
def plan(
    direction: str,
    dtype: torch.dtype,
    value_shape: tuple[int, int, int, int],
    n_queries: int,
    flat_spatial_shapes: tuple[int, ...],
    n_points: int,
) -> Plan:
    """How to launch one direction of the operation.

    Args:
        direction: "forward" or "backward".
        dtype: Of value.
        value_shape: (N, S, M, D).
        n_queries: Lq.
        flat_spatial_shapes: H, W of each level, one after the other.
        n_points: P.

    Returns:
        The plan, the same object for the same arguments.

    Raises:
        ValueError: If there are more levels, numbers or blocks than the kernel can count.
    """
    n_images, n_tokens, n_heads, channels = value_shape
    heights, widths = flat_spatial_shapes[0::2], flat_spatial_shapes[1::2]
    areas = [height * width for height, width in zip(heights, widths, strict=True)]
    kernel = choose_kernel(direction, dtype, n_heads, channels, n_queries == n_tokens)
    if n_queries == n_tokens:  # as in an encoder: a tile is a rectangle of a level
        tile_height = kernel.queries // TILE_WIDTH
        tiles = sum(
            math.ceil(height / tile_height) * math.ceil(width / TILE_WIDTH)
            for height, width in zip(heights, widths, strict=True)
        )
    else:
        tiles = math.ceil(n_queries / kernel.queries)
    grid = (tiles, n_heads // kernel.heads, n_images)
    for amount, limit, what in (
        (len(heights), MAX_LEVELS + 1, "levels"),
        (n_points, 2**13, "points"),
        (n_tokens * n_heads * channels, 2**29, "numbers in one image's value"),
        (n_queries * n_heads * channels, 2**29, "numbers in one image's output"),
        (grid[1], MAX_GRID + 1, "heads"),
        (n_images, MAX_GRID + 1, "images"),
    ):
        if amount >= limit:
            raise ValueError(
                f"the CUDA kernel takes fewer than {limit} {what}, but there are {amount}; "
                'use backend="grid_sample", or fewer images at once'
            )
    arguments = Arguments(
        tokens=n_tokens,
        queries=n_queries,
        heads=n_heads,
        channels=channels,
        levels=len(heights),
        points=n_points,
        inverse_points=math.ceil(2**31 / max(n_points, 1)),
        queries_are_tokens=n_queries == n_tokens,
    )
    for level, (height, width) in enumerate(zip(heights, widths, strict=True)):
        arguments.height[level], arguments.width[level] = height, width
        arguments.start[level] = sum(areas[:level])
    return Plan(kernel, grid, bytes(arguments))


def choose_kernel(
    direction: str, dtype: torch.dtype, n_heads: int, channels: int, queries_are_tokens: bool
) -> Kernel:
    """The kernel for inputs of these sizes.

    Args:
        direction: "forward" or "backward".
        dtype: Of value.
        n_heads: M.
        channels: D.
        queries_are_tokens: Whether there is a query for each token, as in an encoder.

    Returns:
        The kernel. All of its lanes have channels to work on, and its blocks are whole warps.
    """
    # A lane can read 16 bytes in one load; the gradient of value has at least 32 bits.
    vector = 16 // (dtype.itemsize if direction == "forward" else max(dtype.itemsize, 4))
    if channels % vector:
        vector = 1
    lanes = next(lanes for lanes in (8, 4, 2, 1) if channels // vector % lanes == 0)
    # Many queries of a tile share their reads. Where there are few queries, small blocks give some
    # to every multiprocessor.
    queries = 32 if queries_are_tokens else max(8, 32 // lanes)
    # Rows of 64 bytes: those of one head all begin at multiples of 128 bytes or all half-way
    # between, so they come from the same half of the cache's banks. Two heads use both halves.
    pair = direction == "forward" and channels * dtype.itemsize % 128 == 64 and n_heads % 2 == 0
    heads = 2 if pair else 1
    # These two were fastest on an H200. More threads hide more of the memory's latency; fewer have
    # more registers, for more reads in flight each.
    entries = 2 if queries_are_tokens and dtype.itemsize >= 4 else 4
    threads = {"forward": 1280, "backward": 1024}[direction] if queries_are_tokens else 512
    blocks = max(1, threads // (lanes * queries * heads))
    return Kernel(direction, dtype, vector, lanes, queries, heads, entries, blocks)
