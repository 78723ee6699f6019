"""Lesson 06: its exercises, its planted faults, and the numbers that its text relies on."""

import itertools
import math

import numpy as np
import pytest
import torch
from notebook_reading import LESSONS, read

from ddetr_edu import ms_deform_attn
from ddetr_edu.attention import aggregate
from ddetr_edu.attention.grid_sample import ms_deform_attn_grid_sample
from ddetr_edu.attention.naive import ms_deform_attn_naive
from ddetr_edu.course import checks, solutions
from ddetr_edu.course.colour_example import colour_example
from ddetr_edu.course.exercises.attention_faults import FAULTS, attention_by

WHOLE = ("naive_attention", "grid_sample_attention")
CAUGHT = {  # by the output, the gradients of .sum(), those of a random upstream gradient
    "x and y swapped": (True, True, True),
    "maps laid out as (W, H)": (True, True, True),
    "outermost pixels repeated outside": (True, True, True),
    "heads and channels interleaved": (True, False, True),
    "queries of the images interleaved": (True, False, True),
    "the sum does not start at zero": (True, False, False),
    "no gradient for the locations": (False, True, True),
    "their gradient lacks W and H": (False, True, True),
    "channel 0's gradient for all of them": (False, False, True),
}
HIDDEN = {  # by one image, a square level and locations well inside
    "maps laid out as (W, H)",
    "outermost pixels repeated outside",
    "queries of the images interleaved",
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_solutions_agree_with_every_implementation(name):
    for arguments in getattr(checks, name).cases().values():
        result = getattr(solutions, name)(*arguments)
        for backend in ("naive", "grid_sample"):
            expected = ms_deform_attn(*arguments, backend=backend)
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_the_sum_agrees_with_the_library():
    for samples, weights in checks.aggregate.cases().values():
        result = solutions.aggregate(samples, weights)
        torch.testing.assert_close(result, aggregate(samples, weights))


@pytest.mark.parametrize("name", WHOLE)
def test_cases_reach_inside_the_border_and_outside(name):
    points = [
        locations.flatten(0, -2) for _, _, locations, _ in getattr(checks, name).cases().values()
    ]
    points = torch.cat(points)
    inside = ((points > 0) & (points < 1)).all(-1).double().mean()
    outside = ((points < 0) | (points > 1)).any(-1).double().mean()
    on_border = ((points == 0) | (points == 1)).any(-1).double().mean()
    assert min(inside, outside) > 0.2 and on_border > 0.1


def with_numpy(value, spatial_shapes, locations, weights):
    """Everything at once for each level, by the four corners, without torch."""
    value, locations, weights = (tensor.numpy() for tensor in (value, locations, weights))
    output, start = 0.0, 0
    n_images, n_queries, n_heads = locations.shape[:3]
    n, m = np.arange(n_images)[:, None, None, None], np.arange(n_heads)[:, None]
    for level, (height, width) in enumerate(spatial_shapes):
        maps = value[:, start : start + height * width].reshape(
            n_images, height, width, n_heads, -1
        )
        start += height * width
        x, y = np.moveaxis(locations[:, :, :, level] * (width, height) - 0.5, -1, 0)
        for dy, dx in itertools.product((0, 1), repeat=2):
            row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            weight = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[:, :, :, level]
            weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            pixel = maps[n, row.clip(0, height - 1), column.clip(0, width - 1), m]
            output = output + (weight[..., None] * pixel).sum(3)
    return output.reshape(n_images, n_queries, -1)


def in_single_precision(value, spatial_shapes, locations, weights):
    heads = ms_deform_attn(value.float(), spatial_shapes, locations.float(), weights.float())
    return heads.tolist()


def with_channels_last_in_the_batch(value, spatial_shapes, locations, weights):
    """One image, head and query at a time: other batch axes do as well."""
    rows = []
    for n, m in itertools.product(range(value.shape[0]), range(value.shape[2])):
        one = (value[n : n + 1, :, m : m + 1], spatial_shapes)
        rows.append(
            ms_deform_attn_grid_sample(
                *one, *(t[n : n + 1, :, m : m + 1] for t in (locations, weights))
            )
        )
    return torch.cat(rows).unflatten(0, (value.shape[0], -1)).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "answer",
    [
        with_numpy,
        in_single_precision,
        with_channels_last_in_the_batch,
        ms_deform_attn_naive,
        ms_deform_attn_grid_sample,
        attention_by(),
    ],
)
def test_right_answers_in_other_styles(name, answer):
    result = getattr(checks, name).check(answer)
    assert result.passed, result.message


def test_other_sums_pass():
    def by_loops(samples, weights):
        output = np.zeros((*samples.shape[:3], samples.shape[-1]))
        for n, q, m, l, p in np.ndindex(*weights.shape):
            output[n, q, m] += weights[n, q, m, l, p].item() * samples[n, q, m, l, p].numpy()
        return output.reshape(*samples.shape[:2], -1)

    def by_matrix_product(samples, weights):
        flat = weights.flatten(3)[..., None, :] @ samples.flatten(3, 4)
        return flat.squeeze(-2).flatten(2)

    for answer in (by_loops, by_matrix_product):
        result = checks.aggregate.check(answer)
        assert result.passed, result.message


# The planted faults


def draw(n, q, m, shapes, p, d, margin):
    generator = torch.Generator().manual_seed(0)
    tokens, points = sum(h * w for h, w in shapes), (n, q, m, len(shapes), p)
    value = torch.randn(n, tokens, m, d, generator=generator, dtype=torch.float64)
    locations = torch.rand(*points, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(points, generator=generator, dtype=torch.float64)
    upstream = torch.randn(n, q, m * d, generator=generator, dtype=torch.float64)
    return value, shapes, locations * (1 + 2 * margin) - margin, weights, upstream


def differences(attend, value, shapes, locations, weights, upstream):
    """Largest differences to the right implementation: output, .sum(), random upstream."""
    results = []
    for function in (attend, ms_deform_attn_grid_sample):
        leaves = [t.clone().requires_grad_() for t in (value, locations, weights)]
        output = function(leaves[0], shapes, *leaves[1:])
        gradients = [
            torch.autograd.grad(output, leaves, g, retain_graph=True, materialize_grads=True)
            for g in (torch.ones_like(output), upstream)
        ]
        results.append([[output], *gradients])
    return [
        max((a - b).abs().max().item() for a, b in zip(ours, right, strict=True))
        for ours, right in zip(*results, strict=True)
    ]


def test_each_fault_is_caught_by_what_the_lesson_says():
    inputs = draw(2, 11, 5, [(8, 6), (4, 9), (3, 1)], 7, 13, 0.1)
    found = {
        name: tuple(d > 1e-6 for d in differences(attend, *inputs))
        for name, attend in FAULTS.items()
    }
    assert found == CAUGHT
    assert [sum(column) for column in zip(*CAUGHT.values(), strict=True)] == [6, 5, 8]
    assert max(differences(attention_by(), *inputs)) < 1e-10


def test_convenient_inputs_hide_three_faults():
    inputs = draw(1, 4, 4, [(4, 4)], 4, 4, -0.2)
    hidden = {
        name
        for name, attend in FAULTS.items()
        if max(d for k, d in enumerate(differences(attend, *inputs)) if k != 1) < 1e-6
    }
    assert hidden == HIDDEN


def test_the_lesson_lists_the_faults_in_their_order():
    (lesson,) = [read(path) for path in LESSONS if path.stem.startswith("06")]
    (listing,) = [c.source for c in lesson.cells if c.id == "06-break-guess-text"]
    assert len([line for line in listing.splitlines() if line[:1].isdigit()]) == len(FAULTS)
    assert "nine faults" in listing and list(FAULTS) == list(CAUGHT)


# The example in colours


def test_the_colours_are_an_attention():
    value, shapes, locations, weights, samples, output = colour_example()
    assert samples.shape == (2, 3, 2, 2, 4, 3) and output.shape == (2, 3, 6)
    assert value.min() >= 0 and value.max() <= 1
    torch.testing.assert_close(value[:, :, 0] + value[:, :, 1], torch.ones_like(value[:, :, 0]))
    torch.testing.assert_close(aggregate(samples, weights), output)
    torch.testing.assert_close(output.unflatten(-1, (2, 3)), samples.mean((3, 4)))
    naive = ms_deform_attn_naive(value, shapes, locations, weights)
    torch.testing.assert_close(naive, output)


def test_the_colours_show_what_the_lesson_says():
    value, shapes, locations, _, samples, _ = colour_example()
    assert sum(math.prod(shape) for shape in shapes) == value.shape[1] == 315
    centre = locations.mean((2, 4), keepdim=True)
    assert (locations[:, :, 0, ..., 0] > centre[:, :, 0, ..., 0]).all()  # head 0 to the right
    assert (locations[:, :, 1, ..., 0] < centre[:, :, 0, ..., 0]).all()
    reach = (locations - centre).abs().amax((2, 4))[..., 0]  # (N, Lq, L)
    torch.testing.assert_close(reach[..., 1], 2 * reach[..., 0])
    distance = (locations - centre).norm(dim=-1)  # (N, Lq, M, L, P)
    assert (distance.argmin(-1) == 0).all()  # p0 is the nearest to the centre
    black = (samples == 0).all(-1)
    outside = ((locations < 0) | (locations > 1)).any(-1)
    assert black.sum() == 2 and outside[black].all()
