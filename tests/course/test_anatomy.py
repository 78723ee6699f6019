"""Every lesson has the same parts: a question, predictions, exercises, source, something broken."""

import importlib
import inspect
import re

import pytest
from notebook_reading import LESSONS, ROOT, check_names, read

from ddetr_edu.course import checks
from ddetr_edu.course.choice import Choice
from ddetr_edu.course.notebooks import CHOICE_STUB, FUNCTION_STUB, GUESS_STUB

HEADINGS = (  # each lesson has these, in this order, with others between them
    "Predict first",
    "The figure",
    "By hand",
    "Build it",
    "The library's version",
    "Break it",
    "One number to remember",
    "Questions people ask",
    "What you have read",
)
MAX_LINES_BEFORE_A_FIGURE = 14
MAX_WIDTH = 100

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def heading_of(cell) -> str | None:
    found = re.match(r"## (.+)", cell.source) if cell.cell_type == "markdown" else None
    return found[1].strip() if found else None


def index_of(cells, pattern: str, kind: str) -> int:
    """The position of the only cell of a kind that contains a pattern."""
    (index,) = [
        k for k, c in enumerate(cells) if c.cell_type == kind and re.search(pattern, c.source)
    ]
    return index


def section(cells, heading: str) -> list:
    """The cells from a heading to the next one of its rank."""
    start = next(k for k, c in enumerate(cells) if heading_of(c) == heading)
    rest = cells[start + 1 :]
    end = next((k for k, c in enumerate(rest) if heading_of(c) is not None), len(rest))
    return cells[start : start + 1 + end]


@each_lesson
def test_the_title_says_what_the_lesson_is_for(path):
    title = read(path).cells[0].source
    assert re.match(rf"# {path.stem[:2]} · .+\n\n\*\*\d+ minutes\.\*\*", title)
    assert re.search(r"^> \*.+\*$", title, re.MULTILINE), "a question, quoted as somebody asked it"
    assert "**Before this:**" in title, "what comes before it"
    goals = title.split("you will be able to", 1)[1]
    assert len(re.findall(r"^- ", goals, re.MULTILINE)) == 3


@each_lesson
def test_the_parts_are_in_order(path):
    headings = [heading_of(cell) for cell in read(path).cells]
    positions = [headings.index(heading) for heading in HEADINGS if heading in headings]
    assert [heading for heading in HEADINGS if heading not in headings] == []
    assert positions == sorted(positions)


@each_lesson
def test_a_guess_is_followed_by_what_was_measured(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    guesses = 0
    for cell, following in zip(cells, cells[1:], strict=False):
        if names := re.findall(r"^(guess_\w+) = ", cell.source, re.MULTILINE):
            guesses += len(names)
            assert all(GUESS_STUB.fullmatch(line) for line in cell.source.splitlines())
            assert all(f"compare_guess({name}, " in following.source for name in names), names
            assert "measured: " in following.outputs[0].text
    assert guesses >= 2


@each_lesson
def test_exercises_go_from_one_star_to_three(path):
    cells = read(path).cells
    tasks = {}
    for cell in cells:
        if found := re.match(r"### Exercise: `my_(\w+)`  \((★+), (\d+) minutes\)\n", cell.source):
            tasks[found[1]] = len(found[2])
    assert list(tasks) == check_names(read(path))
    assert set(tasks.values()) == {1, 2, 3}
    for name in tasks:
        task = index_of(cells, rf"^### Exercise: `my_{name}`", "markdown")
        kinds = [cell.cell_type for cell in cells[task : task + 5]]
        assert kinds == ["markdown", "code", "code", "markdown", "markdown"], name
        _, stub, check, hint, solution = cells[task : task + 5]
        assert FUNCTION_STUB.fullmatch(stub.source) or CHOICE_STUB.fullmatch(stub.source), name
        assert check.source == f"checks.{name}(my_{name});"
        assert check.outputs[0].text.startswith("not attempted yet")
        assert hint.source.startswith("<details><summary>Hint</summary>")
        assert solution.source.startswith("<details><summary>Solution</summary>")


@each_lesson
def test_hints_do_not_contain_the_code(path):
    for cell in read(path).cells:
        if cell.source.startswith("<details><summary>Hint</summary>"):
            assert "```" not in cell.source
            for code in re.findall(r"`([^`]+)`", cell.source):
                assert re.fullmatch(r"[\w. ]+(\(\))?", code), f"a name at most: {code}"


@each_lesson
def test_the_source_comes_after_the_exercise(path):
    cells = read(path).cells
    for name in check_names(read(path)):
        exercise = getattr(checks, name)
        if isinstance(exercise, Choice):
            continue
        done = index_of(cells, rf"^checks\.{name}\(", "code")
        hidden = {f.__name__ for f in exercise.library}
        hidden |= {f.__module__.rsplit(".", 1)[1] for f in exercise.library}
        for cell in cells[:done]:
            if cell.cell_type == "code" and "show_source(" in cell.source:
                shown = re.findall(r"\w+", cell.source.split("show_source(", 1)[1])
                assert not hidden & set(shown), f"{name} is shown before its exercise"


@each_lesson
def test_source_is_shown_by_the_function_for_it(path):
    code = "\n".join(c.source for c in read(path).cells if c.cell_type == "code")
    assert "getsource" not in code
    assert "show_source(" in code


@each_lesson
def test_something_is_broken_and_fails(path):
    broken = section(read(path).cells, "Break it")
    outputs = [o.get("text", "") for c in broken if c.cell_type == "code" for o in c.outputs]
    assert any(outputs), "what the broken version gives is printed"


@each_lesson
def test_there_is_one_number_to_remember(path):
    prose = section(read(path).cells, "One number to remember")[0].source
    (bold,) = re.findall(r"\*\*(.+?)\*\*", prose)
    assert re.search(r"\d|half|third|quarter|one|two", bold)


@each_lesson
def test_questions_people_ask(path):
    cells = section(read(path).cells, "Questions people ask")
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    questions = re.findall(r"<details><summary>(.+?)</summary>", prose)
    assert 4 <= len(questions) <= 7
    assert all(question.endswith("?") for question in questions)


@each_lesson
def test_what_you_have_read_was_printed_in_full(path):
    cells = read(path).cells
    shown = "\n".join(
        output.data["text/plain"]
        for cell in cells
        if cell.cell_type == "code" and "show_source(" in cell.source
        for output in cell.outputs
        if "data" in output
    )
    lines = {line.strip() for line in shown.splitlines()}
    prose = section(cells, "What you have read")[0].source
    modules = re.findall(r"`ddetr_edu/([\w/]+)\.py`", prose)
    assert modules or path.stem.startswith("00")
    for module in modules:
        source = inspect.getsource(importlib.import_module(f"ddetr_edu.{module}".replace("/", ".")))
        for code in functions_in(source):
            missing = [line for line in code.splitlines() if line.strip() not in lines]
            assert not missing, f"{module}.py: {missing[0]}"


def functions_in(source: str) -> list[str]:
    """The code of a module from its first function or class on: imports need not be shown."""
    found = re.search(r"^(@|def |class )", source, re.MULTILINE)
    return [source[found.start() :]] if found else [source]


@each_lesson
def test_cells_are_narrow_and_figures_need_little_code(path):
    for cell in read(path).cells:
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        assert all(len(line) <= MAX_WIDTH for line in lines), cell.id
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert len(lines) <= MAX_LINES_BEFORE_A_FIGURE, cell.id


def test_the_glossary_links_each_term_to_its_lesson():
    glossary = (ROOT / "lessons/GLOSSARY.md").read_text(encoding="utf-8")
    for line in glossary.splitlines():
        if line.startswith("| ") and not line.startswith(("| English", "|---")):
            assert re.search(r"\[\d\d\]\(\d\d_\w+\.ipynb\)|lesson to come", line), line
