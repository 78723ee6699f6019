"""Which CUDA kernel runs, on how many blocks of threads, and with which numbers.

`plan` knows nothing of GPUs, so tests can follow on a CPU what a GPU would be given.
"""

import ctypes
import functools
import math
from dataclasses import dataclass

import torch

MAX_LEVELS, TILE_WIDTH = 16, 8  # as in csrc/ms_deform_attn.cu


class Arguments(ctypes.Structure):
    """The argument of a kernel, field by field as csrc/ms_deform_attn.cu declares it.

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
        ("tiles", ctypes.c_int),  # blocks that divide the queries of one head among them
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

    @property
    def name(self) -> str:
        """The kernel in a few letters, such as "forward_float32_8x4"."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.direction}_{dtype}_{self.lanes}x{self.vector}"

    @property
    def max_queries(self) -> int:
        """Queries of one head in a block: many share their reads, but backward needs registers."""
        return 64 if self.direction == "forward" else 32


@dataclass(frozen=True)
class Plan:
    """A launch without its addresses: the kernel, its grid, and its sizes."""

    kernel: Kernel
    blocks: int
    threads: int  # per block
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
    # A lane can read 16 bytes in one load; the gradient of value has at least 32 bits.
    vector = 16 // (dtype.itemsize if direction == "forward" else max(dtype.itemsize, 4))
    if channels % vector:
        vector = 1
    kernel = Kernel(direction, dtype, vector, lanes=4 if channels <= 4 * vector else 8)
    queries_are_tokens = n_queries == n_tokens  # as in an encoder: neighbours read the same pixels
    if queries_are_tokens:
        queries_per_block = kernel.max_queries
        tile_height = queries_per_block // TILE_WIDTH
        tiles = sum(
            math.ceil(height / tile_height) * math.ceil(width / TILE_WIDTH)
            for height, width in zip(heights, widths, strict=True)
        )
    else:
        queries_per_block = 16  # few queries: small blocks, so that every multiprocessor gets some
        tiles = math.ceil(n_queries / queries_per_block)
    blocks = n_images * n_heads * tiles
    for amount, limit, what in (
        (len(heights), MAX_LEVELS + 1, "levels"),
        (n_tokens * n_heads * channels, 2**29, "numbers in one image's value"),
        (blocks, 2**31, "blocks of threads"),
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
        tiles=tiles,
        queries_are_tokens=queries_are_tokens,
    )
    for level, (height, width) in enumerate(zip(heights, widths, strict=True)):
        arguments.height[level], arguments.width[level] = height, width
        arguments.start[level] = sum(areas[:level])
    return Plan(kernel, blocks, queries_per_block * kernel.lanes, bytes(arguments))
