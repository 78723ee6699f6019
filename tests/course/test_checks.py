"""The checks accept right answers in any form, name each usual mistake, and explain the others."""

import functools
import inspect
import itertools
import math
from collections import deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from ddetr_edu import attention
from ddetr_edu.course import checks, solutions
from ddetr_edu.course.answers import NotNumbers, read_numbers
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.puzzle import Puzzle

# An answer to `forward` is a whole model, one to `kernel` is C++, one to `convert_keys` is a state
# dict, and one to a puzzle writes to memory; they have tests of their own, in test_lesson_10.py,
# test_lesson_14.py, test_lesson_18.py and test_lesson_15.py.
NOT_NUMBERS = ("convert_keys", "forward", "kernel")
EXERCISES = {
    name: e
    for name, e in vars(checks).items()
    if isinstance(e, Exercise) and not isinstance(e, Puzzle) and name not in NOT_NUMBERS
}
MISTAKES = [(name, mistake) for name, e in EXERCISES.items() for mistake in e.mistakes]
WHOLE = (
    "agrees",
    "assign",
    "attention_cost",
    "attention_flops",
    "cache_lines",
    "class_indices",
    "conv_flops",
    "covering_token",
    "count_tokens",
    "greedy_trap",
    "locate_token",
    "trial",
    "variant",
    "work",
)  # their results are whole numbers
TENSORS = [name for name in EXERCISES if name not in WHOLE]
ONE_RESULT = [name for name, e in EXERCISES.items() if not e.results]


class LikeAnArray:
    """An array of another library."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __array__(self, dtype=None, copy=None):
        return np.array(self.tensor, dtype=dtype)


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise OSError("its file is gone")


def each(change, name: str, result):
    """What an exercise's solution returned, or each of several results, with a change."""
    if EXERCISES[name].results:
        return tuple(change(torch.as_tensor(part)) for part in result)
    return change(torch.as_tensor(result))


def cast(arguments: tuple, dtype: torch.dtype) -> tuple:
    return tuple(
        a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in arguments
    )


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name, capsys):
    EXERCISES[name](getattr(solutions, name))
    assert capsys.readouterr().out.startswith("passed: all ")


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{n}-{m[:30]}" for n, m in MISTAKES])
def test_each_mistake_is_named(name, mistake):
    exercise = EXERCISES[name]
    passed, message, _ = exercise.check(exercise.mistakes[mistake])
    assert not passed
    assert message.endswith(f"it looks as if {mistake}")


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{n}-{m[:30]}" for n, m in MISTAKES])
def test_a_mistake_in_16_bits_is_still_one(name, mistake):
    exercise = EXERCISES[name]
    wrong = exercise.mistakes[mistake]
    for dtype in (torch.float16, torch.bfloat16):
        answer = lambda *a, d=dtype: each(lambda x: x.to(d), name, wrong(*a))  # noqa: E731
        assert not exercise.check(answer).passed


# The sizes of a case, from its arguments; those of the first argument where nothing is said.
SIZES = {
    "adopt_classes": lambda weight, names, trained, _: (*weight.shape, len(trained)),
    "agrees": lambda stated, measured: (stated, measured),
    "anchor": lambda row, column, shape, level: (row, column, *shape, level),
    "attention_cost": lambda shapes, heads, points: (len(shapes), *shapes[0], heads, points),
    "attention_flops": lambda *sizes: sizes,
    "average_precision": lambda is_true, n_objects: (len(is_true), n_objects),
    "cache_lines": lambda *reads: reads,
    "class_indices": lambda objects, known: (len(objects), len(known)),
    "conv_flops": lambda shape, *sizes: (*shape, *sizes),
    "convert_boxes": lambda boxes, *_: (len(boxes), *_[-2], *_[-1]),
    "corner_weights": lambda x, y, height, width: (height, width),
    "count_tokens": lambda height, width: (height, width),
    "covering_token": lambda r, c, size, shapes, level: (r, c, *size, *shapes[level]),
    "crossing": lambda sizes, dense, deformable: dense.shape,
    "discrete_attention": lambda value, _, x, weights: (*weights.shape, value.shape[-1]),
    "denoising_mask": lambda lq, counts, groups: (lq, len(counts), max(counts), groups),
    "encoder_reference_points": lambda shapes: (len(shapes), *shapes[0]),
    "focal_loss": lambda logits, *_: (logits.shape, logits.numel()),
    "from_pixels": lambda points, shape: (len(points), *shape),
    "giou": lambda one, other: (len(one),),
    "greedy_trap": lambda times: (times,),
    "grid_sample_attention": lambda value, _, x, weights: (*weights.shape, value.shape[-1]),
    "initial_offsets": lambda *sizes: sizes,
    "learning_rate": lambda step, steps, warmup, lr: (step, steps, warmup),
    "locate_token": lambda index, shapes: (index, *shapes[0]),
    "matching_cost": lambda logits, boxes, labels, _: (*logits.shape, len(labels)),
    "mend_boxes": lambda boxes, *_: (len(boxes), *_[-2], *_[-1]),
    "naive_attention": lambda value, _, x, weights: (*weights.shape, value.shape[-1]),
    "padding_mask": lambda images: (len(images), *map(max, *images, (0, 0))),
    "reach": lambda first, *_: first.shape[:-1],
    "read_yolo": lambda text, size: (len(text.split()), *size),
    "refine": lambda reference, _: reference.shape[:-1],
    "reference_on_levels": lambda points, shapes: (len(points), len(shapes), *shapes[0]),
    "sampling_locations": lambda _, offsets, shapes: offsets.shape[:-1],
    "scale_to_levels": lambda references, ratios: (*references.shape[:2], ratios.shape[1]),
    "to_pixels": lambda points, shape: (len(points), *shape),
    "trial": lambda locate: (locate,),
    "valid_ratio": lambda mask, shape: (*mask.shape, *shape),
    "variant": lambda shapes: (
        len(shapes),
        shapes["transformer.level_embed"][0],
        shapes["class_embed.0.bias"][0],
    ),
    "work": lambda *sizes: sizes,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_no_size_is_the_same_in_all_cases(name):
    """An answer with a size written into it is wrong in some case."""
    size_of = SIZES.get(name, lambda first, *_: first.shape)
    sizes = [size_of(*arguments) for arguments in EXERCISES[name].cases().values()]
    assert len(set(sizes)) == len(sizes) >= 7
    for axis in zip(*sizes, strict=True):
        assert len(set(axis)) >= 4
    if name.startswith("bilinear"):
        assert all(size[0] != size[1] for size in sizes), "a square hides swapped axes"


# Right answers, whatever their form.


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.numpy().astype(object),
        lambda x: list(x) if x.ndim else x,  # a list of tensors
        lambda x: deque(x) if x.ndim else x,
        lambda x: LikeAnArray(x),
        lambda x: tuple(x.numpy()) if x.ndim else x,
        lambda x: x.double(),
        lambda x: x.float(),
        lambda x: x.double().requires_grad_(),
        lambda x: [*x.double().requires_grad_()] if x.ndim else x,
        lambda x: x.double().to_sparse() if x.ndim else x,
        lambda x: x.int() if not x.is_floating_point() else x,
    ],
)
def test_right_answers_in_any_form(name, form):
    solution = getattr(solutions, name)
    result = EXERCISES[name].check(lambda *a: each(form, name, solution(*a)))
    assert result.passed, result.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", TENSORS)
def test_right_answers_in_fewer_bits(name, dtype):
    solution = getattr(solutions, name)
    for answer in (
        lambda *a: each(lambda x: x.to(dtype), name, solution(*a)),  # computed in fp64
        lambda *a: each(lambda x: x.to(dtype), name, solution(*cast(a, dtype))),  # in few bits
    ):
        result = EXERCISES[name].check(answer)
        assert result.passed, result.message


def test_whole_numbers_are_not_rounded():
    rounded = EXERCISES["count_tokens"].check(
        lambda h, w: torch.tensor(solutions.count_tokens(h, w)).half()
    )
    assert "expected 19947, got 19952" in rounded.message
    for number in (float, Fraction, Decimal, np.int32, np.float64):
        assert checks.count_tokens.check(lambda h, w, n=number: n(solutions.count_tokens(h, w)))[0]


def test_right_answers_in_other_styles():
    def by_grid_sample(feature_map, x, y):
        grid = 2 * torch.stack([x, y])[None, None, None] - 1
        maps = feature_map.permute(2, 0, 1)[None]
        return F.grid_sample(maps, grid, align_corners=False)[0, :, 0, 0]

    def by_autograd(plane, x, y):
        location = torch.stack([x, y]).requires_grad_()
        solutions.bilinear_sample(plane[..., None], *location).sum().backward()
        return location.grad

    def by_loops(scores):
        weights = np.zeros(scores.shape)
        for n, q, m in itertools.product(*map(range, scores.shape[:3])):
            largest = scores[n, q, m].max()  # exp of a large number overflows
            total = sum(math.exp(s - largest) for s in scores[n, q, m].flatten().tolist())
            for l, p in itertools.product(*map(range, scores.shape[3:])):
                weights[n, q, m, l, p] = math.exp(scores[n, q, m, l, p] - largest) / total
        return weights

    def by_trying_all(cost):
        queries, objects = cost.shape
        return min(
            itertools.permutations(range(queries), objects),
            key=lambda chosen: sum(float(cost[q, t]) for t, q in enumerate(chosen)),
        )

    def by_the_library(logits, is_object, num_boxes):
        return sigmoid_focal_loss(logits, is_object.double(), 0.25, 2, reduction="sum") / num_boxes

    for exercise, answer in [
        (checks.bilinear_sample, by_grid_sample),
        (checks.bilinear_slope, by_autograd),
        (checks.attention_weights, by_loops),
        (checks.assign, by_trying_all),
        (checks.focal_loss, by_the_library),
        (checks.aggregate, lambda s, w: torch.einsum("nqmlpd,nqmlp->nqmd", s, w).flatten(2)),
        (checks.aggregate, functools.partial(solutions.aggregate)),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


def test_an_answer_may_return_the_same_buffer_again():
    buffers: dict = {}

    def answer(n_heads, n_levels, n_points):
        buffer = buffers.setdefault(0, torch.zeros(20_000))
        result = solutions.initial_offsets(n_heads, n_levels, n_points)
        buffer[: result.numel()] = result.flatten()
        return buffer[: result.numel()].view(result.shape)

    assert checks.initial_offsets.check(answer).passed


# What counts as attempted.


def test_only_the_stub_is_not_attempted():
    def my_focal_loss(logits, is_object, num_boxes):
        """(logits, is_object, num_boxes) -> a number"""
        raise NotImplementedError  # put your answer here

    def helper():
        raise NotImplementedError

    def unfinished(logits, is_object, num_boxes):
        prob = logits.sigmoid()  # noqa: F841
        raise NotImplementedError  # put your answer here

    def calls_a_stub(logits, is_object, num_boxes):
        return helper()

    def torch_cannot(logits, is_object, num_boxes):
        raise NotImplementedError("\"softmax_lastdim_kernel_impl\" not implemented for 'Long'")

    assert not checks.focal_loss.check(my_focal_loss).attempted
    assert checks.focal_loss.check(unfinished).attempted
    assert checks.focal_loss.check(my_focal_loss).message == (
        "not attempted yet: write your answer above, then run both cells again"
    )
    message = checks.focal_loss.check(unfinished).message
    assert "`raise NotImplementedError` is still in your function; remove it" in message
    for answer in (calls_a_stub, torch_cannot):
        message = checks.focal_loss.check(answer).message
        assert message.startswith("not yet: wrong in all cases")
        assert "raise NotImplementedError" in message
    message = checks.attention_weights.check(lambda s: s.long().softmax(-1)).message
    assert message.startswith("not yet: wrong in all cases")
    assert "your function raised" in message
    message = checks.focal_loss.check(lambda x, is_object, n: (1 - is_object).sum()).message
    assert message.startswith("not yet: wrong in all cases")


def test_a_check_wants_the_function_itself():
    assert "checks.assign(my_assign)" in checks.assign.check(torch.zeros(3)).message


# Wrong answers that look right at first sight.


@pytest.mark.parametrize("name", ONE_RESULT)
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda x: None, "returned None: is a `return` missing?"),
        (lambda x: str(x.flatten()[0].item()), "returned the string '"),
        (lambda x: [str(v) for v in x.flatten().tolist()], "returned a list that contains the str"),
        (lambda x: np.array(x.tolist()).astype(str), "returned an array of the type <U"),
        (lambda x: [None] * 3, "returned a list that contains None"),
        (lambda x: {"result": x}, "returned an object of the type dict"),
        (lambda x: (v for v in x.flatten()), "returned an object of the type generator"),
        (lambda x: [torch.zeros(2), torch.zeros(3)], "items have different shapes: (2,) and (3,)"),
        (lambda x: x.to(torch.complex64), "returned a tensor of complex numbers"),
        (lambda x: 1j * x.flatten().tolist()[0], "returned a complex number"),
        (lambda x: x.to("meta"), "device meta"),
        (lambda x: torch.zeros, "returned the function zeros"),
        (lambda x: torch.zeros(2, 9, 2), "the shape is (2, 9, 2), but ("),
        (lambda x: x * torch.nan, "NaN"),
        (lambda x: x * torch.inf, ", got "),
        (lambda x: 10**400, "too large"),
        (lambda x: Unreadable(), "an object of the type Unreadable that cannot be read"),
    ],
)
def test_what_is_no_answer_is_named(name, wrong, expected):
    solution = getattr(solutions, name)
    passed, message, _ = EXERCISES[name].check(lambda *a: wrong(torch.as_tensor(solution(*a))))
    assert not passed
    assert expected in message


@pytest.mark.parametrize("name", TENSORS + ["assign"])
def test_arguments_must_be_left_alone(name):
    solution = getattr(solutions, name)
    exercise = EXERCISES[name]
    for k, argument in enumerate(inspect.signature(solution).parameters):

        def answer(*arguments, k=k):
            result = solution(*arguments)
            if isinstance(arguments[k], torch.Tensor):
                arguments[k].zero_() if arguments[k].any() else arguments[k].fill_(1)
            elif isinstance(arguments[k], list):
                arguments[k].reverse()
                arguments[k].append((1, 1))
            return result

        kinds = [type(arguments[k]) for arguments in exercise.cases().values()]
        if kinds[0] in (torch.Tensor, list):
            passed, message, _ = exercise.check(answer)
            assert not passed
            assert f"changed its argument `{argument}` in place; work on a copy" in message


def test_a_list_that_now_contains_a_tensor_was_changed():
    def answer(reference_points, offsets, shapes):
        result = solutions.sampling_locations(reference_points, offsets, shapes)
        shapes[0] = torch.tensor(shapes[0])
        return result

    assert "`spatial_shapes` in place" in checks.sampling_locations.check(answer).message


def test_a_softmax_in_place_is_noticed():
    def answer(scores):
        scores -= scores.amax((-1, -2), keepdim=True)
        return scores.exp_() / scores.sum((-1, -2), keepdim=True)

    passed, message, _ = checks.attention_weights.check(answer)
    assert not passed
    assert "`scores`" in message


def test_hard_coded_sizes_are_noticed():
    def pooled(scores):  # L = 4 and P = 7 are the sizes of the first case
        return scores.reshape(*scores.shape[:3], 28).softmax(-1).reshape(scores.shape)

    def stored(feature_map, x, y):
        value = torch.zeros(3, dtype=torch.float64)
        return value + solutions.bilinear_sample(feature_map, x, y)

    for exercise, answer in ((checks.attention_weights, pooled), (checks.bilinear_sample, stored)):
        passed, message, _ = exercise.check(answer)
        assert not passed
        assert "your function raised RuntimeError" in message


# What a wrong answer is told.


def test_a_wrong_answer_is_shown_where():
    def zeros_beyond_the_border(feature_map, x, y):
        value = solutions.bilinear_sample(feature_map, x, y)
        return value if min(x, y) >= 0 and max(x, y) <= 1 else value + 0.25

    passed, message, _ = checks.bilinear_sample.check(zeros_beyond_the_border)
    assert not passed
    lines = message.splitlines()
    assert lines[0] == (
        "not yet: right in 12 of 20 cases; look at this one: a little beyond the upper left corner"
    )
    assert lines[1] == "  input: feature_map (2, 3, 7), x = -0.05, y = -0.1"
    assert lines[2].startswith("  at [0]: expected ")
    assert lines[2].endswith("; 7 of 7 numbers are wrong, the largest difference is 0.25")
    assert lines[3].startswith("  right: inside the map; between other pixels; exactly at a pixel")
    assert lines[4].startswith("  wrong: a little beyond the upper left corner; a little beyond")
    assert lines[5].startswith("  to try it: arguments = checks.bilinear_sample.cases()[")
    scope = {"checks": checks}
    exec(lines[5].removeprefix("  to try it: "), scope)
    assert scope["arguments"][0].shape == (2, 3, 7)


def test_the_first_wrong_number_has_its_index():
    def answer(scores):
        weights = solutions.attention_weights(scores).clone()
        weights[-1, -1, -1, -1, -1] = torch.nan
        return weights

    message = checks.attention_weights.check(answer).message
    assert "at [1, 2, 4, 3, 6]: expected 0.00" in message
    assert "got NaN; 1 of 840 numbers are wrong, the largest difference is NaN" in message


def test_a_short_result_is_shown_whole():
    message = checks.assign.check(lambda cost: cost.argmin(0)).message
    assert "input: cost = [[0.1, 0.2], [0.3, 0.9], [0.8, 0.95]]" in message
    assert "expected [1, 0], got [0, 0]" in message


def test_close_numbers_are_written_with_all_that_differs():
    message = checks.focal_loss.check(lambda *a: solutions.focal_loss(*a) * 1.0001).message
    found = message.split("expected ")[1].splitlines()[0].split(", got ")
    assert found[0] != found[1]


def reads_past_the_map(feature_map, x, y):
    height, width, _ = feature_map.shape
    return feature_map[height, width]


def test_an_exception_shows_the_line_that_led_to_it():
    passed, message, _ = checks.bilinear_sample.check(reads_past_the_map)
    assert not passed
    line = inspect.getsourcelines(reads_past_the_map)[1] + 2
    assert "your function raised IndexError: index " in message
    assert (
        f"  line {line} of test_checks.py, in reads_past_the_map: return feature_map[height, width]"
        in message
    )


def test_an_exception_of_torch_shows_the_learners_line():
    def answer(samples, weights):
        return torch.einsum("nqmlpd,nqml->nqmd", samples, weights)

    message = checks.aggregate.check(answer).message
    assert ', in answer: return torch.einsum("nqmlpd,nqml->nqmd", samples, weights)' in message


def test_the_line_of_an_object_is_shown():
    class Aggregate(torch.nn.Module):
        def forward(self, samples, weights):
            return samples @ weights

    message = checks.aggregate.check(Aggregate()).message
    assert "of test_checks.py, in forward: return samples @ weights" in message


def test_too_few_parameters_are_explained():
    message = checks.aggregate.check(lambda samples: samples).message
    assert "raised TypeError: " in message
    assert "takes 1 positional argument but 2 were given" in message


def test_a_result_is_read_once_and_copied():
    tensor = torch.ones(2, dtype=torch.float64)
    values, _ = read_numbers(tensor)
    tensor.zero_()
    assert values.tolist() == [1, 1]
    with pytest.raises(NotNumbers, match="the string '3.5'"):
        read_numbers("3.5")


def test_the_solutions_agree_with_the_library():
    """The lessons teach what the library does: the same inputs give the same numbers."""
    for name in (
        "bilinear_sample",
        "initial_offsets",
        "sampling_locations",
        "attention_weights",
        "aggregate",
    ):
        for arguments in EXERCISES[name].cases().values():
            expected = getattr(solutions, name)(*arguments)
            torch.testing.assert_close(getattr(attention, name)(*arguments), expected)
    one = torch.ones(1, dtype=torch.float64)
    for plane, x, y in checks.bilinear_slope.cases().values():
        _, *slope = attention.bilinear_sample_backward(plane[..., None], x, y, one)
        torch.testing.assert_close(torch.stack(slope), solutions.bilinear_slope(plane, x, y))
    for logits, is_object, n in checks.focal_loss.cases().values():
        loss = sigmoid_focal_loss(logits, is_object.double(), 0.25, 2, reduction="sum") / n
        torch.testing.assert_close(loss, solutions.focal_loss(logits, is_object, n))


@pytest.mark.parametrize("name", EXERCISES)
def test_an_error_of_another_kind_is_no_usual_mistake(name):
    def answer(*arguments):
        return undefined_name  # noqa: F821

    message = EXERCISES[name].check(answer).message
    assert "undefined_name" in message
    assert "it looks as if" not in message
