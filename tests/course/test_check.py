"""The checks accept the solutions, refuse each usual mistake by its name, and explain the rest."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from ddetr_edu import attention
from ddetr_edu.course import check, solutions
from ddetr_edu.course.exercise import SEEDS, Exercise

EXERCISES = {name: e for name, e in vars(check).items() if isinstance(e, Exercise)}
MISTAKES = [(name, mistake) for name, e in EXERCISES.items() for mistake in e.mistakes]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name, capsys):
    EXERCISES[name](getattr(solutions, name))
    assert capsys.readouterr().out.startswith("passed: 5 cases")


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{n}-{m[:30]}" for n, m in MISTAKES])
def test_each_mistake_is_named(name, mistake):
    exercise = EXERCISES[name]
    passed, said = exercise.verdict(exercise.mistakes[mistake])
    assert not passed
    if mistake == "the heads were summed; they stand side by side":
        assert "the shape is (2, 3, 11), but (2, 3, 55) was expected" in said
    else:
        assert said.endswith(f"it looks as if {mistake}")


@pytest.mark.parametrize("name", EXERCISES)
def test_what_else_can_happen(name):
    def not_yet(*_):
        raise NotImplementedError

    def broken(*_):
        raise IndexError("index 3 is out of bounds")

    right = getattr(solutions, name)
    for answer, said in [
        (not_yet, "not attempted yet"),
        (broken, "raised IndexError: index 3"),
        (lambda *_: None, "no number or tensor"),
        (lambda *_: torch.zeros(2, 9, 2), "was expected"),
        (lambda *a: torch.as_tensor(right(*a)) + 0.001, "largest difference is 0.001"),
        (lambda *a: torch.as_tensor(right(*a)) * torch.nan, "largest difference is inf"),
    ]:
        passed, verdict = EXERCISES[name].verdict(answer)
        assert not passed
        assert said in verdict


def test_an_answer_that_changes_its_input_does_not_spoil_the_check():
    def in_place(scores):
        right = solutions.attention_weights(scores)
        scores.zero_()
        return right

    assert check.attention_weights.verdict(in_place)[0]


def test_the_solutions_agree_with_the_library():
    """The lessons teach what the library does: the same numbers on the same inputs."""
    same = (
        "bilinear_sample", "initial_offsets", "sampling_locations", "attention_weights",
        "aggregate",
    )  # fmt: skip
    for seed in SEEDS:
        for name in same:
            arguments = EXERCISES[name].inputs(seed)
            ours = getattr(solutions, name)(*arguments)
            torch.testing.assert_close(getattr(attention, name)(*arguments), ours)
        plane, x, y = check.bilinear_slope.inputs(seed)
        one = torch.ones(1, dtype=torch.float64)
        _, *slope = attention.bilinear_sample_backward(plane[..., None], x, y, one)
        torch.testing.assert_close(torch.stack(slope), solutions.bilinear_slope(plane, x, y))
        logits, is_object, n = check.focal_loss.inputs(seed)
        loss = sigmoid_focal_loss(logits, is_object.double(), 0.25, 2, reduction="sum") / n
        torch.testing.assert_close(loss, solutions.focal_loss(logits, is_object, n))
