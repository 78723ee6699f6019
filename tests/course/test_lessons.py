"""Every lesson has the same parts and agrees with the library, and its exercises can be solved.

That running the cells gives the committed outputs is checked by nbval, not here.
"""

import inspect
import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from ddetr_edu.course import checks, solutions
from ddetr_edu.course.exercise import Exercise
from ddetr_edu.course.notebooks import LESSON_CELL, STUB, learners_cells, tidy

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))


def as_committed(path: Path) -> str:
    """A file as git has it, staged or committed; as it is if git does not know it yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    name = path.relative_to(ROOT).as_posix()
    shown = subprocess.run(["git", "show", f":{name}"], cwd=ROOT, capture_output=True)
    return (path.read_bytes() if shown.returncode else shown.stdout).decode()


def read(path: Path) -> nbformat.NotebookNode:
    """A lesson as it is or, where a learner is at work in it, as it was committed."""
    notebook = nbformat.read(path, as_version=4)
    if learners_cells(notebook.cells):
        notebook = nbformat.reads(as_committed(path), as_version=4)
    return notebook


def text(notebook, kind: str = "markdown") -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def test_there_are_lessons():
    assert len(LESSONS) >= 6


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(path):
    notebook = read(path)
    prose = text(notebook)
    number = path.stem[:2]
    assert re.match(rf"# {number} · .+\n\n\*\*\d+ minutes\.\*\*", prose)
    assert "you will be able to" in prose
    assert "## The figure" in prose
    assert "to remember" in prose
    assert "getsource" in text(notebook, "code")
    assert prose.count("<summary>Hint</summary>") == prose.count("### Exercise") >= 1
    assert prose.count("<summary>Solution</summary>") == prose.count("### Exercise")


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
    }
    assert not defined & library


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_solutions_shown_are_the_tested_ones(path):
    notebook = read(path)
    for name in re.findall(r"checks\.(\w+)\(my_", text(notebook, "code")):
        source = inspect.getsource(getattr(solutions, name)).replace(
            f"def {name}(", f"def my_{name}("
        )
        assert source.strip() in text(notebook)
        signature = getattr(checks, name).signature
        assert f'"""{signature}"""\n    {STUB}' in text(notebook, "code")


def test_every_exercise_is_in_a_lesson():
    code = "\n".join(text(read(path), "code") for path in LESSONS)
    for name, exercise in vars(checks).items():
        if isinstance(exercise, Exercise):
            assert f"checks.{name}(my_{name})" in code


@pytest.mark.parametrize("path", [*LESSONS, ROOT / "lessons/GLOSSARY.md"], ids=lambda p: p.stem)
def test_linked_files_and_named_modules_exist(path):
    prose = path.read_text(encoding="utf-8") if path.suffix == ".md" else text(read(path))
    for link in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (path.parent / link).exists(), link
    for module in re.findall(r"`((?:ddetr_edu/)?(?:\w+/)+\w+\.py)`", prose):
        assert (ROOT / "ddetr_edu" / module.removeprefix("ddetr_edu/")).exists(), module


def run_with_answers(path: Path, answers: dict[str, str]) -> dict[str, str]:
    """What the checks of a lesson print when its stubs are filled in as a learner would."""
    notebook = read(path)
    for name, source in answers.items():
        (stub,) = [c for c in notebook.cells if f"def my_{name}(" in c.source and STUB in c.source]
        stub.source = source.replace(f"def {name}(", f"def my_{name}(")
    printed: dict[str, str] = {}
    # A blocking client: nbclient's asynchronous one now and then waits for its whole timeout.
    manager, client = start_new_kernel(cwd=str(path.parent))
    try:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                output: list[str] = []

                def collect(message, output=output):
                    output.append(message["content"].get("text", ""))

                reply = client.execute_interactive(
                    cell.source, allow_stdin=False, output_hook=collect, timeout=600
                )
                assert reply["content"]["status"] == "ok", (cell.source, reply["content"])
                if check := re.match(r"checks\.(\w+)\(", cell.source):
                    printed[check[1]] = "".join(output)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return printed


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_learner_who_enters_the_solutions_passes(path):
    names = re.findall(r"checks\.(\w+)\(my_", text(read(path), "code"))
    answers = {name: inspect.getsource(getattr(solutions, name)) for name in names}
    printed = run_with_answers(path, answers)
    assert set(printed) == set(names)
    assert all(message.startswith("passed") for message in printed.values()), printed


def test_a_learner_with_a_wrong_answer_is_told_the_mistake():
    (path,) = [path for path in LESSONS if path.stem.startswith("04")]
    circle = inspect.getsource(solutions.initial_offsets).replace(
        "    direction = direction / direction.abs().max(dim=-1, keepdim=True).values\n", ""
    )
    swapped = inspect.getsource(solutions.sampling_locations).replace(
        "[width, height]", "[height, width]"
    )
    printed = run_with_answers(path, {"initial_offsets": circle, "sampling_locations": swapped})
    assert "the rays end on a circle" in printed["initial_offsets"]
    assert "width and height are swapped" in printed["sampling_locations"]
