"""Which pictures come in which step: batches without end, the same whenever they are asked for.

Every choice is drawn from the run's seed and a running number, never from a generator that has to
be carried along. So a run can begin at any step, with any number of worker processes, and any
number of training processes can share a step.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddetr_edu.data import collate

Draw = tuple[int, int]  # the place of a picture in its data set, and its running number in the run
ORDER, PICTURE, STEP = range(3)  # what a seed is for


def seed_for(*numbers: int) -> int:
    """One seed from several numbers, such as (PICTURE, the run's seed, a running number).

    Neighbouring numbers give seeds that have nothing to do with one another.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclass(frozen=True)
class Schedule:
    """The pictures of each step: pass after pass over the data set, each in a new order.

    A step takes batch * accumulate * world_size pictures; what is left at the end of a pass sits
    out. With `wide` (is picture i wider than high?) a step holds pictures of one kind as far as it
    goes, because pictures of different shapes pad one another.

    endless: a pass is followed by one over the next pictures, not the same; generated scenes are
        random already
    Raises: ValueError if the data set has fewer pictures than a step takes.
    """

    n_pictures: int
    batch: int  # pictures at a time, in one process
    seed: int
    accumulate: int = 1  # batches in a step
    rank: int = 0
    world_size: int = 1
    wide: Callable[[int], bool] | None = None
    endless: bool = False

    def __post_init__(self):
        if self.n_pictures < self.per_step:
            raise ValueError(
                f"a step takes {self.per_step} pictures (--batch {self.batch} x --accumulate "
                f"{self.accumulate} x {self.world_size} processes), but there are "
                f"{self.n_pictures} to learn from; take fewer at a time"
            )

    @property
    def per_step(self) -> int:
        return self.batch * self.accumulate * self.world_size

    @property
    def steps_per_pass(self) -> int:
        return self.n_pictures // self.per_step

    def order(self, number: int) -> Sequence[int]:
        """The places of the pictures in pass `number`."""
        if self.endless:
            order = [number * self.n_pictures + i for i in range(self.n_pictures)]
        else:
            generator = torch.Generator().manual_seed(seed_for(ORDER, self.seed, number))
            order = torch.randperm(self.n_pictures, generator=generator).tolist()
        return order if self.wide is None else by_shape(order, self.wide, self.per_step)

    def batches_from(self, step: int) -> Iterator[list[Draw]]:
        """This process's batches from a step on (0 is the first), `accumulate` to a step."""
        first_pass, done = divmod(step, self.steps_per_pass)
        for number in count(first_pass):
            order = self.order(number)
            for place in range(done, self.steps_per_pass):
                drawn = (number * self.steps_per_pass + place) * self.per_step
                for part in range(self.accumulate):
                    first = (part * self.world_size + self.rank) * self.batch
                    yield [
                        (order[place * self.per_step + i], drawn + i)
                        for i in range(first, first + self.batch)
                    ]
            done = 0


def by_shape(order: list[int], wide: Callable[[int], bool], group: int) -> list[int]:
    """The same pictures, so that groups of this size are all wide or all tall.

    A group goes out when it is full; those that fill none come last, in their old order.
    """
    grouped, waiting = [], {True: [], False: []}
    for i in order:
        alike = waiting[bool(wide(i))]
        alike.append(i)
        if len(alike) == group:
            grouped += alike
            alike.clear()
    left = {*waiting[True], *waiting[False]}
    return grouped + [i for i in order if i in left]


class Seeded(Dataset):
    """A data set asked by draw: its random augmentation depends on the running number alone."""

    def __init__(self, dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: Draw):
        place, number = draw
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_for(PICTURE, self.seed, number))
            return self.dataset[place]


class Answering(Dataset):
    """A data set that hands an error back instead of raising it.

    Raised in a worker process, it would reach the user wrapped in that process's traceback.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, which):
        try:
            return self.dataset[which]
        except (ValueError, OSError) as error:
            return error


def open_batches(
    dataset, draws, workers: int = 0, pin_memory: bool = False
) -> Iterator[tuple[list[Tensor], list[dict]]]:
    """(images, targets) for each list of draws, in their order, read ahead by worker processes.

    draws:   an iterable of lists of whatever the data set is asked by
    workers: processes that prepare batches; 0 prepares each when it is asked for
    Raises: what the data set raises.
    """
    loader = DataLoader(
        Answering(dataset),
        batch_sampler=draws,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=list,
        generator=torch.Generator(),  # else it takes a number from the global one
        worker_init_fn=leave_signals_to_the_parent,
    )
    for samples in loader:
        for sample in samples:
            if isinstance(sample, Exception):
                raise sample
        yield collate(samples)


def leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; whoever trains needs its workers to the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
