"""Lesson 07: its solutions agree with the library, other right answers pass, its figures hold."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.attention import bilinear_sample, encoder_reference_points
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks, solutions
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.models import position
from ddetr_edu.models.deformable_detr import InputProjection

SHAPES = [(24, 28), (12, 14), (6, 7)]  # of an image of 192 x 224


@pytest.fixture(scope="module")
def detector():
    return dd.load(shipped_checkpoint())


# The solutions, and right answers in other styles


def test_positions_on_levels_are_where_the_library_reads():
    for references, shapes in checks.reference_on_levels.cases().values():
        for reference, of_levels in zip(
            references, solutions.reference_on_levels(references, shapes), strict=True
        ):
            for (height, width), pixel in zip(shapes, of_levels, strict=True):
                # Zeros are read outside: maps with a margin are compared instead.
                y, x = torch.meshgrid(
                    torch.arange(-1.0, height + 1), torch.arange(-1.0, width + 1), indexing="ij"
                )
                numbers = torch.stack([x, y], dim=-1).double()
                x, y = (reference * torch.tensor([width, height]) + 1) / torch.tensor(
                    [width + 2, height + 2]
                )
                torch.testing.assert_close(bilinear_sample(numbers, x, y).float(), pixel)


def test_reference_points_are_the_librarys():
    for (shapes,) in checks.encoder_reference_points.cases().values():
        of_library = encoder_reference_points(shapes, torch.ones(1, len(shapes), 2))[0]
        torch.testing.assert_close(solutions.encoder_reference_points(shapes), of_library)


def test_the_embedding_is_the_librarys_inside_the_image():
    for padding_mask, n_channels, _ in checks.sine_position.cases().values():
        embedding = solutions.sine_position(padding_mask, n_channels, 10000)
        of_library = position.sine_position(padding_mask[None], n_channels)[0]
        inside = ~padding_mask
        torch.testing.assert_close(embedding[:, inside], of_library[:, inside], atol=1e-5, rtol=0)
        assert not embedding[:, padding_mask].any()


def test_other_styles_pass():
    def on_levels(references, shapes):
        return [[[x * w - 0.5, y * h - 0.5] for h, w in shapes] for x, y in references.tolist()]

    def in_one_line(references, shapes):
        return references[:, None] * torch.tensor(shapes).flip(1) - 0.5

    def by_numpy(shapes):
        levels = []
        for h, w in shapes:
            rows, columns = np.mgrid[:h, :w]
            levels.append(np.stack([(columns + 0.5) / w, (rows + 0.5) / h], -1).reshape(-1, 2))
        return np.concatenate(levels)[:, None].repeat(len(shapes), axis=1)

    def by_linspace(shapes):
        levels = []
        for h, w in shapes:
            x = torch.linspace(0.5 / w, 1 - 0.5 / w, w)
            y = torch.linspace(0.5 / h, 1 - 0.5 / h, h)
            levels.append(torch.cartesian_prod(y, x).view(-1, 2).flip(1))
        return torch.cat(levels)[:, None].expand(-1, len(shapes), 2)

    def by_loops(padding_mask, n_channels, temperature):
        height, width = padding_mask.shape
        h, w = (~padding_mask).any(1).sum().item(), (~padding_mask).any(0).sum().item()
        embedding = np.zeros((n_channels, height, width))
        for c in range(n_channels):
            half, within = divmod(c, n_channels // 2)
            wave = (math.sin, math.cos)[within % 2]
            for i in range(h):
                for j in range(w):
                    turn = ((i + 0.5) / h, (j + 0.5) / w)[half] * 2 * math.pi
                    embedding[c, i, j] = wave(
                        turn / temperature ** (4 * (within // 2) / n_channels)
                    )
        return embedding

    def by_the_library(padding_mask, n_channels, temperature):
        image = (~padding_mask).double()
        y, x = image.cumsum(0) - 0.5, image.cumsum(1) - 0.5
        halves = []
        for counts, size in ((y, image[:, 0].sum()), (x, image[0].sum())):
            power = torch.arange(n_channels // 4) / (n_channels // 4)
            angle = 2 * math.pi * counts[..., None] / size / temperature**power
            halves.append(torch.stack([angle.sin(), angle.cos()], -1).flatten(-2))
        return torch.cat(halves, -1).permute(2, 0, 1).masked_fill(padding_mask, 0)

    for exercise, answers in (
        (checks.reference_on_levels, (on_levels, in_one_line)),
        (checks.encoder_reference_points, (by_numpy, by_linspace)),
        (checks.sine_position, (by_loops, by_the_library)),
    ):
        for answer in answers:
            result = exercise.check(answer)
            assert result.passed, result.message


def test_swapped_axes_are_found_though_ap_would_not_tell():
    def x_first(*arguments):
        y, x = solutions.sine_position(*arguments).chunk(2)
        return torch.cat([x, y])

    assert not checks.sine_position.check(x_first).passed


# What the lesson says


def test_no_token_lies_on_one_of_the_next_level():
    fine, coarse = (encoder_reference_points([s], torch.ones(1, 1, 2))[0, :, 0] for s in SHAPES[:2])
    assert torch.cdist(fine, coarse).min() > 0.01


def test_the_fourth_level_has_most_parameters_of_the_projection():
    projection = InputProjection((512, 1024, 2048), d_model=256, n_levels=4)
    counts = [sum(p.numel() for p in level.parameters()) for level in projection.levels]
    assert 0.83 < counts[3] / sum(counts) < 0.84


def test_only_the_level_embedding_tells_two_tokens_in_the_middle_apart(detector):
    fine, coarse = (
        position.sine_position(torch.zeros(1, *shape, dtype=torch.bool), 128)[0]
        for shape in ((25, 27), (7, 7))
    )
    middle = fine[:, 12, 13]
    torch.testing.assert_close(middle, coarse[:, 3, 3])
    levels = detector.model.level_embedding.detach()
    farthest = (fine - middle[:, None, None]).norm(dim=0).max()
    assert (levels[0] - levels[2]).norm() > 2 * farthest


def test_size_decides_where_a_query_starts_and_it_reads_mostly_the_finest_level(detector):
    sides, starts, reads = [], [], []
    for i in range(30):
        with dd.capture(detector.model, "decoder*") as records:
            found = detector.predict(held_out_scenes("test")[i][0])
        x1, y1, x2, y2 = found["boxes"].unbind(-1)
        sides.append(((x2 - x1) * (y2 - y1)).sqrt())
        ends = torch.tensor([h * w for h, w in records[0].spatial_shapes]).cumsum(0)
        tokens = records.proposals[0].topk_indices[0, found["queries"]]
        starts.append(torch.bucketize(tokens, ends, right=True))
        reads.append(records[-1].weights[0, found["queries"]].mean(1).sum(-1))
    sides, starts, reads = torch.cat(sides), torch.cat(starts), torch.cat(reads)
    small, large = sides < 32, sides >= 64
    assert small.sum() > 20 and large.sum() > 5
    assert (starts[small] == 0).all()
    assert (starts[large] == 0).sum() <= 1 and (starts[large] < 2).all()
    torch.testing.assert_close(reads.sum(1), torch.ones(len(reads)))
    assert 0.6 < reads[large, 0].mean() < 0.8 < reads[small, 0].mean() - 0.05


def test_what_is_taken_away_costs_what_the_lesson_says(detector):
    scenes = held_out_scenes("test").first(15)

    def ap(name="AP"):
        return evaluate(detector, scenes, batch_size=1, show_progress=False)[0][name]

    def forget_half_pixel(shapes, ratios):
        half = [torch.tensor([0.5 / w, 0.5 / h]).expand(h * w, 2) for h, w in shapes]
        return encoder_reference_points(shapes, ratios) - torch.cat(half)[:, None]

    as_trained = ap()
    assert as_trained > 0.75
    with patch("ddetr_edu.models.encoder.encoder_reference_points", forget_half_pixel):
        assert ap() < 0.35 * as_trained
        assert ap("AP50") > 5 * ap("AP75")  # boxes of most sizes are found, but not exactly
    with patch(
        "ddetr_edu.models.deformable_detr.sine_position",
        lambda *args, **kwargs: 0 * position.sine_position(*args, **kwargs),
    ):
        without_position = ap()
    assert as_trained - 0.1 < without_position < as_trained
    with patch(
        "ddetr_edu.models.deformable_detr.sine_position",
        lambda *args, **kwargs: (
            position.sine_position(*args, **kwargs)
            .mean((2, 3), keepdim=True)
            .expand(-1, -1, *args[0].shape[1:])
        ),
    ):
        same_everywhere = ap()
    assert without_position + 0.02 < same_everywhere  # the position is not what was missed
    assert same_everywhere > as_trained - 0.03
    zero = torch.nn.Parameter(torch.zeros(3, 128))
    with patch.object(detector.model, "level_embedding", zero):
        without_level = ap()
    assert as_trained - without_level > 5 * (as_trained - without_position)
    mean = torch.nn.Parameter(detector.model.level_embedding.detach().mean(0).expand(3, -1))
    with patch.object(detector.model, "level_embedding", mean):
        same_level = ap()
    assert same_level < without_level + 0.05  # here it is the level that is missed
    assert ap() == as_trained  # the parameter is back in its place
