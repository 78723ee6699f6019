"""`ddetr course`, `ddetr course copy` and `ddetr course grade`: what they print."""

import json
from datetime import date

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

from ddetr_edu.cli import course_grade
from ddetr_edu.cli.main import main
from ddetr_edu.course import catalogue, grading
from ddetr_edu.course.grading import Mark
from ddetr_edu.course.learner_progress import progress_file, record


def lesson(number: str, title: str, **stars: int) -> str:
    cells = [new_markdown_cell(f"# {number} · {title}\n\n**20 minutes.**", id=f"{number}-title")]
    for name, n in stars.items():
        text = f"### Exercise: `my_{name}`  ({'★' * n}, {5 * n} minutes)\n\nWrite it."
        cells.append(new_markdown_cell(text, id=f"{number}-{name}-task"))
        cells.append(new_code_cell(f"my_{name} = None", id=f"{number}-{name}-stub"))
    return writes(new_notebook(cells=cells))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run("course", "copy", "a b") -> exit code, output, errors; with two made-up lessons."""
    lessons = tmp_path / "lessons"
    lessons.mkdir()
    (lessons / "00_start.ipynb").write_text(lesson("00", "Start", count=1), encoding="utf-8")
    (lessons / "04_b.ipynb").write_text(lesson("04", "Offsets", star=2, shift=3), encoding="utf-8")
    (lessons / "GLOSSARY.md").touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(catalogue, "lessons_folder", lambda: lessons)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("UV", raising=False)

    def call(*words):
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_table_of_a_beginner(run, monkeypatch):
    assert run("course") == (
        0,
        "00 Start\n"
        "   count  ★      5 minutes  not attempted\n"
        "04 Offsets\n"
        "   star   ★★    10 minutes  not attempted\n"
        "   shift  ★★★   15 minutes  not attempted\n"
        "2 lessons, 3 exercises: 0 passed, 0 tried, 3 not attempted\n"
        "\n"
        "The next exercise is count in lesson 00. To make a copy of the lessons to work in, and "
        "open it:\n"
        "  ddetr course copy my-course\n"
        "  jupyter lab my-course/00_start.ipynb\n",
        "",
    )
    monkeypatch.setenv("UV", "/usr/bin/uv")  # `uv run` sets it
    assert run("course")[1].endswith("  uv run jupyter lab my-course/00_start.ipynb\n")


def test_the_table_of_a_learner(run, tmp_path):
    assert run("course", "copy", "my course")[0] == 0
    for name, passed in [("count", False), ("count", True), ("star", False), ("gone", True)]:
        record(name, passed)
    code, out, _ = run("course")
    assert code == 0 and f"count  ★      5 minutes  passed on {date.today()}\n" in out
    assert "star   ★★    10 minutes  tried once\n" in out
    assert "2 lessons, 3 exercises: 1 passed, 1 tried, 1 not attempted\n" in out
    assert "The next exercise is star in lesson 04. To open it:\n" in out
    assert out.endswith("  jupyter lab 'my course/04_b.ipynb'\n")
    record("star", False)
    assert "tried 2 times" in run("course")[1]
    (tmp_path / "work" / "my course" / "04_b.ipynb").unlink()
    assert "ddetr course copy my-course" in run("course")[1], "that copy is gone"
    with progress_file().open("a") as file:
        file.write("\n{damaged")
    assert f"\n1 damaged line of {progress_file()} could not be read\n" in run("course")[1]
    for name in ("star", "shift"):
        record(name, True)
    assert run("course")[1].endswith("\nYou have passed all exercises.\n")


def test_the_table_as_json(run):
    record("star", False)
    record("star", True)
    record("shift", False)
    code, out, err = run("course", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "") and report["next"] == "count"
    assert [(row["lesson"], row["title"]) for row in report["lessons"]] == [
        ("00", "Start"),
        ("04", "Offsets"),
    ]
    assert report["lessons"][1]["exercises"] == [
        {
            "exercise": "star",
            "stars": 2,
            "minutes": 10,
            "tries": 2,
            "passed": True,
            "first_passed": str(date.today()),
        },
        {
            "exercise": "shift",
            "stars": 3,
            "minutes": 15,
            "tries": 1,
            "passed": False,
            "first_passed": None,
        },
    ]


def test_copy_says_what_it_did_and_what_to_do_next(run, tmp_path):
    assert run("course", "copy", "a b") == (
        0,
        "copied 3 files to a b\nTo begin:\n  jupyter lab 'a b'\n",
        "",
    )
    mine = tmp_path / "work" / "a b" / "04_b.ipynb"
    mine.write_text("my work")
    (mine.parent / "00_start.ipynb").unlink()
    code, out, _ = run("course", "copy", "a b")
    assert code == 0 and mine.read_text() == "my work"
    assert out.startswith(
        "copied 1 file to a b: 00_start.ipynb\n"
        "kept 2 that were there already: 04_b.ipynb, GLOSSARY.md (to get one as it was, rename "
        "yours and copy again)\n"
    )
    code, out, err = run("course", "copy", str(tmp_path / "lessons"))
    assert (code, out, len(err.splitlines())) == (1, "", 1) and "choose a folder outside" in err


@pytest.fixture
def marks(monkeypatch):
    """Grading that runs nothing: every notebook gets these marks."""

    def grade_notebook(file, lesson, folder, seconds, say):
        say(f"running {file}")
        results = {"count": ("passed", "passed: all"), "star": ("not yet", "not yet: no\nmore")}
        results["shift"] = "timed out", "interrupted"
        made = [Mark(exercise, *results[exercise.name]) for exercise in lesson.exercises]
        return made, ["the cell 'x': NameError: x"]

    monkeypatch.setattr(grading, "grade_notebook", grade_notebook)


RUNS = "ddetr course grade: this runs the code in the learners' notebooks"


def test_the_report_for_a_teacher(run, marks, tmp_path):
    run("course", "copy", "class/Ada")
    run("course", "copy", "class/Bob")
    (tmp_path / "work/class/Bob/04_b.ipynb").unlink()
    code, out, err = run("course", "grade", "class")
    assert code == 0 and out == (
        "Ada: 1 of 3 exercises passed\n"
        "  00 Start (00_start.ipynb)\n"
        "    count  ★    passed: all\n"
        "    the cell 'x': NameError: x\n"
        "  04 Offsets (04_b.ipynb)\n"
        "    star   ★★   not yet: no\n"
        "    shift  ★★★  timed out: interrupted\n"
        "    the cell 'x': NameError: x\n"
        "Bob: 1 of 3 exercises passed\n"
        "  00 Start (00_start.ipynb)\n"
        "    count  ★    passed: all\n"
        "    the cell 'x': NameError: x\n"
        "  missing: 04\n"
    )
    assert err.startswith(RUNS) and "running class/Bob/00_start.ipynb" in err
    code, out, _ = run("course", "grade", "class/Ada", "--lessons", "04")
    assert code == 0 and out.startswith("Ada: 0 of 2 exercises passed\n  04 Offsets")


def test_the_report_as_json(run, marks, tmp_path):
    run("course", "copy", "Ada")
    (tmp_path / "work/Ada/04_b.ipynb").unlink()
    code, out, err = run("course", "grade", "Ada", "--json")
    assert code == 0 and err.startswith(RUNS)
    missing = {"result": "missing", "message": ""}
    assert json.loads(out) == {
        "learners": [
            {
                "learner": "Ada",
                "folder": "Ada",
                "passed": 1,
                "exercises": 3,
                "lessons": [
                    {
                        "lesson": "00",
                        "title": "Start",
                        "file": "00_start.ipynb",
                        "exercises": [
                            {
                                "exercise": "count",
                                "stars": 1,
                                "minutes": 5,
                                "result": "passed",
                                "message": "passed: all",
                            }
                        ],
                        "notes": ["the cell 'x': NameError: x"],
                    },
                    {
                        "lesson": "04",
                        "title": "Offsets",
                        "file": None,
                        "exercises": [
                            {"exercise": "star", "stars": 2, "minutes": 10, **missing},
                            {"exercise": "shift", "stars": 3, "minutes": 15, **missing},
                        ],
                        "notes": [],
                    },
                ],
            }
        ]
    }


@pytest.mark.parametrize(
    "words, message",
    [
        (("cpoy",), "cpoy"),
        (("--jsno",), "--jsno"),
        (("copy",), "PATH"),
        (("grade", "nowhere"), "nowhere is no folder"),
        (("grade", "."), ". has no lessons"),
        (("grade", ".", "--timeout", "0"), "--timeout must be more than 0"),
        (("grade", ".", "--lessons", "04", "4"), "there is no lesson 4; there are 00, 04"),
    ],
)
def test_an_error_is_one_line_and_runs_nothing(run, words, message):
    code, out, err = run("course", *words)
    assert (code, out, len(err.splitlines())) == (1, "", 1) and message in err


def test_without_jupyter_one_sentence_names_what_to_install(run, marks, monkeypatch):
    run("course", "copy", "mine")
    monkeypatch.setattr(course_grade, "NEEDED", ("no_such_module",))
    code, out, err = run("course", "grade", "mine")
    assert (code, out) == (1, "")
    assert err == (
        "ddetr course: grading runs notebooks, which needs no_such_module; run: uv sync, or "
        "pip install no_such_module\n"
    )


def test_help_explains_all_three(run, capsys):
    for words in (["course", "--help"], ["--help"]):
        with pytest.raises(SystemExit):
            main(words)
        out = " ".join(capsys.readouterr().out.split())
        assert "copy" in out and "grade" in out and "what you have passed" in out
