"""Every lesson has the same parts and agrees with the library, and its exercises can be solved.

That running the cells gives the committed outputs is checked by nbval, not here.
"""

import inspect
import json
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from notebook_reading import LESSONS, ROOT, as_committed, check_names, read, text
from notebook_slicing import needed_cells

from ddetr_edu.course import checks
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.notebooks import LESSON_CELL, STUB, learners_cells, tidy


def test_there_are_lessons():
    assert len(LESSONS) >= 6


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_was_run_from_top_to_bottom_and_tidied(path):
    """This holds for what is committed; whoever opens a lesson and runs it changes its metadata."""
    committed = as_committed(path)
    notebook = nbformat.reads(committed, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert learners_cells(notebook.cells) == [], "an exercise is solved, or a cell has no own id"
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE), "magics hide errors"
        assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in cell.outputs)
    outputs = [output for cell in code for output in cell.outputs if "data" in output]
    assert any("image/png" in output.data for output in outputs)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(LESSON_CELL.match(id_) for id_ in ids)
    raw = json.loads(committed)
    assert tidy(raw) == raw, f"run: python -m ddetr_edu.course.notebooks {path}"
    assert len(committed.encode()) < 1_000_000


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_never_defines_what_it_should_import(path):
    defined = set(re.findall(r"^\s*(?:def|class) (\w+)", text(read(path), "code"), re.MULTILINE))
    library = {
        name
        for module in (ROOT / "ddetr_edu").rglob("*.py")
        for name in re.findall(r"^(?:def|class) (\w+)", module.read_text(), re.MULTILINE)
        if not name.startswith("my_")  # a solution
    }
    assert not defined & library


def solution_of(name: str) -> str:
    """The code of a solution, as a learner would enter it."""
    exercise = getattr(checks, name)
    if isinstance(exercise, Choice):
        return exercise.solution_code
    return inspect.getsource(exercise.solution).strip()


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_solutions_shown_are_the_tested_ones(path):
    notebook = read(path)
    for name in check_names(notebook):
        assert solution_of(name) in text(notebook)
        exercise = getattr(checks, name)
        if isinstance(exercise, Choice):
            assert exercise.stub in text(notebook, "code")
        else:
            assert f'"""{exercise.signature}"""\n    {STUB}' in text(notebook, "code")


def test_every_exercise_is_in_a_lesson():
    shown = [name for path in LESSONS for name in check_names(read(path))]
    assert sorted(shown) == sorted(checks.__all__)
    for name in shown:
        exercise = getattr(checks, name)
        assert isinstance(exercise, (Exercise, Choice))
        assert exercise.name == name


@pytest.mark.parametrize("path", [*LESSONS, ROOT / "lessons/GLOSSARY.md"], ids=lambda p: p.stem)
def test_linked_files_and_named_modules_exist(path):
    prose = path.read_text(encoding="utf-8") if path.suffix == ".md" else text(read(path))
    for link in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (path.parent / link).exists(), link
    for module in re.findall(r"`((?:ddetr_edu/)?(?:\w+/)+\w+\.py)`", prose):
        assert any((folder / module).exists() for folder in (ROOT, ROOT / "ddetr_edu")), module


# What earlier lessons leave behind: their names, and gradients switched off.
RESET = "%reset -f\n__import__('torch').set_grad_enabled(True)"


@pytest.fixture(scope="module")
def kernel():
    """A client of one kernel for all lessons: to start one takes longer than most of them."""
    # A blocking client: nbclient's asynchronous one now and then waits for its whole timeout.
    manager, client = start_new_kernel(cwd=str(ROOT / "lessons"))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def execute(client, source: str) -> str:
    """What code prints in a kernel, where it must not fail."""
    output: list[str] = []
    reply = client.execute_interactive(
        source,
        allow_stdin=False,
        output_hook=lambda message: output.append(message["content"].get("text", "")),
        timeout=600,
    )
    assert reply["content"]["status"] == "ok", (source, reply["content"])
    return "".join(output)


def run_with_answers(client, path: Path, answers: dict[str, str]) -> dict[str, str]:
    """What the checks of a lesson print when its stubs are filled in as a learner would.

    Cells that have nothing to do with the exercises are not run.
    """
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    for name, source in answers.items():
        stub = re.compile(rf"(def )?my_{name}( =|\()")
        (index,) = [index for index, cell in enumerate(cells) if stub.match(cell)]
        cells[index] = source
    execute(client, RESET)
    printed: dict[str, str] = {}
    for index in needed_cells(cells):
        output = execute(client, cells[index])
        if check := re.match(r"checks\.(\w+)\(", cells[index]):
            printed[check[1]] = output
    return printed


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_learner_who_enters_the_solutions_passes(kernel, path):
    names = check_names(read(path))
    printed = run_with_answers(kernel, path, {name: solution_of(name) for name in names})
    assert set(printed) == set(names)
    assert all(message.startswith("passed") for message in printed.values()), printed


def test_a_learner_with_a_wrong_answer_is_told_the_mistake(kernel):
    (path,) = [path for path in LESSONS if path.stem.startswith("04")]
    circle = solution_of("initial_offsets").replace(
        "    direction = direction / direction.abs().max(dim=-1, keepdim=True).values\n", ""
    )
    swapped = solution_of("sampling_locations").replace("[width, height]", "[height, width]")
    printed = run_with_answers(
        kernel, path, {"initial_offsets": circle, "sampling_locations": swapped}
    )
    assert "the rays end on a circle" in printed["initial_offsets"]
    assert "width and height are swapped" in printed["sampling_locations"]
