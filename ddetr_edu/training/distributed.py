"""Several processes that train one detector: who am I, and what do the others say?

`torchrun --nproc-per-node K -m ddetr_edu train ...` starts K processes and tells each of its place
by environment variables. In a single process every function here gives back what it was given.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

started = dist.is_initialized


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes, if torchrun started any, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0; process 0 alone prints and writes."""
    return dist.get_rank() if started() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if started() else 1


def total(values: list[float], device: torch.device) -> list[float]:
    """The sum over all processes of each value. All must call; all get the same."""
    return _reduced(values, device, dist.ReduceOp.SUM)


def largest(values: list[float], device: torch.device) -> list[float]:
    """The largest over all processes of each value. All must call; all get the same."""
    return _reduced(values, device, dist.ReduceOp.MAX)


def gathered(items: list) -> list:
    """The lists of all processes as one, process 0's first. All must call; all get the same."""
    if not started():
        return items
    lists = [None] * world_size()
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]


def take_buffers_of_first(module: nn.Module) -> None:
    """Give every process the buffers of process 0: batch norms have seen other pictures in each."""
    if started():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def _reduced(values: list[float], device: torch.device, how: dist.ReduceOp) -> list[float]:
    if not started():
        return values
    together = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(together, how)
    return together.tolist()
