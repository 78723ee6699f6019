"""Lesson 03: its exercises accept right answers of any style, and what it says is true."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddetr_edu.attention import (
    bilinear_sample,
    bilinear_sample_backward,
    encoder_reference_points,
    initial_offsets,
    sampling_locations,
)
from ddetr_edu.course import checks
from ddetr_edu.course.exercises.lesson_03_backward import my_bilinear_backward, sample_by_triangles

CASES = checks.bilinear_backward.cases()
CENTRES = [name for name in CASES if name.startswith("exactly")]


def by_grid_sample(feature_map, x, y):
    grid = 2 * torch.stack([x, y])[None, None, None] - 1
    maps = feature_map.permute(2, 0, 1)[None]
    return F.grid_sample(maps, grid, align_corners=False)[0, :, 0, 0]


# Exercises


@pytest.mark.parametrize("case", CASES)
def test_the_backward_pass_agrees_with_the_library_torch_and_autograd(case):
    feature_map, x, y, grad_value = CASES[case]
    found = my_bilinear_backward(feature_map, x, y, grad_value)
    inputs = [t.clone().requires_grad_() for t in (feature_map, x, y)]
    for sample in (bilinear_sample, by_grid_sample):
        value = sample(*inputs) + 0 * sum(t.sum() for t in inputs)  # beyond reach, zeros alone
        expected = torch.autograd.grad(value, inputs, grad_value)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(one).double(), other)
    by_library = bilinear_sample_backward(feature_map, x, y, grad_value)
    for one, other in zip(found, by_library, strict=True):
        torch.testing.assert_close(torch.as_tensor(one).double(), other)


@pytest.mark.parametrize("case", [case for case in CASES if case not in CENTRES])
def test_the_backward_pass_agrees_with_finite_differences(case):
    feature_map, x, y, grad_value = CASES[case]
    _, *found = my_bilinear_backward(feature_map, x, y, grad_value)
    step = 1e-6
    for slope, (dx, dy) in zip(found, [(step, 0), (0, step)], strict=True):
        ahead = bilinear_sample(feature_map, x + dx, y + dy)
        behind = bilinear_sample(feature_map, x - dx, y - dy)
        difference = grad_value @ (ahead - behind) / (2 * step)
        torch.testing.assert_close(torch.as_tensor(slope).double(), difference, atol=1e-6, rtol=0)


def test_right_answers_in_other_styles():
    def weights_by_outer_product(x, y, height, width):
        column, row = x.item() * width - 0.5, y.item() * height - 0.5
        across, down = column % 1, row % 1
        return np.outer([1 - down, down], [1 - across, across]).ravel().tolist()

    def weights_by_triangles(x, y, height, width):
        column, row = x * width - 0.5, y * height - 0.5
        corners = [(r, c) for r in (0, 1) for c in (0, 1)]
        return [
            (1 - abs(row.floor() + r - row)) * (1 - abs(column.floor() + c - column))
            for r, c in corners
        ]

    def slope_by_differences(feature_map, x, y):
        step = 1e-5
        sample = lambda dx, dy: bilinear_sample(feature_map[..., None], x + dx, y + dy)  # noqa: E731
        return [
            ((sample(*ahead) - sample(-ahead[0], -ahead[1])) / (2 * step)).item()
            for ahead in ((step, 0.0), (0.0, step))
        ]

    def backward_by_autograd(feature_map, x, y, grad_value):
        inputs = [t.clone().requires_grad_() for t in (feature_map, x, y)]
        return torch.autograd.grad(by_grid_sample(*inputs), inputs, grad_value)

    def backward_by_padding(feature_map, x, y, grad_value):
        height, width, channels = feature_map.shape
        padded = np.zeros((height + 4, width + 4, channels))  # two pixels of zeros on each side
        padded[2:-2, 2:-2] = feature_map
        column = min(max(x.item() * width - 0.5, -2), width)
        row = min(max(y.item() * height - 0.5, -2), height)
        c, r = int(np.floor(column)), int(np.floor(row))
        u, v = column - c, row - r
        dots = padded[r + 2 : r + 4, c + 2 : c + 4] @ grad_value.numpy()
        grad = np.zeros_like(padded)
        weights = np.outer([1 - v, v], [1 - u, u])
        grad[r + 2 : r + 4, c + 2 : c + 4] = weights[..., None] * grad_value.numpy()
        grad_x = width * np.array([1 - v, v]) @ dots @ np.array([-1, 1])
        grad_y = height * np.array([-1, 1]) @ dots @ np.array([1 - u, u])
        return [grad[2:-2, 2:-2].astype(np.float32), float(grad_x), grad_y]

    for exercise, answers in [
        (checks.corner_weights, (weights_by_outer_product, weights_by_triangles)),
        (checks.bilinear_slope, (slope_by_differences,)),
        (checks.bilinear_backward, (backward_by_autograd, backward_by_padding)),
    ]:
        for answer in answers:
            result = exercise.check(answer)
            assert result.passed, result.message


def test_a_pixel_centre_decides_between_floor_and_its_rivals():
    """The cases at pixel centres are exact in any type, and only they find these mistakes."""
    for mistake, wrong in checks.bilinear_backward.mistakes.items():
        if mistake.startswith("at a pixel centre"):
            message = checks.bilinear_backward.check(wrong).message
            assert f"wrong: {'; '.join(CENTRES)}" in message
    for case in CENTRES:
        feature_map, x, y, _ = CASES[case]
        for at, size in ((x, feature_map.shape[1]), (y, feature_map.shape[0])):
            assert at.half() == at.bfloat16() == at or (at * size) % 1 != 0.5


# Exercises with several results


def backward_but(change):
    return lambda *arguments: change(*my_bilinear_backward(*arguments))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m, gx, gy: None, "returned None: is a `return` missing?\n  expected: (feature"),
        (lambda m, gx, gy: m, "the type Tensor; a tuple of 3 was expected: grad_map, grad_x, gra"),
        (lambda m, gx, gy: (m, gx), "the type tuple of length 2; a tuple of 3 was expected"),
        (lambda m, gx, gy: (m, None, gy), "returned None for grad_x"),
        (lambda m, gx, gy: (m, gx, str(gy)), "returned the string"),
        (lambda m, gx, gy: (m.permute(2, 0, 1), gx, gy), "grad_map: the shape is (3, 5, 7), but ("),
        (lambda m, gx, gy: (m, gx[None], gy), "grad_x: the shape is (1,), but () was expected"),
        (lambda m, gx, gy: (m, gx, gy + 1), "grad_y: expected "),
        (lambda m, gx, gy: (m + 0.5, gx, gy), "grad_map: at [0, 0, 0]: expected 0, got 0.5; 105"),
        (lambda m, gx, gy: (m, gx * torch.nan, gy), "got NaN"),
    ],
)
def test_what_is_wrong_with_one_of_several_results_is_said(change, expected):
    passed, message, _ = checks.bilinear_backward.check(backward_but(change))
    assert not passed
    assert expected in message


def test_accepts_agrees_with_check():
    for name in ("corner_weights", "bilinear_sample", "bilinear_slope", "bilinear_backward"):
        exercise = getattr(checks, name)
        assert exercise.accepts(exercise.solution)
        assert not any(exercise.accepts(wrong) for wrong in exercise.mistakes.values())

        def stub(*arguments):
            raise NotImplementedError

        assert not exercise.accepts(stub)


# What the lesson says


SMALL = torch.tensor([[1.0, 5, 2, 7], [4, 9, 3, 0], [6, 2, 8, 5]], dtype=torch.float64)


def test_at_a_pixel_centre_the_library_and_torch_give_the_slope_to_the_right_and_below():
    x, y = torch.tensor([1.5 / 4, 1.5 / 3], dtype=torch.float64).requires_grad_()
    right, below = 4 * (3.0 - 9), 3 * (2.0 - 9)
    for sample in (bilinear_sample, by_grid_sample):
        slopes = torch.autograd.grad(sample(SMALL[..., None], x, y).sum(), (x, y))
        assert [slope.item() for slope in slopes] == [right, below]
    by_triangles = sample_by_triangles(SMALL[..., None], x * 4 - 0.5, y * 3 - 0.5)
    assert by_triangles.item() == 9
    assert torch.autograd.grad(by_triangles.sum(), (x, y)) == (0, 0)


def test_the_star_starts_on_pixel_centres_of_the_querys_own_level():
    shapes = [(100, 150), (50, 75), (25, 38), (13, 19)]
    references = encoder_reference_points(shapes, torch.ones(1, 4, 2))
    n_tokens = references.shape[1]
    offsets = initial_offsets(8, 4, 4).expand(1, n_tokens, 8, 4, 4, 2)
    locations = sampling_locations(references, offsets, shapes)
    start = 0
    for level, (height, width) in enumerate(shapes):
        own = slice(start, start := start + height * width)
        pixels = locations[0, :, :, level] * torch.tensor([width, height]) - 0.5
        at_centre = ((pixels - pixels.round()).abs() < 1e-3).all(-1)
        assert at_centre[own].all()
        assert not at_centre[: own.start].any() and not at_centre[own.stop :].any()


def test_rounding_moves_some_pixel_centres_to_the_left():
    centres = torch.arange(150)
    x = (centres + 0.5) / 150
    left = x * 150 - 0.5 < centres
    left_by_torch = ((2 * x - 1 + 1) * 150 - 1) / 2 < centres  # the order of grid_sample's steps
    assert left.sum() == 8
    assert left_by_torch.any() and not torch.equal(left, left_by_torch)


def test_a_value_cut_off_with_the_first_missing_corner_is_named():
    def cut(feature_map, x, y):
        height, width, channels = feature_map.shape
        column, row = x * width - 0.5, y * height - 0.5
        if 0 <= column < width - 1 and 0 <= row < height - 1:
            return bilinear_sample(feature_map, x, y)
        return torch.zeros(channels)

    assert "as soon as one corner is missing" in checks.bilinear_sample.check(cut).message


@pytest.mark.parametrize(
    ("exists", "told"),
    [
        (lambda r, c, height, width: True, "no index was checked"),
        (lambda r, c, height, width: r < height and c < width, "negative indices read from"),
    ],
)
def test_indices_that_are_not_checked_are_named(exists, told):
    def sample(feature_map, x, y):
        height, width, channels = feature_map.shape
        column, row = x.item() * width - 0.5, y.item() * height - 0.5
        left, top = int(np.floor(column)), int(np.floor(row))
        value = torch.zeros(channels)
        for r in (top, top + 1):
            for c in (left, left + 1):
                if exists(r, c, height, width):
                    value += (1 - abs(r - row)) * (1 - abs(c - column)) * feature_map[r, c]
        return value

    assert f"it looks as if {told}" in checks.bilinear_sample.check(sample).message


def test_slopes_of_rows_that_count_half_each_are_named():
    def slope(feature_map, x, y):
        height, width = feature_map.shape
        left, top = int(x * width - 0.5), int(y * height - 0.5)
        (a, b), (c, d) = feature_map[top : top + 2, left : left + 2]
        return width * (b - a + d - c) / 2, height * (c - a + d - b) / 2

    assert "count half each" in checks.bilinear_slope.check(slope).message
