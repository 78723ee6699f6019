"""The order of the images: each once per epoch, from any step on, for any number of processes."""

from itertools import islice

import pytest
import torch

from ddetr_edu.data.annotations import DataError
from ddetr_edu.data.loading import (
    DeterministicDataset,
    InfiniteBatchSampler,
    collate,
    group_by_aspect_ratio,
    open_batches,
    seed_for,
)
from ddetr_edu.data.shapes import Shapes


def image_batches(sampler, batches, step=0):
    samples = islice(sampler.batches_from(step), batches)
    return [[sample.image for sample in batch] for batch in samples]


def test_each_epoch_takes_every_image_in_a_new_order():
    sampler = InfiniteBatchSampler(n_images=35, batch_size=5, seed=3)
    assert sampler.steps_per_epoch == 7
    batches = image_batches(sampler, 21)
    epochs = [sum(batches[i : i + 7], []) for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(35)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and list(range(35)) not in epochs
    assert image_batches(sampler, 21) == batches
    assert image_batches(InfiniteBatchSampler(n_images=35, batch_size=5, seed=4), 21) != batches


def test_images_that_fill_no_step_are_skipped_and_not_always_the_same():
    sampler = InfiniteBatchSampler(n_images=11, batch_size=4, seed=0)
    skipped = []
    for epoch in range(9):
        taken = sum(image_batches(sampler, 2, step=2 * epoch), [])
        assert len(set(taken)) == 8
        skipped += sorted(set(range(11)) - set(taken))
    assert len(set(skipped)) > 8


@pytest.mark.parametrize("accum_steps", [1, 3])
def test_it_begins_at_any_step(accum_steps):
    sampler = InfiniteBatchSampler(n_images=31, batch_size=2, grad_accum_steps=accum_steps, seed=7)
    whole = list(islice(sampler.batches_from(0), 20 * accum_steps))
    for step in (1, sampler.steps_per_epoch, 13):
        rest = list(islice(sampler.batches_from(step), (20 - step) * accum_steps))
        assert rest == whole[step * accum_steps :]


def test_the_running_numbers_count_the_images_of_the_run():
    sampler = InfiniteBatchSampler(n_images=7, batch_size=3, seed=1)
    batches = islice(sampler.batches_from(0), 9)
    assert [sample.number for batch in batches for sample in batch] == list(range(27))


@pytest.mark.parametrize("world_size, accum_steps", [(2, 1), (1, 2), (3, 2)])
def test_processes_and_batches_share_the_images_of_a_step(world_size, accum_steps):
    single = InfiniteBatchSampler(n_images=40, batch_size=12, seed=5)
    shared = [
        InfiniteBatchSampler(
            n_images=40,
            batch_size=12 // (world_size * accum_steps),
            grad_accum_steps=accum_steps,
            seed=5,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for step in range(7):
        (expected,) = islice(single.batches_from(step), 1)
        parts = [list(islice(one.batches_from(step), accum_steps)) for one in shared]
        assert sorted(s for one in parts for batch in one for s in batch) == sorted(expected)


def test_generated_scenes_come_in_order():
    sampler = InfiniteBatchSampler(
        n_images=12, batch_size=3, seed=2, rank=1, world_size=2, generated=True
    )
    assert image_batches(sampler, 3) == [[3, 4, 5], [9, 10, 11], [15, 16, 17]]
    assert image_batches(sampler, 1, step=10**7) == [[60000003, 60000004, 60000005]]


def test_generated_scenes_of_one_orientation_come_together_and_none_twice():
    sampler = InfiniteBatchSampler(
        n_images=40, batch_size=4, seed=0, is_landscape=lambda i: i % 3 == 0, generated=True
    )
    batches = image_batches(sampler, 30)
    assert sorted(sum(batches, [])) == list(range(120))
    assert len([batch for batch in batches if len({i % 3 == 0 for i in batch}) == 2]) <= 3
    assert image_batches(sampler, 7, step=13) == batches[13:20]


def test_images_of_one_orientation_come_together():
    landscape = [i % 3 != 0 for i in range(50)]
    sampler = InfiniteBatchSampler(
        n_images=50, batch_size=4, seed=0, is_landscape=landscape.__getitem__
    )
    batches = image_batches(sampler, 12)
    mixed = [batch for batch in batches if len({landscape[i] for i in batch}) == 2]
    assert len(mixed) <= 2 and len(set(sum(batches, []))) == 48
    plain = image_batches(InfiniteBatchSampler(n_images=50, batch_size=4, seed=0), 12)
    assert len([batch for batch in plain if len({landscape[i] for i in batch}) == 2]) > 4


def test_images_that_fill_no_group_keep_their_order():
    landscape = [True, False, True, True, False, True, False, True].__getitem__
    grouped = group_by_aspect_ratio([7, 0, 1, 4, 2, 3, 6, 5], landscape, 3)
    assert grouped == [7, 0, 2, 1, 4, 6, 3, 5]
    assert group_by_aspect_ratio([1, 0, 4, 2], landscape, 3) == [1, 0, 4, 2]


def test_a_step_larger_than_the_data_set_is_an_error():
    message = r"takes 8 images \(--batch-size 2 x --grad-accum-steps 2 x 2 processes\).* are 7 to"
    with pytest.raises(ValueError, match=message):
        InfiniteBatchSampler(n_images=7, batch_size=2, grad_accum_steps=2, seed=0, world_size=2)


def test_neighbouring_numbers_give_different_seeds():
    seeds = {seed_for(a, b, c) for a in range(3) for b in range(5) for c in range(40)}
    assert len(seeds) == 600


# From a sampler to images -----------------------------------------------------------------------


def noisy(image, target):
    """An augmentation whose random numbers can be read from the image."""
    return torch.rand(3), target


def load_samples(workers, batch_size=2, n_samples=12, seed=0):
    dataset = DeterministicDataset(Shapes(9, seed=1, transforms=noisy), seed)
    sampler = InfiniteBatchSampler(n_images=9, batch_size=batch_size, seed=4)
    batches = open_batches(dataset, sampler.batches_from(0), workers)
    samples = []
    while len(samples) < n_samples:
        images, targets = next(batches)
        samples += [(t["image_id"], i.tolist()) for i, t in zip(images, targets, strict=True)]
    return samples


def test_augmentation_is_the_same_for_any_number_of_workers():
    expected = load_samples(workers=0)
    assert len({tuple(noise) for _, noise in expected}) == 12
    for workers in (1, 2):
        assert load_samples(workers) == expected
    assert load_samples(0, batch_size=4) == expected  # nor does it depend on the batch
    assert load_samples(0, seed=1) != expected


def test_reading_images_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_samples(workers=0)
    assert torch.equal(torch.rand(2), expected)


def test_collate_keeps_images_of_different_sizes():
    dataset = Shapes(3, seed=2)
    images, targets = next(iter(torch.utils.data.DataLoader(dataset, 3, collate_fn=collate)))
    assert isinstance(images, list) and isinstance(targets, list)
    assert len({image.shape for image in images}) == 3
    assert [t["image_id"] for t in targets] == [1, 2, 3]
    assert all(torch.equal(t["boxes"], dataset[i][1]["boxes"]) for i, t in enumerate(targets))


class Broken(Shapes):
    def __getitem__(self, i):
        if i == 3:
            raise DataError("image 3 cannot be read; copy it again")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_as_it_was_raised(workers):
    batches = open_batches(Broken(5, seed=0), [[0, 1], [2, 3]], workers)
    assert [target["image_id"] for target in next(batches)[1]] == [1, 2]
    with pytest.raises(DataError) as raised:
        next(batches)
    assert str(raised.value) == "image 3 cannot be read; copy it again"
