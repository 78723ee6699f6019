"""Lesson 04: what its text relies on, its exercises in other styles, and its planted faults."""

import itertools
import math

import numpy as np
import pytest
import torch

from ddetr_edu import MSDeformAttn, attention
from ddetr_edu.attention import encoder_reference_points, initial_offsets
from ddetr_edu.course import checks
from ddetr_edu.course.exercises import lesson_04_faults as faults

SHAPES = [(100, 150), (50, 75), (25, 38), (13, 19)]
MAP = [(8, 16), (4, 8)]  # of the figures of planted faults
POINTS = torch.tensor([[4.5 / 16, 4.5 / 8], [14.5 / 16, 1.5 / 8]], dtype=torch.float64)
BOXES = torch.tensor([[0.5, 0.5, 0.3, 0.4]], dtype=torch.float64)


@pytest.fixture(scope="module")
def locations():
    """Of an untrained encoder, (S, M, L, P, 2)."""
    centres = encoder_reference_points(SHAPES, torch.ones(1, 4, 2))
    offsets = initial_offsets(8, 4, 4).expand(*centres.shape[:2], 8, 4, 4, 2)
    return attention.sampling_locations(centres, offsets, SHAPES)[0]


def test_nearly_a_quarter_of_the_coarsest_points_is_outside(locations):
    outside = ((locations < 0) | (locations > 1)).any(-1).float().mean((0, 1, 3))
    torch.testing.assert_close(outside[3].item(), 0.23, atol=0.005, rtol=0)
    assert (outside[1:] > 1.8 * outside[:-1]).all()  # about twice as many from level to level
    reads_nothing = (locations[:, 0, 3, 3, 0] >= 1 + 0.5 / 19).float().mean()
    assert 0.15 < reads_nothing < 0.25  # four in five queries still teach this point


def test_the_reach_at_stride_64_is_256_and_362_pixels():
    far = checks.reach.solution(initial_offsets(8, 4, 4), [8, 16, 32, 64])
    assert far[0].tolist() == pytest.approx([32, 64, 128, 256])
    assert far[1, 3].item() == pytest.approx(362, abs=0.1)


def test_offsets_are_whole_pixels_for_few_numbers_of_heads():
    rays = {heads: initial_offsets(heads, 1, 1) for heads in range(1, 17)}
    whole = [heads for heads, r in rays.items() if torch.allclose(r, r.round(), atol=1e-6)]
    assert whole == [1, 2, 4, 8]


def test_points_that_start_in_one_place_stay_together():
    torch.manual_seed(0)
    layer = MSDeformAttn(16, n_heads=2, n_levels=1, n_points=3, backend="grid_sample")
    torch.nn.init.zeros_(layer.sampling_offsets.bias)
    references = encoder_reference_points([(4, 7)], torch.ones(1, 1, 2))
    tokens, target = torch.randn(2, 1, 28, 16)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (layer(tokens, references, tokens, [(4, 7)]) - target).square().mean().backward()
        optimizer.step()
    offsets, _, weights = layer.sampling_locations_and_weights(tokens, references, [(4, 7)])
    assert offsets.abs().max() > 0.05  # they moved
    torch.testing.assert_close(offsets, offsets[..., :1, :].expand_as(offsets), rtol=0, atol=1e-4)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3), rtol=0, atol=1e-4)
    heads_apart = (offsets[:, :, 0] - offsets[:, :, 1]).norm(dim=-1)
    assert heads_apart.mean() > 0.05  # the text says that heads come apart


def test_points_start_on_centres_of_their_own_level_and_of_no_coarser_one(locations):
    def distance_to_a_centre(level):
        height, width = SHAPES[level]
        pixel = locations[:15_000, :, level].double() * torch.tensor([width, height]) - 0.5
        return (pixel - pixel.round()).abs()

    assert distance_to_a_centre(0).max() < 1e-4
    torch.testing.assert_close(  # 50 x 75 is exactly half of 100 x 150
        distance_to_a_centre(1), torch.full((15_000, 8, 4, 2), 0.25).double(), atol=1e-4, rtol=0
    )


def test_other_styles_pass():
    def reach_by_loops(offsets, strides):
        heads, levels, points, _ = offsets.shape
        return [
            [
                strides[l] * max(math.hypot(*offsets[m, l, p].tolist()) for p in range(points))
                for l in range(levels)
            ]
            for m in range(heads)
        ]

    def star_by_loops(n_heads, n_levels, n_points):
        offsets = np.zeros((n_heads, n_levels, n_points, 2))
        for m, l, p in itertools.product(range(n_heads), range(n_levels), range(n_points)):
            angle = 2 * math.pi * m / n_heads
            larger = max(abs(math.cos(angle)), abs(math.sin(angle)))
            offsets[m, l, p] = (p + 1) * np.array([math.cos(angle), math.sin(angle)]) / larger
        return offsets

    def locations_in_numpy(reference_points, offsets, spatial_shapes):
        reference, offsets = reference_points.numpy(), offsets.numpy()
        if reference.shape[-1] == 2:
            size = np.array(spatial_shapes)[:, None, ::-1]  # (L, 1, 2) (W, H)
            return reference[:, :, None, :, None] + offsets / size
        half = reference[:, :, None, :, None, 2:] / 2
        return reference[:, :, None, :, None, :2] + offsets * half / offsets.shape[-2]

    for exercise, answer in [
        (checks.reach, reach_by_loops),
        (checks.reach, lambda o, s: (o.square().sum(-1).sqrt() * torch.tensor(s)[:, None]).amax(2)),
        (checks.initial_offsets, star_by_loops),
        (checks.sampling_locations, locations_in_numpy),
        (checks.sampling_locations, attention.sampling_locations),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


def drawn(version):
    """References (1, Lq, L, 2 or 4) and offsets (1, Lq, 3, L, 3, 2) of a version's figure."""
    references = BOXES if version in ("version 6", "version 7") else POINTS
    queries, numbers = references.shape
    return (
        references[None, :, None].expand(1, queries, 2, numbers),
        faults.letter_f(2).expand(1, queries, 3, 2, 3, 2),
    )


def words_like(version, references, offsets):
    """The faults whose points are within a quarter of a pixel of a version's."""
    sizes = torch.tensor([(width, height) for height, width in MAP])[:, None]
    seen = faults.broken_locations(version, references, offsets, MAP)
    return [
        word
        for word, fault in faults.FAULTS.items()
        if ((fault.locations(references, offsets, MAP) - seen) * sizes).abs().max() < 0.25
    ]


@pytest.mark.parametrize("version", faults.VERSIONS)
def test_a_figure_shows_its_fault_and_no_other_or_fills_every_ring(version):
    references, offsets = drawn(version)
    right = attention.sampling_locations(references, offsets, MAP)
    seen = faults.broken_locations(version, references, offsets, MAP)
    if faults.VERSIONS[version] in faults.HIDDEN:
        torch.testing.assert_close(seen, right)
    else:
        sizes = torch.tensor([(width, height) for height, width in MAP])[:, None]
        assert ((seen - right) * sizes).abs().max() > 0.4
        assert words_like(version, references, offsets) == [faults.VERSIONS[version]]


@pytest.mark.parametrize("version", ["version 5", "version 7"])
def test_less_regular_inputs_show_the_hidden_faults(version):
    """Sizes that all differ, and references that differ along every axis, leave one word."""
    generator = torch.Generator().manual_seed(0)
    numbers = 4 if version == "version 7" else 2
    references = torch.rand(3, 4, 2, numbers, generator=generator, dtype=torch.float64)
    offsets = 3 * torch.randn(3, 4, 6, 2, 5, 2, generator=generator, dtype=torch.float64)
    assert words_like(version, references, offsets) == [faults.VERSIONS[version]]


def test_the_experiments_that_are_suggested_against_a_hidden_fault_refute_it():
    """With four heads of four points, version 7 is right, and a division by 3 would be wrong."""
    references = torch.tensor([0.5, 0.5, 0.3, 0.4], dtype=torch.float64).expand(1, 1, 2, 4)
    offsets = initial_offsets(4, 2, 4).double()[None, None]
    right = attention.sampling_locations(references, offsets, MAP)
    torch.testing.assert_close(
        faults.broken_locations("version 7", references, offsets, MAP), right
    )
    assert "always 3" not in words_like("version 7", references, offsets)


def test_no_mirror_image_or_turn_of_the_letter_is_the_letter():
    """A pattern that a fault leaves as it is would not show the fault."""

    def as_set(points):
        return {(x + 0.0, y + 0.0) for x, y in points.reshape(-1, 2).tolist()}  # -0 is 0

    for signs in itertools.product((1, -1), repeat=2):
        for swap in (False, True):
            turned = [
                p * torch.tensor(signs) for p in (faults.letter_f(1), initial_offsets(8, 1, 4))
            ]
            letter, star = [p.flip(-1) if swap else p for p in turned]
            is_itself = signs == (1, 1) and not swap
            assert (as_set(letter) == as_set(faults.letter_f(1))) == is_itself
            assert as_set(star.round()) == as_set(initial_offsets(8, 1, 4).round())
