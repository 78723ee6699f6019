"""A choice accepts the right words and says what speaks against each wrong one."""

import itertools

import pytest

from ddetr_edu.course import checks
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.guess import compare_guess
from ddetr_edu.course.learner_progress import read_progress
from ddetr_edu.course.notebooks import untouched_names

CHOICES = {
    name: getattr(checks, name)
    for name in checks.__all__
    if isinstance(getattr(checks, name), Choice)
}
PETS = Choice(
    "pets",
    {"the first": "cat", "the second": "dog"},
    {"cat": "it purrs", "dog": "it barks", "fish": "it does neither"},
    {
        ("the first", "dog"): "it does not bark",
        ("the first", "fish"): "it has legs",
        ("the second", "cat"): "it does not purr",
        ("the second", "fish"): "it is not wet",
    },
)
EVERY = {"pets": PETS, **CHOICES}


@pytest.mark.parametrize("name", EVERY)
def test_only_the_right_words_pass(name):
    choice = EVERY[name]
    assert choice.check(choice.solution).passed
    assert choice.check({key: f" {word.upper()} " for key, word in choice.solution.items()}).passed
    for key, right in choice.solution.items():
        for word in choice.words:
            if word != right:
                passed, message, _ = choice.check({**choice.solution, key: word})
                assert not passed
                assert choice.against[key, word] in message
                assert right not in choice.against[key, word], "that would give the answer away"


@pytest.mark.parametrize("name", EVERY)
def test_a_choice_is_well_made(name):
    """Every wrong word has its reason, and there are more words than a guess would need."""
    choice = EVERY[name]
    pairs = itertools.product(choice.solution, choice.words)
    assert set(choice.against) == {(k, w) for k, w in pairs if choice.solution[k] != w}
    assert set(choice.solution.values()) <= set(choice.words)
    assert len(choice.words) > len(set(choice.solution.values()))
    assert untouched_names(choice.stub) == [f"my_{choice.name}"]
    assert untouched_names(choice.solution_code) == []
    scope: dict = {}
    exec(choice.solution_code, scope)
    assert choice.check(scope[f"my_{choice.name}"]).passed


def test_what_is_no_answer_is_explained():
    untouched = {"the first": None, "the second": None}
    assert PETS.check(untouched).message.startswith("not attempted yet")
    assert not PETS.check(untouched).attempted
    assert PETS.check({"the first": "cat"}).attempted
    assert "the second: no answer yet" in PETS.check({"the first": "cat"}).message
    assert 'among the words: "cat", "dog", "fish"' in PETS.check({"the first": "cow"}).message
    assert "an object of the type int is not among" in PETS.check({"the first": 3}).message
    assert PETS.check({**PETS.solution, "third": 1}).message.splitlines() == [
        "not yet: 2 of 2 answers are right, but",
        '  "third" is not one of the questions; remove it',
    ]
    for answer in (None, "cat", ["cat", "dog"], PETS.check):
        message = PETS.check(answer).message
        assert message.startswith("not yet: this is")
        assert 'a word for each of "the first", "the second"' in message


def test_a_choice_is_kept_as_progress(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    PETS({"the first": None, "the second": None})
    assert "pets" not in read_progress().exercises
    PETS({"the first": "dog"})
    assert read_progress().exercises["pets"] == (1, None)
    PETS(PETS.solution)
    assert "passed: all 2 answers are right" in capsys.readouterr().out
    times, first_passed = read_progress().exercises["pets"]
    assert times == 2 and first_passed is not None


@pytest.mark.parametrize(
    ("guess", "measured", "unit", "printed"),
    [
        (None, 23.94, " %", "measured: 23.9 %   (you made no guess)"),
        (24, 23.94, " %", "your guess: 24 %   measured: 23.9 %   very near"),
        (10, 25.0, "", "your guess: 10   measured: 25   a factor of 2.5 apart"),
        (0, 25, "", "your guess: 0   measured: 25   not the same"),
        (20_000, 19_947, " tokens", "your guess: 20,000 tokens   measured: 19,947 tokens"),
        ("Circle", "square", "", "your guess: Circle   measured: square   not the same"),
        (" Square", "square", "", "exactly right"),
        (True, True, "", "your guess: yes   measured: yes   exactly right"),
        (False, True, "", "your guess: no   measured: yes   not the same"),
    ],
)
def test_a_guess_beside_what_was_measured(guess, measured, unit, printed, capsys):
    compare_guess(guess, measured, unit)
    assert printed in capsys.readouterr().out
