"""The list of lessons agrees with the lessons, and a copy of them works anywhere."""

import json
import re
import tomllib

import pytest
from notebook_reading import LESSONS, ROOT, check_names, read, text

from ddetr_edu import files
from ddetr_edu.checkpoints.shipped import shipped_checkpoint, shipped_log
from ddetr_edu.course.catalogue import lessons_folder, read_lessons, read_notebook
from ddetr_edu.course.working_copy import copy_lessons, without_links_outside


def test_the_lessons_are_found():
    assert lessons_folder() == ROOT / "lessons"
    lessons = read_lessons(lessons_folder())
    assert [lesson.path for lesson in lessons] == LESSONS
    assert [lesson.number for lesson in lessons] == [path.name[:2] for path in LESSONS]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_exercise_of_a_lesson_is_in_the_list(path):
    (lesson,) = [lesson for lesson in read_lessons(lessons_folder()) if lesson.path == path]
    notebook = read(path)
    assert [exercise.name for exercise in lesson.exercises] == check_names(notebook)
    assert text(notebook).count("### Exercise") == len(lesson.exercises) > 0
    assert all(1 <= stars <= 3 and 1 <= minutes <= 90 for _, stars, minutes in lesson.exercises)
    assert notebook.cells[0].source.startswith(f"# {lesson.number} · {lesson.title}\n")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_works_in_another_folder(path):
    notebook = read(path)
    code = text(notebook, "code")
    assert "../" not in code, "use shipped_checkpoint or the like: a copy lies elsewhere"
    left = without_links_outside(text(notebook))
    assert not re.search(r"""[("' ]\.\./""", left), "a link that without_links_outside misses"


@pytest.mark.parametrize("content", ["", "[]", '{"cells": 3}', '{"cells": [{"source": "x"}]}'])
def test_a_notebook_that_is_none_is_named(content, tmp_path):
    (tmp_path / "04_a.ipynb").write_text(content)
    with pytest.raises(ValueError, match="04_a.ipynb is no notebook"):
        read_notebook(tmp_path / "04_a.ipynb")


def test_a_learners_own_notebooks_are_no_lessons(tmp_path):
    content = {"cells": [{"cell_type": "markdown", "source": ["# 04 · A\n", "\n", "b"]}]}
    for name in ("04_a.ipynb", "04_a-Copy1.ipynb", "Untitled.ipynb"):
        (tmp_path / name).write_text(json.dumps(content))
    ((number, title, path, exercises),) = read_lessons(tmp_path)
    assert (number, title, path.name, exercises) == ("04", "A", "04_a.ipynb", ())


def test_what_is_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "ddetr_edu" / "files.py"))
    with pytest.raises(FileNotFoundError, match="^the lessons are missing: .*install"):
        lessons_folder()
    with pytest.raises(FileNotFoundError, match="^the model .* is missing: .*install"):
        shipped_checkpoint()


def test_the_model_that_comes_along_is_found():
    assert shipped_checkpoint() == ROOT / "data/tiny-shapes/model.safetensors"
    assert shipped_log() == ROOT / "data/tiny-shapes/metrics.jsonl"


def test_a_wheel_has_what_find_shipped_looks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(included) == {
        "benchmarks/results/ablation.json",
        "benchmarks/results/ladder.json",
        "csrc",
        "lessons",
        "data/tiny-shapes/model.safetensors",
        "data/tiny-shapes/metrics.jsonl",
    }
    assert all((ROOT / name).exists() for name in included)
    assert all(target == f"ddetr_edu/{name}" for name, target in included.items())


def test_links_that_lead_outside_become_text(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "ddetr_edu" / "files.py"))
    readme = tmp_path / "README.md"
    readme.touch()
    for markdown, expected in {
        "see [one `line`](../README.md#a-b) of it": f"see one `line` (`{readme}`) of it",
        "[gone](../docs/gone.md), [x](../README.md)": f"gone, x (`{readme}`)",
        "[`a[0]`](../../b.py)": "`a[0]`",
        "![a figure](../docs/a.png)": "a figure",
        "[03](03_b.ipynb) and [web](https://a.org/../b)": None,
    }.items():
        assert without_links_outside(markdown) == (expected or markdown)


@pytest.fixture
def lessons(tmp_path):
    folder = tmp_path / "lessons"
    folder.mkdir()
    cells = [
        {"cell_type": "markdown", "source": ["# 00 · A\n", "[why](../gone.md)"]},
        {"cell_type": "code", "source": "1", "outputs": [{"data": {"text/plain": "1"}}]},
    ]
    (folder / "00_a.ipynb").write_text(json.dumps({"cells": cells}))
    (folder / "01_b.ipynb").write_text(json.dumps({"cells": cells[1:]}, indent=3))
    (folder / "GLOSSARY.md").write_text("[a](00_a.ipynb) 词", encoding="utf-8")
    (folder / "conftest.py").touch()
    return folder


def test_a_copy_has_everything_but_dead_links(lessons, tmp_path):
    folder = tmp_path / "my course" / "here"
    added, kept = copy_lessons(lessons, folder)
    assert added == ["00_a.ipynb", "01_b.ipynb", "GLOSSARY.md"] and kept == []
    assert sorted(path.name for path in folder.iterdir()) == added
    prose, code = read_notebook(folder / "00_a.ipynb")["cells"]
    assert prose["source"] == "# 00 · A\nwhy"
    assert code == read_notebook(lessons / "00_a.ipynb")["cells"][1]
    for name in added[1:]:
        assert (folder / name).read_bytes() == (lessons / name).read_bytes()


def test_a_second_copy_overwrites_nothing(lessons, tmp_path):
    folder = tmp_path / "mine"
    copy_lessons(lessons, folder)
    (folder / "00_a.ipynb").write_text("my work")
    (folder / "01_b.ipynb").unlink()
    (folder / "GLOSSARY.md").unlink()
    (folder / "GLOSSARY.md").symlink_to(tmp_path / "nowhere")
    assert copy_lessons(lessons, folder) == (["01_b.ipynb"], ["00_a.ipynb", "GLOSSARY.md"])
    assert (folder / "00_a.ipynb").read_text() == "my work"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["lessons", "lessons/mine/too", "l/../lessons", "l", "l/x"])
def test_the_lessons_themselves_are_no_place_to_copy_to(name, lessons, tmp_path):
    (tmp_path / "l").symlink_to(lessons)
    before = sorted(path.name for path in lessons.iterdir())
    with pytest.raises(ValueError, match="is where the lessons themselves are; choose a folder"):
        copy_lessons(lessons, tmp_path / name)
    assert sorted(path.name for path in lessons.iterdir()) == before


def test_a_file_is_no_place_to_copy_to(lessons, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; choose"):
        copy_lessons(lessons, tmp_path / "file")
