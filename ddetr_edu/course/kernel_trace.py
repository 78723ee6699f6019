"""What the lanes of the CUDA kernel do to memory, recorded while it runs on the CPU.

csrc/host_cuda.h runs the source of the kernel thread by thread, and csrc/host_trace.cpp records
each access.
"""

import ctypes
import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddetr_edu.attention.kernels import build, cuda_plan
from ddetr_edu.attention.kernels.build import BuildError
from ddetr_edu.course.warp import LANES
from ddetr_edu.files import cache_folder

SOURCE = "host_trace.cpp"
# The kernel reads one array as two types, which needs -fno-strict-aliasing.
FLAGS = ("-std=c++17", "-O1", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-shared", "-fPIC")
ACCESS = ("read", "write", "add")  # as host_trace.cpp numbers them
SECTOR_BYTES = 32


class Step(NamedTuple):
    """One access of a warp to memory: all its lanes at the same time."""

    access: str  # "read", "write" or "add"
    array: str  # "value", "locations", "weights", "output", ...; "" if no lane does anything
    offsets: list[int]  # of each lane, in bytes from the beginning of the array; -1: does nothing
    bytes: int  # of each lane

    def sectors(self) -> set[int]:
        """The sectors of 32 bytes that it touches, counted from the beginning of the array."""
        return {
            byte // SECTOR_BYTES
            for offset in self.offsets
            if offset >= 0
            for byte in range(offset, offset + self.bytes)
        }


class Events(NamedTuple):
    """Everything that the threads of a kernel did, in the order of time within each thread."""

    rows: Tensor  # (n, 6): address (0: nothing to read), block, thread, waits, access, bytes
    begins: dict[str, int]  # array -> the address where it begins
    ends: dict[str, int]  # array -> where it ends


class Inputs(NamedTuple):
    """What an attention takes, and the gradient of its output."""

    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    grad_output: Tensor


def run_kernel_on_cpu(direction: str, inputs: Inputs) -> tuple[dict[str, Tensor], Events]:
    """Run the encoder's kernel for 32 channels in fp32, and record what it does to memory.

    Args:
        direction: "forward" or "backward".
        inputs: With a query for each token, and 32 channels.

    Returns:
        The arrays that it reads and writes, by name, and its events.

    Raises:
        BuildError: If it cannot be compiled here.
        RuntimeError: If the kernel fails.
    """
    value, shapes, locations, weights, grad_output = inputs
    flat_shapes = tuple(side for shape in shapes for side in shape)
    arrays = {"value": value, "locations": locations, "weights": weights}
    if direction == "forward":
        arrays["output"] = torch.full_like(grad_output, torch.nan)
    else:
        arrays |= {"grad_output": grad_output, "grad_value": torch.zeros_like(value)}
        arrays |= {
            "grad_locations": torch.full_like(locations, torch.nan),
            "grad_weights": torch.full_like(weights, torch.nan),
        }
    # A GPU's memory is aligned, so that a row of 32 numbers fills whole sectors.
    arrays = {name: aligned_copy(array) for name, array in arrays.items()}
    plan = cuda_plan.plan(
        direction,
        value.dtype,
        tuple(value.shape),
        locations.shape[1],
        flat_shapes,
        locations.shape[-2],
    )
    arguments = plan.arguments({name: array.data_ptr() for name, array in arrays.items()})
    library = load_library()
    message = ctypes.create_string_buffer(500)
    count = library.trace(
        int(direction == "backward"),
        *plan.grid,
        ctypes.byref(arguments),
        ctypes.sizeof(arguments),
        message,
        len(message),
    )
    if count < 0:
        raise RuntimeError(message.value.decode())
    rows = torch.empty(count, 6, dtype=torch.int64)
    library.copy_events(ctypes.c_void_p(rows.data_ptr()))
    begins = {name: array.data_ptr() for name, array in arrays.items()}
    ends = {name: begins[name] + array.nbytes for name, array in arrays.items()}
    return arrays, Events(rows, begins, ends)


def aligned_copy(tensor: Tensor) -> Tensor:
    """A copy whose first number begins a line of 128 bytes.

    Args:
        tensor: Of numbers of 4 bytes.

    Returns:
        A tensor of the same shape.
    """
    buffer = torch.empty(tensor.numel() + 32, dtype=tensor.dtype)
    skipped = -buffer.data_ptr() % 128 // tensor.element_size()
    copy = buffer[skipped : skipped + tensor.numel()].view(tensor.shape)
    return copy.copy_(tensor)


def steps_of_warp(events: Events, block: int, warp: int) -> list[Step]:
    """What the lanes of one warp do together, step by step.

    Lanes that wait for each other go on together; so accesses that lie between the same two waits
    belong together in the order in which each lane comes to them. That is exact as long as all
    lanes come to the same ones, as in the forward pass.

    Args:
        events: Of a kernel.
        block: The block of the warp.
        warp: Its number in the block.

    Returns:
        The steps, in order of time.
    """
    together: dict[tuple[int, int], dict[int, list[int]]] = {}
    done: dict[tuple[int, int], int] = {}
    thread = events.rows[:, 2]
    chosen = (events.rows[:, 1] == block) & (thread // LANES == warp)
    for row in events.rows[chosen].tolist():
        lane, waits = row[2] % LANES, row[3]
        order = done.get((lane, waits), 0)
        done[lane, waits] = order + 1
        together.setdefault((waits, order), {})[lane] = row
    return [_step(events, together[key]) for key in sorted(together)]


def _step(events: Events, of_lanes: dict[int, list[int]]) -> Step:
    """The step that consists of a row of `events` for each lane."""
    active = {lane: row[0] for lane, row in of_lanes.items() if row[0]}
    _, _, _, _, access, n_bytes = next(iter(of_lanes.values()))
    if not active:
        return Step(ACCESS[access], "", [-1] * LANES, n_bytes)
    array = array_at(events, next(iter(active.values())))
    begin = events.begins[array]
    offsets = [active[lane] - begin if lane in active else -1 for lane in range(LANES)]
    return Step(ACCESS[access], array, offsets, n_bytes)


def array_at(events: Events, address: int) -> str:
    """The array that an address lies in.

    Args:
        events: Of a kernel.
        address: In one of its arrays.

    Returns:
        The array's name.
    """
    begins, ends = events.begins, events.ends
    return next(name for name in begins if begins[name] <= address < ends[name])


def additions_to_tokens(events: Events, value: Tensor) -> Tensor:
    """How often a backward pass adds to each number of the gradient of value.

    Args:
        events: Of the backward pass.
        value: (1, S, M, D).

    Returns:
        (S, M); all channels of a token's head are added to equally often.
    """
    _, n_tokens, n_heads, channels = value.shape
    adds = events.rows[events.rows[:, 4] == ACCESS.index("add")]
    first = (adds[:, 0] - events.begins["grad_value"]) // value.element_size()
    rows, starts = first // channels, first % channels == 0  # the lane with the first channels
    counts = rows[starts].bincount(minlength=n_tokens * n_heads)
    return counts.view(n_tokens, n_heads)


@functools.cache
def load_library() -> ctypes.CDLL:
    """The traced kernels, compiled if need be.

    Raises:
        BuildError: If that is impossible here.
    """
    compiler = build.find_compiler()
    folder = build.source_folder()
    parts = [*compiler, *FLAGS, build.run([*compiler, "--version"]).stdout]
    parts += [path.read_text() for path in sorted(folder.glob("*.[ch]*")) if path.is_file()]
    cached = cache_folder() / f"host_trace_{build.short_hash(parts)}{build.suffix()}"
    if not cached.is_file():
        with tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True) as temporary:
            target = Path(temporary) / cached.name
            command = [*compiler, *FLAGS, str(folder / SOURCE), "-o", str(target)]
            result = build.run(command)
            if result.returncode or not target.is_file():
                raise BuildError(f"{compiler[0]} could not compile {SOURCE}", result.stderr)
            build.move_into_cache(target.read_bytes(), cached)
    library = ctypes.CDLL(str(cached))
    library.trace.restype = ctypes.c_longlong
    return library
