"""Which pictures come when: each once a pass, from any step on, however many share the work."""

from itertools import islice

import pytest
import torch

from ddetr_edu.data import DataError, Shapes
from ddetr_edu.training.batches import Schedule, Seeded, by_shape, open_batches, seed_for


def places(schedule, batches, step=0):
    drawn = islice(schedule.batches_from(step), batches)
    return [[place for place, _ in batch] for batch in drawn]


def test_each_pass_takes_every_picture_in_a_new_order():
    schedule = Schedule(n_pictures=35, batch=5, seed=3)
    assert schedule.steps_per_pass == 7
    batches = places(schedule, 21)
    passes = [sum(batches[i : i + 7], []) for i in (0, 7, 14)]
    assert all(sorted(one) == list(range(35)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3 and list(range(35)) not in passes
    assert places(schedule, 21) == batches
    assert places(Schedule(n_pictures=35, batch=5, seed=4), 21) != batches


def test_what_fills_no_step_sits_out_and_not_always_the_same():
    schedule = Schedule(n_pictures=11, batch=4, seed=0)
    left = []
    for number in range(9):
        taken = sum(places(schedule, 2, step=2 * number), [])
        assert len(set(taken)) == 8
        left += sorted(set(range(11)) - set(taken))
    assert len(set(left)) > 8


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_begins_at_any_step(accumulate):
    schedule = Schedule(n_pictures=31, batch=2, accumulate=accumulate, seed=7)
    whole = list(islice(schedule.batches_from(0), 20 * accumulate))
    for step in (1, schedule.steps_per_pass, 13):
        rest = list(islice(schedule.batches_from(step), (20 - step) * accumulate))
        assert rest == whole[step * accumulate :]


def test_the_running_numbers_count_the_pictures_of_the_run():
    schedule = Schedule(n_pictures=7, batch=3, seed=1)
    numbers = [n for batch in islice(schedule.batches_from(0), 9) for _, n in batch]
    assert numbers == list(range(27))


@pytest.mark.parametrize("world_size, accumulate", [(2, 1), (1, 2), (3, 2)])
def test_processes_and_batches_share_the_pictures_of_a_step(world_size, accumulate):
    share = 12 // (world_size * accumulate)
    alone = Schedule(n_pictures=40, batch=12, seed=5)
    shared = [
        Schedule(n_pictures=40, batch=share, accumulate=accumulate, seed=5, rank=rank,
                 world_size=world_size) for rank in range(world_size)
    ]  # fmt: skip
    for step in range(7):
        (together,) = islice(alone.batches_from(step), 1)
        parts = [list(islice(one.batches_from(step), accumulate)) for one in shared]
        assert sorted(d for one in parts for batch in one for d in batch) == sorted(together)


def test_generated_scenes_come_by_number():
    schedule = Schedule(n_pictures=12, batch=3, seed=2, rank=1, world_size=2, endless=True)
    assert places(schedule, 3) == [[3, 4, 5], [9, 10, 11], [15, 16, 17]]
    assert places(schedule, 1, step=10**7) == [[60000003, 60000004, 60000005]]


def test_generated_scenes_of_one_shape_come_together_and_none_twice():
    schedule = Schedule(n_pictures=40, batch=4, seed=0, wide=lambda i: i % 3 == 0, endless=True)
    batches = places(schedule, 30)
    assert sorted(sum(batches, [])) == list(range(120))
    assert len([batch for batch in batches if len({i % 3 == 0 for i in batch}) == 2]) <= 3
    assert places(schedule, 7, step=13) == batches[13:20]


def test_pictures_of_one_shape_come_together():
    wide = [i % 3 != 0 for i in range(50)]
    schedule = Schedule(n_pictures=50, batch=4, seed=0, wide=wide.__getitem__)
    batches = places(schedule, 12)
    mixed = [batch for batch in batches if len({wide[i] for i in batch}) == 2]
    assert len(mixed) <= 2 and len(set(sum(batches, []))) == 48
    plain = places(Schedule(n_pictures=50, batch=4, seed=0), 12)
    assert len([batch for batch in plain if len({wide[i] for i in batch}) == 2]) > 4


def test_those_that_fill_no_group_keep_their_order():
    wide = [True, False, True, True, False, True, False, True]
    assert by_shape([7, 0, 1, 4, 2, 3, 6, 5], wide.__getitem__, 3) == [7, 0, 2, 1, 4, 6, 3, 5]
    assert by_shape([1, 0, 4, 2], wide.__getitem__, 3) == [1, 0, 4, 2]


def test_a_step_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match=r"takes 8 pictures .*--batch 2 .*2 x 2 processes.* are 7"):
        Schedule(n_pictures=7, batch=2, accumulate=2, seed=0, world_size=2)


def test_seeds_of_neighbours_differ():
    seeds = {seed_for(a, b, c) for a in range(3) for b in range(5) for c in range(40)}
    assert len(seeds) == 600


# From a schedule to pictures --------------------------------------------------------------------


def noisy(image, target):
    """An augmentation whose draws can be read from the picture."""
    return torch.rand(3), target


def drawn(workers, batch=2, pictures=12, **changes):
    dataset = Seeded(Shapes(9, seed=1, transforms=noisy), seed=changes.pop("seed", 0))
    schedule = Schedule(n_pictures=9, batch=batch, seed=4, **changes)
    batches = open_batches(dataset, schedule.batches_from(0), workers)
    found = []
    while len(found) < pictures:
        images, targets = next(batches)
        found += [(t["image_id"], i.tolist()) for i, t in zip(images, targets, strict=True)]
    return found


def test_augmentation_is_the_same_whatever_the_number_of_workers():
    alone = drawn(workers=0)
    assert len({tuple(noise) for _, noise in alone}) == 12
    for workers in (1, 2):
        assert drawn(workers) == alone
    assert drawn(0, batch=4) == alone  # nor does it depend on the batch
    assert drawn(0, seed=1) != alone


def test_reading_pictures_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    drawn(workers=0)
    assert torch.equal(torch.rand(2), expected)


class Broken(Shapes):
    def __getitem__(self, i):
        if i == 3:
            raise DataError("picture 3 cannot be read; copy it anew")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_as_it_was_raised(workers):
    batches = open_batches(Broken(5, seed=0), [[0, 1], [2, 3]], workers)
    assert [target["image_id"] for target in next(batches)[1]] == [1, 2]
    with pytest.raises(DataError) as raised:
        next(batches)
    assert str(raised.value) == "picture 3 cannot be read; copy it anew"
