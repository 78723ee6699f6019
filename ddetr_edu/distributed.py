"""Distributed training: this process's rank, and exchanging values between the processes.

`torchrun --nproc-per-node K -m ddetr_edu train ...` starts K processes and gives each its rank in
environment variables. In a single process every function here returns what it was given.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

is_initialized = dist.is_initialized


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group if torchrun started one, and leave it at the end.

    Args:
        device: This process's device; NCCL connects GPUs, Gloo everything else.
    """
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
    """The number of this process, from 0; only process 0 prints and writes files."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_initialized() else 1


def all_reduce_mean(values: list[float], device: torch.device) -> list[float]:
    """The mean of each value over all processes. Every process must call this.

    Args:
        values: This process's numbers, as many in each process.
        device: Where they are exchanged.

    Returns:
        The means, the same in every process.
    """
    total = _all_reduce(values, device, dist.ReduceOp.SUM)
    return [value / world_size() for value in total]


def all_reduce_max(values: list[float], device: torch.device) -> list[float]:
    """The maximum of each value over all processes. Every process must call this.

    Args:
        values: This process's numbers, as many in each process.
        device: Where they are exchanged.

    Returns:
        The maxima, the same in every process.
    """
    return _all_reduce(values, device, dist.ReduceOp.MAX)


def all_gather(items: list) -> list:
    """The lists of all processes, concatenated in order of rank. Every process must call this.

    Args:
        items: This process's list, of any length and of anything that can be pickled.

    Returns:
        The whole list, the same in every process.
    """
    if not is_initialized():
        return items
    lists: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the buffers of process 0 to all: batch norms have seen different images in each.

    Args:
        module: The module whose buffers are overwritten in place.
    """
    if is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def _all_reduce(
    values: list[float], device: torch.device, op: "dist.ReduceOp.RedOpType"
) -> list[float]:
    if not is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op)
    return tensor.tolist()
