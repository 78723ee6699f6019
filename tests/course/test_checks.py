"""The checks accept the solutions, name each usual mistake, and explain every other failure."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from ddetr_edu import attention
from ddetr_edu.course import checks, solutions
from ddetr_edu.course.exercise import SEEDS, Exercise

EXERCISES = {name: e for name, e in vars(checks).items() if isinstance(e, Exercise)}
MISTAKES = [(name, mistake) for name, e in EXERCISES.items() for mistake in e.mistakes]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name, capsys):
    EXERCISES[name](getattr(solutions, name))
    assert capsys.readouterr().out.startswith("passed: 5 cases")


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{n}-{m[:30]}" for n, m in MISTAKES])
def test_each_mistake_is_named(name, mistake):
    exercise = EXERCISES[name]
    passed, message = exercise.check(exercise.mistakes[mistake])
    assert not passed
    if mistake == "the heads were summed; they stand side by side":
        assert "the shape is (2, 3, 11), but (2, 3, 55) was expected" in message
    else:
        assert message.endswith(f"it looks as if {mistake}")


@pytest.mark.parametrize("name", EXERCISES)
def test_other_failures_are_explained(name):
    def not_yet(*_):
        raise NotImplementedError

    def broken(*_):
        raise IndexError("index 3 is out of bounds")

    solution = getattr(solutions, name)
    for answer, expected in [
        (not_yet, "not attempted yet"),
        (broken, "raised IndexError: index 3"),
        (lambda *_: None, "no number or tensor"),
        (lambda *_: torch.zeros(2, 9, 2), "was expected"),
        (lambda *a: torch.as_tensor(solution(*a)) + 0.001, "largest difference is 0.001"),
        (lambda *a: torch.as_tensor(solution(*a)) * torch.nan, "largest difference is inf"),
    ]:
        passed, message = EXERCISES[name].check(answer)
        assert not passed
        assert expected in message


def test_an_answer_that_changes_its_input_does_not_spoil_the_check():
    def in_place(scores):
        weights = solutions.attention_weights(scores)
        scores.zero_()
        return weights

    assert checks.attention_weights.check(in_place).passed


def test_the_solutions_agree_with_the_library():
    """The lessons teach what the library does: the same inputs give the same numbers."""
    names = (
        "bilinear_sample",
        "initial_offsets",
        "sampling_locations",
        "attention_weights",
        "aggregate",
    )
    for seed in SEEDS:
        for name in names:
            arguments = EXERCISES[name].make_inputs(seed)
            expected = getattr(solutions, name)(*arguments)
            torch.testing.assert_close(getattr(attention, name)(*arguments), expected)
        plane, x, y = checks.bilinear_slope.make_inputs(seed)
        one = torch.ones(1, dtype=torch.float64)
        _, *slope = attention.bilinear_sample_backward(plane[..., None], x, y, one)
        torch.testing.assert_close(torch.stack(slope), solutions.bilinear_slope(plane, x, y))
        logits, is_object, n = checks.focal_loss.make_inputs(seed)
        loss = sigmoid_focal_loss(logits, is_object.double(), 0.25, 2, reduction="sum") / n
        torch.testing.assert_close(loss, solutions.focal_loss(logits, is_object, n))
