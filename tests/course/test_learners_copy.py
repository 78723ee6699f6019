"""A learner's work in a lesson is not a failed test; a lesson that prints something else is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from ddetr_edu.course.notebooks import STUB, join_printed, learners_cells

ROOT = Path(__file__).parents[2]
IMPORTS = """
class checks:  # like the module, without the time to import torch
    def first(answer):
        try:
            print("passed" if answer(2) == 4 else "not yet")
        except NotImplementedError:
            print("not attempted yet")

    second = third = first
"""


def stub(name: str) -> str:
    return f'def my_{name}(x):\n    """x -> its square"""\n    {STUB}'


def cell(id_: str, source: str, printed: str = ""):
    outputs = [new_output("stream", name="stdout", text=f"{printed}\n")] if printed else []
    return new_code_cell(source, id=id_, execution_count=1, outputs=outputs)


def lesson(first: str, second: str, printed_by_third: str, printed: str):
    """A lesson of three exercises, of which the third is not attempted."""
    return new_notebook(
        cells=[
            cell("00-imports", IMPORTS),
            cell("00-first", first),
            cell("00-check-first", "checks.first(my_first);", "not attempted yet"),
            cell("00-second", second),
            cell("00-check-second", "checks.second(my_second);", "not attempted yet"),
            cell("00-third", stub("third")),
            cell("00-check-third", "checks.third(my_third);", printed_by_third),
            cell("00-numbers", "print(6 * 7)", printed),
        ]
    )


SOLVED = "y = 1\n\n\ndef my_first(x):\n    return x * x"
HALF_TYPED = "def my_second(x:\n    return"


def ids(notebook) -> list[str]:
    return [c.id for c in learners_cells(notebook.cells)]


def test_learners_cells():
    first, second = stub("first"), stub("second")
    assert ids(lesson(first, second, "", "")) == []
    assert ids(lesson(SOLVED, second, "", "")) == ["00-first", "00-check-first"]
    assert ids(lesson(first, HALF_TYPED, "", "")) == ["00-second", "00-check-second"]
    unfinished = first.replace(STUB, f"y = 1\n    {STUB}")
    assert ids(lesson(unfinished, second, "", "")) == ["00-first", "00-check-first"]
    with_own_cell = lesson(first, second, "", "")
    with_own_cell.cells.insert(2, own := new_code_cell("1 / 0"))
    assert ids(with_own_cell) == [own.id]


def test_what_was_printed_in_pieces_is_joined():
    def printed(*lines: str, name: str = "stdout") -> dict:
        return {"output_type": "stream", "name": name, "text": list(lines)}

    figure = {"output_type": "display_data", "data": {}, "metadata": {}}
    outputs = [printed("a\n", "b"), printed("c\n"), printed("d\n", name="stderr"), figure]
    joined = [printed("a\n", "bc\n"), printed("d\n", name="stderr"), figure]
    assert join_printed([*outputs, printed("e\n")]) == [*joined, printed("e\n")]
    assert join_printed(joined) == joined
    assert len(outputs[0]["text"]) == 2


def test_guesses_and_choices_are_the_learners_too():
    choice = 'my_pets = {\n    "a": None,  # put your answer here\n}'
    sources = {
        "guess": "guess_a = None  # a percentage\nguess_b = None",
        "compare": "compare_guess(guess_a, 3.5)\ncompare_guess(guess_b, 4)",
        "choice": choice,
        "check": "checks.pets(my_pets);",
        "other": "total = sum([1, 2])",
    }

    def learners(**changed: str) -> list[str]:
        cells = [cell(f"00-{k}", source) for k, source in {**sources, **changed}.items()]
        return [id_.removeprefix("00-") for id_ in ids(new_notebook(cells=cells))]

    assert learners() == []
    assert learners(guess="guess_a = None  # a percentage\nguess_b = 3") == ["guess", "compare"]
    assert learners(guess="guess_a = 3\nguess_b = 4") == ["guess", "compare"]
    assert learners(choice=choice.replace("None", '"cat"')) == ["choice", "check"]
    assert learners(choice="my_pets = dict(a='cat')") == ["choice", "check"]


def test_a_learners_work_is_run_but_not_compared(tmp_path):
    shutil.copy(ROOT / "lessons/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    at_work = lesson(SOLVED, HALF_TYPED, "not attempted yet", "42")
    # It fails, and its output is not that of the last run.
    at_work.cells.insert(3, new_code_cell("print(0.5)\n1 / 0", execution_count=1))
    nbformat.write(at_work, tmp_path / "at_work.ipynb")
    # The lesson's own cells are compared as strictly as ever, those of unsolved exercises too.
    nbformat.write(lesson(SOLVED, HALF_TYPED, "passed", "43"), tmp_path / "changed.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"]
    done = subprocess.run([*command, "-p", "no:xdist", tmp_path], capture_output=True, text=True)
    assert "2 failed, 15 passed" in done.stdout, done.stdout
    assert re.findall(r"^FAILED .*?(\w+).ipynb::Cell (\d)", done.stdout, re.MULTILINE) == [
        ("changed", "6"),
        ("changed", "7"),
    ]
