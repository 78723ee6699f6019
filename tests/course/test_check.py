"""The checks accept the solutions, refuse each usual mistake by its name, and explain the rest."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from ddetr_edu import attention
from ddetr_edu.course import check, solutions
from ddetr_edu.course.exercise import SEEDS, Exercise

EXERCISES = {name: e for name, e in vars(check).items() if isinstance(e, Exercise)}
NAMES = list(EXERCISES)
MISTAKES = [(name, mistake) for name in NAMES for mistake in EXERCISES[name].mistakes]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, capsys):
    assert getattr(check, name)(getattr(solutions, name))
    assert capsys.readouterr().out.startswith("passed: 5 cases")


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[f"{n}-{m[:30]}" for n, m in MISTAKES])
def test_each_mistake_is_named(name, mistake, capsys):
    exercise = EXERCISES[name]
    assert not getattr(check, name)(exercise.mistakes[mistake])
    said = capsys.readouterr().out
    assert said.startswith("not yet")
    # One that returns another shape is told so instead.
    assert mistake in said or "has shape" in said


def test_nearly_every_mistake_is_told_by_name_and_not_by_shape(capsys):
    for name, mistake in MISTAKES:
        getattr(check, name)(EXERCISES[name].mistakes[mistake])
    assert capsys.readouterr().out.count("has shape") <= 1


@pytest.mark.parametrize("name", NAMES)
def test_what_else_can_happen(name, capsys):
    verify = getattr(check, name)

    def not_yet(*_):
        raise NotImplementedError

    def broken(*_):
        raise IndexError("index 3 is out of bounds")

    right = getattr(solutions, name)
    assert not verify(not_yet)
    assert "not attempted yet" in capsys.readouterr().out
    assert not verify(broken)
    assert "raised IndexError: index 3" in capsys.readouterr().out
    assert not verify(lambda *_: None)
    assert "no number" in capsys.readouterr().out
    assert not verify(lambda *_: torch.zeros(2, 9, 2))
    assert "was expected" in capsys.readouterr().out
    assert not verify(lambda *a: torch.as_tensor(right(*a)) + 0.001)
    assert "largest difference is 0.001" in capsys.readouterr().out
    assert not verify(lambda *a: torch.as_tensor(right(*a)) * torch.nan)
    assert "largest difference is inf" in capsys.readouterr().out


def test_an_answer_that_changes_its_input_does_not_spoil_the_check():
    def in_place(scores):
        right = solutions.attention_weights(scores)
        scores.zero_()
        return right

    assert check.attention_weights(in_place)


def test_the_solutions_agree_with_the_library():
    """The lessons teach what the library does: the same numbers on the same inputs."""
    for seed in SEEDS:
        for name in ("bilinear_sample", "initial_offsets", "sampling_locations",
                     "attention_weights", "aggregate"):  # fmt: skip
            arguments = EXERCISES[name].inputs(seed)
            ours = getattr(solutions, name)(*arguments)
            torch.testing.assert_close(getattr(attention, name)(*arguments), ours)
        plane, x, y = check.bilinear_slope.inputs(seed)
        _, grad_x, grad_y = attention.bilinear_sample_backward(
            plane[..., None], x, y, torch.ones(1, dtype=torch.float64)
        )
        torch.testing.assert_close(
            torch.stack([grad_x, grad_y]), solutions.bilinear_slope(plane, x, y)
        )
        logits, is_object, n = check.focal_loss.inputs(seed)
        loss = sigmoid_focal_loss(logits, is_object.double(), 0.25, 2, reduction="sum") / n
        torch.testing.assert_close(loss, solutions.focal_loss(logits, is_object, n))
