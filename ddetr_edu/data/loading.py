"""Batches for training: which images are in which step, and reading them in worker processes.

Every random choice is drawn from the run's seed and a running number, never from a generator whose
state would have to be saved. So a run can resume at any step, with any number of worker processes,
and any number of training processes can share a step.
"""

import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

ORDER, AUGMENTATION, STEP = range(3)  # what a seed is for


def seed_for(*numbers: int) -> int:
    """Derive one seed from several numbers.

    Args:
        *numbers: Such as (STEP, the run's seed, the number of the step), each at least 0.

    Returns:
        A seed of 32 bits. Neighbouring numbers give unrelated seeds.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SampleIndex(NamedTuple):
    """One image of a batch."""

    image: int  # its index in the data set
    number: int  # of the sample in the run, counted from 0 over all processes


@dataclass(frozen=True)
class InfiniteBatchSampler:
    """The images of each step: epoch after epoch over the data set, each in a new order.

    A step takes batch_size * grad_accum_steps * world_size images; those that are left at the end
    of an epoch are skipped. With `is_landscape`, a step holds images of one orientation wherever
    possible, because images of different shapes need more padding.

    Raises:
        ValueError: If the data set has fewer images than a step takes.
    """

    n_images: int  # in an epoch
    batch_size: int  # of one process
    seed: int  # of the run
    grad_accum_steps: int = 1  # batches per step
    rank: int = 0  # of this process
    world_size: int = 1  # number of processes
    is_landscape: Callable[[int], bool] | None = None  # whether image i is wider than high
    generated: bool = False  # the data set is infinite and random: each epoch takes new images

    def __post_init__(self):
        if self.n_images < self.images_per_step:
            raise ValueError(
                f"a step takes {self.images_per_step} images (--batch-size {self.batch_size} x "
                f"--grad-accum-steps {self.grad_accum_steps} x {self.world_size} processes), but "
                f"there are {self.n_images} to train on; reduce one of them"
            )

    @property
    def images_per_step(self) -> int:
        """The number of images in a step, over all processes."""
        return self.batch_size * self.grad_accum_steps * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole steps in an epoch."""
        return self.n_images // self.images_per_step

    def epoch_indices(self, epoch: int) -> Sequence[int]:
        """The order of the images in an epoch.

        Args:
            epoch: Its number, from 0.

        Returns:
            n_images indices into the data set.
        """
        if self.generated:
            indices = [epoch * self.n_images + i for i in range(self.n_images)]
        else:
            generator = torch.Generator().manual_seed(seed_for(ORDER, self.seed, epoch))
            indices = torch.randperm(self.n_images, generator=generator).tolist()
        if self.is_landscape is None:
            return indices
        return group_by_aspect_ratio(indices, self.is_landscape, self.images_per_step)

    def batches_from(self, step: int) -> Iterator[list[SampleIndex]]:
        """This process's batches, without end.

        Args:
            step: The first step, from 0.

        Yields:
            Batches of batch_size samples, grad_accum_steps of them for each step.
        """
        first_epoch, first_step = divmod(step, self.steps_per_epoch)
        for epoch in count(first_epoch):
            indices = self.epoch_indices(epoch)
            for step_in_epoch in range(first_step, self.steps_per_epoch):
                start = step_in_epoch * self.images_per_step
                number = epoch * self.steps_per_epoch * self.images_per_step + start
                for accum_step in range(self.grad_accum_steps):
                    first = (accum_step * self.world_size + self.rank) * self.batch_size
                    yield [
                        SampleIndex(indices[start + i], number + i)
                        for i in range(first, first + self.batch_size)
                    ]
            first_step = 0


def group_by_aspect_ratio(
    indices: list[int], is_landscape: Callable[[int], bool], group_size: int
) -> list[int]:
    """Reorder images so that each group is all landscape or all portrait.

    A group is complete when it is full. Images that fill no group come last, in their old order.

    Args:
        indices: Of the images.
        is_landscape: Whether image i is wider than high.
        group_size: The number of images in a group.

    Returns:
        The same indices in the new order.
    """
    grouped: list[int] = []
    pending: dict[bool, list[int]] = {True: [], False: []}
    for i in indices:
        group = pending[bool(is_landscape(i))]
        group.append(i)
        if len(group) == group_size:
            grouped += group
            group.clear()
    remaining = {*pending[True], *pending[False]}
    return grouped + [i for i in indices if i in remaining]


class DeterministicDataset(Dataset):
    """A data set whose random augmentation depends only on the number of the sample in the run.

    It is indexed by `SampleIndex`.

    Args:
        dataset: The data set, whose transforms draw from torch's global generator.
        seed: Of the run.
    """

    def __init__(self, dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, sample: SampleIndex):
        image, number = sample
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_for(AUGMENTATION, self.seed, number))
            return self.dataset[image]


class ErrorCapturingDataset(Dataset):
    """A data set that returns an error instead of raising it.

    Raised in a worker process, the error would reach the user with that process's traceback in it.

    Args:
        dataset: The data set; it may raise ValueError or OSError.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, index):
        try:
            return self.dataset[index]
        except (ValueError, OSError) as error:
            return error


def open_batches(
    dataset, batches: Iterable[Sequence], workers: int = 0, pin_memory: bool = False
) -> Generator[tuple[list[Tensor], list[dict]], None, None]:
    """Read the images and targets of batches, ahead of time in worker processes.

    Args:
        dataset: Its items are (image, target).
        batches: The indices of each batch, of whatever kind the data set is indexed by.
        workers: The number of worker processes; with 0, each batch is read when it is asked for.
        pin_memory: Whether to put tensors into page-locked memory, for a GPU.

    Yields:
        (images, targets) of each batch, in order.

    Raises:
        ValueError: If the data set raises it, such as DataError.
        OSError: If the data set raises it.
    """
    loader: DataLoader = DataLoader(
        ErrorCapturingDataset(dataset),
        batch_sampler=map(list, batches),
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=list,
        generator=torch.Generator(),  # otherwise it draws a number from the global one
        worker_init_fn=ignore_signals,
    )
    for samples in loader:
        for sample in samples:
            if isinstance(sample, Exception):
                raise sample
        yield collate(samples)


def collate(samples: list[tuple]) -> tuple[list, list[dict]]:
    """Collate samples into lists, because images differ in size.

    Args:
        samples: (image, target) of each.

    Returns:
        (images, targets).
    """
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def ignore_signals(worker: int) -> None:
    """Let a worker process ignore SIGINT and SIGTERM: training needs its workers to the end.

    A terminal sends Ctrl-C to every process; the training process alone decides when to stop.

    Args:
        worker: Its number; not used.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
