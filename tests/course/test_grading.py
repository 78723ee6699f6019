"""Grading: every kind of answer gets its mark, and neither the learner's files nor progress change.

The lessons are made up, so that it is quick; their checks are too, except in the last test.
"""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

from ddetr_edu.course import grading
from ddetr_edu.course.catalogue import read_lessons
from ddetr_edu.course.grading import find_learners, find_lessons, grade_learner
from ddetr_edu.course.learner_progress import progress_file
from ddetr_edu.course.lesson_kernel import CellError, KernelStopped, LessonKernel
from ddetr_edu.course.notebooks import STUB

# In place of ddetr_edu.course.checks, whose import takes seconds; a check wants 4.
CHECKS = """
import sys, types
from ddetr_edu.course.check_result import CheckResult

class Check:
    def check(self, answer):
        try:
            right = answer() == 4
        except NotImplementedError:
            return CheckResult(False, "write your answer above", attempted=False)
        except Exception as error:
            return CheckResult(False, f"not yet: it raised {error}\\nmore")
        return CheckResult(right, "passed: all cases" if right else "not yet: wrong\\nmore")

    def __call__(self, answer):
        print("passed: all cases")
        from ddetr_edu.course.learner_progress import record
        record("from a notebook", True)

checks = types.ModuleType("checks")
checks.__getattr__ = lambda name: Check() if not name.startswith("_") else None
sys.modules["ddetr_edu.course.checks"] = checks
"""


def lesson(number: str, answers: dict[str, str | None], first: str = CHECKS, ids=True):
    """A lesson with an exercise for each answer: None is as it is given, "" has no cell."""
    cells = [new_markdown_cell(f"# {number} · Made up", id=f"{number}-title")]
    cells.append(new_code_cell(first, id=f"{number}-first"))
    for name, answer in answers.items():
        heading = f"### Exercise: `my_{name}`  (★★, 15 minutes)"
        cells.append(new_markdown_cell(heading, id=f"{number}-{name}-task"))
        stub = f'def my_{name}():\n    """-> 4"""\n    {STUB}'
        source = stub if answer is None else answer
        if source:
            cells.append(new_code_cell(source, id=f"{number}-{name}-stub"))
        cells.append(new_code_cell(f"checks.{name}(my_{name});", id=f"{number}-{name}-check"))
    if not ids:
        for n, cell in enumerate(cells):
            cell.id = f"c0ffee{n:02d}"
    return writes(new_notebook(cells=cells))


ANSWERS = {
    "right": "def my_right():\n    return 4",
    "otherwise": "my_otherwise = lambda: 4.0",
    "wrong": "def my_wrong():\n    print('passed: all cases')\n    return 5",
    "raising": "def my_raising():\n    return 1 / 0",
    "leaving": "def my_leaving():\n    raise SystemExit(3)",
    "half": "def my_half(:\n    return",
    "untouched": None,
    "deleted": "",
    "hanging": "def my_hanging():\n    while True:\n        pass",
}


@pytest.fixture
def folders(tmp_path):
    """Lessons 03 and 04, and the folder of a learner who has done something in 04."""
    lessons, learner = tmp_path / "lessons", tmp_path / "class" / "Ada L"
    lessons.mkdir()
    learner.mkdir(parents=True)
    (lessons / "03_a.ipynb").write_text(lesson("03", {"first": None}))
    (lessons / "04_b.ipynb").write_text(lesson("04", dict.fromkeys(ANSWERS)))
    (learner / "04_b.ipynb").write_text(lesson("04", ANSWERS))
    return lessons, learner


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Only what never ends is interrupted, after half a second, however busy the machine is."""

    class Hurried(LessonKernel):
        def execute(self, source, seconds):
            forever = "'hanging'" in source or "while True:  # in the cell" in source
            return super().execute(source, 0.5 if forever else 600)

    monkeypatch.setattr(grading, "LessonKernel", Hurried)


def grade(lessons, learner, said=None):
    say = (lambda sentence: None) if said is None else said.append
    graded = grade_learner("Ada", learner, read_lessons(lessons), 600, say)
    return graded, {mark.exercise.name: (mark.result, mark.message) for mark in graded.marks}


def test_each_kind_of_answer_gets_its_mark(folders):
    lessons, learner = folders
    before = {path.name: path.read_bytes() for path in learner.iterdir()}
    recorded = progress_file().read_bytes() if progress_file().exists() else None
    graded, marks = grade(lessons, learner, said := [])
    assert marks["first"] == ("missing", "")
    assert marks["right"] == marks["otherwise"] == ("passed", "passed: all cases")
    assert marks["wrong"] == ("not yet", "not yet: wrong\nmore")
    assert marks["raising"] == ("not yet", "not yet: it raised division by zero\nmore")
    assert marks["leaving"] == ("raised", "SystemExit: 3")
    assert marks["half"][0] == "raised" and marks["half"][1].startswith("SyntaxError: ")
    assert marks["untouched"][0] == "not attempted"
    assert marks["deleted"] == ("not attempted", "the notebook defines no my_deleted")
    assert marks["hanging"][0] == "timed out" and "interrupted after" in marks["hanging"][1]
    assert graded.passed == 2 and len(marks) == 10
    assert said == [f"running {learner / '04_b.ipynb'}"]
    assert {path.name: path.read_bytes() for path in learner.iterdir()} == before
    assert (progress_file().read_bytes() if progress_file().exists() else None) == recorded


def test_cells_that_fail_do_not_end_the_notebook_and_are_named(folders):
    lessons, learner = folders
    own = "open('left.txt', 'w').close()\n1 / 0", "while True:  # in the cell\n    pass"
    answers = dict(zip(["right", "wrong"], own, strict=True)) | {"half": "my_half = int('4').real"}
    answers |= {"otherwise": "import helper\nmy_otherwise = helper.four"}
    (learner / "helper.py").write_text("def four():\n    return 4")
    (learner / "04_b.ipynb").write_text(lesson("04", answers))
    # A check in which something else is done is run, but what it records is not the user's.
    with_own_cell = lesson("04", answers).replace("checks.half(my_half);", "checks.x(0); y = 1")
    (learner / "04_b.ipynb").write_text(with_own_cell)
    graded, marks = grade(lessons, learner)
    assert marks["otherwise"][0] == "passed", "files beside the notebook can be read"
    assert marks["half"] == ("not yet", "not yet: it raised 'int' object is not callable\nmore")
    notes = graded.lessons[1].notes
    assert notes[0].startswith("the cell \"open('left.txt', 'w').close()\": ZeroDivisionError")
    assert "while True" in notes[1] and "interrupted after 0.5 s" in notes[1] and len(notes) == 2
    assert not (learner / "left.txt").exists(), "it runs in a copy of the folder"
    assert not progress_file().exists() or "from a notebook" not in progress_file().read_text()


def test_a_kernel_that_dies_is_said(folders):
    lessons, learner = folders
    answers = {"right": ANSWERS["right"], "wrong": "import os\nos._exit(3)"}
    (learner / "04_b.ipynb").write_text(lesson("04", answers))
    graded, marks = grade(lessons, learner)
    message = "the notebook was stopped in the cell 'import os': its process ended"
    assert marks["right"] == marks["wrong"] == marks["hanging"] == ("raised", message)
    dying = "def my_raising():\n    import os\n    os._exit(3)"
    (learner / "04_b.ipynb").write_text(lesson("04", ANSWERS | {"raising": dying}))
    graded, marks = grade(lessons, learner)
    assert marks["right"][0] == "passed" and marks["wrong"][0] == "not yet"
    message = "the notebook was stopped in the check of raising: its process ended"
    assert marks["raising"] == marks["untouched"] == ("raised", message)
    assert graded.lessons[1].notes[-1] == message


def test_a_kernel_that_cannot_be_interrupted_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("ddetr_edu.course.lesson_kernel.INTERRUPTS", 2)
    stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: 1"
    with LessonKernel(tmp_path) as kernel:
        assert kernel.execute("x = 4", 600) is None
        assert kernel.execute("print(x", 600).message.startswith("SyntaxError: ")
        assert kernel.execute("input()", 600).message.startswith("StdinNotImplementedError")
        assert kernel.execute("while True: pass", 0.5) == CellError(True, "interrupted after 0.5 s")
        assert kernel.execute("assert x == 4", 600) is None, "variables are still there"
        with pytest.raises(KernelStopped, match="longer than 0.5 s and could not be interrupted"):
            kernel.execute(stubborn, 0.5)


def test_a_notebook_without_answers_is_not_run(folders, monkeypatch):
    lessons, learner = folders
    monkeypatch.setattr(grading, "LessonKernel", None)
    untouched = lesson("04", dict.fromkeys(ANSWERS)).replace("Made up", "My title")
    (learner / "04_b.ipynb").write_text(untouched)
    _, marks = grade(lessons, learner)
    assert {marks[name][0] for name in ANSWERS} == {"not attempted"}
    guessed = lesson("04", dict.fromkeys(ANSWERS), CHECKS + "\nguess_a = 3")
    (lessons / "04_b.ipynb").write_text(lesson("04", dict.fromkeys(ANSWERS), "guess_a = None"))
    (learner / "04_b.ipynb").write_text(
        lesson("04", dict.fromkeys(ANSWERS), "guess_a = 3  # I think\nguess_b = 'no'")
    )
    assert grade(lessons, learner)[1]["right"][0] == "not attempted"
    (learner / "04_b.ipynb").write_text(guessed)
    with pytest.raises(TypeError, match="not callable"):  # it would be run
        grade(lessons, learner)


def test_a_damaged_notebook_does_not_end_the_report(folders):
    lessons, learner = folders
    (learner / "04_b.ipynb").write_text('{"cells": [{')
    (learner / "03_a.ipynb").write_text(lesson("03", {"first": "my_first = lambda: 4"}))
    _, marks = grade(lessons, learner)
    assert marks["first"][0] == "passed"
    assert marks["right"][0] == "raised" and "04_b.ipynb is no notebook" in marks["right"][1]


def test_lessons_are_recognised(tmp_path):
    for name, content in {
        "renamed.ipynb": lesson("03", {}),
        "renamed-Copy1.ipynb": lesson("03", {}),
        "04_without_ids.ipynb": lesson("04", {}, ids=False),
        "05_damaged.ipynb": "{",
        "09_it_is_06.ipynb": lesson("06", {}),
        "scratch.ipynb": lesson("07", {}, ids=False),
        "empty.ipynb": "",
    }.items():
        (tmp_path / name).write_text(content)
    assert {number: path.name for number, path in find_lessons(tmp_path).items()} == {
        "03": "renamed.ipynb",
        "04": "04_without_ids.ipynb",
        "05": "05_damaged.ipynb",
        "06": "09_it_is_06.ipynb",
    }


def test_a_folder_is_a_learners_or_has_one_for_each(folders):
    _, learner = folders
    group = learner.parent
    assert find_learners(learner) == {"Ada L": learner}
    for name in ("Bob", ".ipynb_checkpoints", "empty"):
        (group / name).mkdir()
    for name in ("Bob", ".ipynb_checkpoints"):
        (group / name / "03_a.ipynb").write_text(lesson("03", {}))
    (group / "list.txt").touch()
    assert list(find_learners(group).items()) == [("Ada L", learner), ("Bob", group / "Bob")]
    with pytest.raises(ValueError, match="empty has no lessons, and none of the folders in it"):
        find_learners(group / "empty")
    with pytest.raises(ValueError, match="list.txt is no folder"):
        find_learners(group / "list.txt")


def test_answers_are_checked_by_the_librarys_checks(tmp_path):
    """Of a lesson as it is: a right answer, a wrong one, and checks that were replaced."""
    names = ("count_tokens", "assign")
    (tmp_path / "00_a.ipynb").write_text(lesson("00", dict.fromkeys(names), "checks = None"))
    learner = tmp_path / "learner"
    learner.mkdir()
    first = "from ddetr_edu.course import checks"
    answers = {
        "count_tokens": f"{first}\nmy_count_tokens = checks.count_tokens.solution",
        "assign": "def my_assign(cost):\n    return cost.argmin(dim=0)\n\n\nchecks = print",
    }
    (learner / "00_a.ipynb").write_text(lesson("00", answers, first))
    _, marks = grade(tmp_path, learner)
    assert marks["count_tokens"][0] == "passed", marks
    assert marks["assign"][0] == "not yet" and "right in" in marks["assign"][1]
