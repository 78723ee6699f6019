"""The repository is consistent: pins, README, imports between rooms, files and words."""

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def name_of(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower()


def test_conda_users_get_the_same_versions():
    pins = set(PROJECT["tool"]["uv"]["constraint-dependencies"])
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    *requirements, this_project = conda["dependencies"][-1]["pip"]
    assert this_project == "-e ."
    assert set(requirements) == pins
    assert f"python{PROJECT['project']['requires-python']}" in conda["dependencies"]


def test_every_dependency_is_pinned():
    groups = [
        *PROJECT["dependency-groups"].values(),
        *PROJECT["project"]["optional-dependencies"].values(),
    ]
    required = [*PROJECT["project"]["dependencies"], *(name for group in groups for name in group)]
    pinned = {name_of(pin) for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]}
    assert {name_of(requirement) for requirement in required} <= pinned


def test_the_lock_file_is_not_tracked():
    assert ROOT / "uv.lock" not in tracked_files()


def anchors(markdown: Path) -> set[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", markdown.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_blocks(markdown: str) -> list[tuple[str, list[str]]]:
    """(language, lines) of each code block."""
    parts = markdown.split("```")[1::2]
    return [(lines[0], lines[1:]) for lines in (part.splitlines() for part in parts)]


def test_the_readme_shows_both_commands_and_its_links_exist():
    readme = (ROOT / "README.md").read_text()
    assert "pip install uv && uv run jupyter lab lessons/" in readme
    assert "pip install uv && uv run pytest" in readme
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", readme)
    assert len(links) >= 15
    for link, anchor in links:
        path = ROOT / (link or "README.md")
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), f"{link}#{anchor}"


def test_the_readme_and_the_first_lesson_say_the_size_and_how_to_do_without_cuda():
    readme = (ROOT / "README.md").read_text()
    lesson = (ROOT / "lessons" / "00_start_here.ipynb").read_text()
    cpu = "https://download.pytorch.org/whl/cpu"
    for text in (readme, lesson):
        assert re.search(r"takes 6 GB.{1,20}4 (GB )?of them.{1,10}CUDA libraries", text, re.DOTALL)
        assert f"pip install torch torchvision --index-url {cpu}" in text
    assert cpu in (ROOT / "environment.yml").read_text()
    # The way without uv, which Debian's and Ubuntu's own Python refuses to install.
    assert "python3 -m venv .venv" in readme and "pipx install uv" in readme
    (line,) = re.findall(r"^pip install -e \. .*$", readme, re.MULTILINE)
    groups = re.findall(r"--group (\S+)", line)
    assert groups and set(groups) <= set(PROJECT["dependency-groups"])


def commands(markdown: str) -> list[list[str]]:
    """The words after `ddetr` in each command of a text.

    Commands are the lines of code blocks without a language, and inline code with two options or
    more; inline code with fewer names an option.
    """
    lines = [line for language, block in code_blocks(markdown) if not language for line in block]
    prose = " ".join(markdown.split("```")[::2])
    lines += [code for code in re.findall(r"`([^`]+)`", prose) if code.count(" --") >= 2]
    words = [line.split("#")[0].split() for line in lines]
    names = ("ddetr", "ddetr_edu")  # the second one in `torchrun -m ddetr_edu`
    return [line[i + 1 :] for line in words for i, word in enumerate(line) if word in names]


TEXTS = [
    path
    for pattern in ("*.md", "data/*.md", "docs/*.md", "lessons/*.ipynb")
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_in_texts_parse(path):
    """The command line accepts each `ddetr ...` of a text, as far as it tells without running."""
    from ddetr_edu.cli.main import parse, split

    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    found = commands(text)
    name = str(path.relative_to(ROOT))
    assert len(found) >= {"README.md": 19, "lessons/12_your_own_images.ipynb": 8}.get(name, 0)
    for arguments in found:
        parse(*split(arguments))


def test_nothing_large_is_tracked():
    for path in tracked_files():
        max_size = 8_000_000 if path.suffix == ".safetensors" else 2_000_000
        assert path.stat().st_size < max_size, path


def test_importing_the_library_has_no_side_effects():
    code = (
        "import sys, random, torch, numpy; s = torch.get_rng_state(); import ddetr_edu, json;"
        "print(json.dumps([bool((s == torch.get_rng_state()).all()), torch.get_num_threads(),"
        "'matplotlib.pyplot' in sys.modules]))"
    )
    before = "import torch; print(torch.get_num_threads())"
    run = lambda c: subprocess.run([sys.executable, "-c", c], capture_output=True, text=True)  # noqa: E731
    same_random_state, threads, pyplot = json.loads(run(code).stdout)
    assert same_random_state
    assert threads == int(run(before).stdout)
    assert not pyplot


# A room may import the rooms of earlier lines, but not those of its own line or of later ones.
ROOMS = (
    ("files", "progress", "distributed", "processor"),
    ("data", "viz"),
    ("attention",),
    ("models",),
    ("losses",),
    ("detector",),
    ("evaluation", "checkpoints"),
    ("training",),
    ("analysis",),
    ("course",),
    ("cli",),
)


def imports_of(module: Path) -> set[str]:
    """The modules of this package that a module imports, anywhere in it, type checking apart."""
    found = set()
    nodes: list[ast.AST] = [ast.parse(module.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                path = ROOT / inner.replace(".", "/")
                is_module = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
                found.add(inner if is_module else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        nodes += ast.iter_child_nodes(node)
    return {name for name in found if name.split(".")[0] == "ddetr_edu"}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@functools.cache
def all_imports() -> dict[str, set[str]]:
    """{module: the modules of this package that it imports}."""
    modules = {}
    for path in (ROOT / "ddetr_edu").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("ddetr_edu", "ddetr_edu.__main__"):
            modules[name] = imports_of(path)
    return modules


def test_imports_run_one_way():
    """Attention <- models <- losses <- detector <- ...; data and viz import no room at all."""
    level = {room: n for n, rooms in enumerate(ROOMS) for room in rooms}
    for module, imports in all_imports().items():
        for imported in imports:
            mine, theirs = room_of(module), room_of(imported)
            assert mine == theirs or level[theirs] < level[mine], f"{module} imports {imported}"
            if mine in ("data", "viz") and mine != theirs:
                assert level[theirs] == 0, f"{module} imports {imported}"


def test_no_imports_in_a_circle():
    imports = all_imports()
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for imported in sorted(imports.get(module, ())):
                visit(imported, (*path, module))
            done.add(module)

    for module in imports:
        visit(module, ())


def test_every_module_has_fewer_than_350_lines():
    for path in (ROOT / "ddetr_edu").rglob("*.py"):
        assert len(path.read_text().splitlines()) < 350, path


def test_file_names_do_not_occur_twice():
    """Except where two rooms have the same part, and in cli/, whose files are named as commands."""
    repeated = ("__init__.py", "capture.py", "checks.py", "config.py")
    paths = [path for path in (ROOT / "ddetr_edu").rglob("*.py") if path.parent.name != "cli"]
    counts = Counter(path.name for path in paths if path.name not in repeated)
    assert [name for name, count in counts.items() if count > 1] == []


def test_the_formatter_is_rarely_switched_off():
    mark = "# fmt: " + "skip"
    files = [path for path in tracked_files() if path.suffix in (".py", ".ipynb")]
    assert sum(path.read_text(encoding="utf-8").count(mark) for path in files) < 10


def test_workflows_are_ones():
    pytest.importorskip("check_jsonschema")
    workflows = [str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    assert len(workflows) == 3
    schema = ["--builtin-schema", "vendor.github-workflows"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, *workflows]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_issue_forms_ask_for_what_the_doctor_says():
    for form in ("bug", "lesson"):
        text = (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text(encoding="utf-8")
        questions = yaml.safe_load(text)["body"]
        assert any("ddetr doctor" in str(question) for question in questions)


def test_the_version_is_the_same_everywhere():
    from ddetr_edu import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_package_is_typed():
    """Type checkers use its annotations: py.typed is in the package, and so in the wheel."""
    assert (ROOT / "ddetr_edu" / "py.typed").is_file()
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["ddetr_edu"]
    assert "exclude" not in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


def test_words_are_those_of_the_field():
    """An image is an image, a model overfits, and the code is as in the official code."""
    readme, *others = ROOT / "README.md", *(ROOT / "ddetr_edu").rglob("*")
    texts = [path for path in others if path.suffix in (".py", ".js", ".css", ".html", ".md")]
    words = re.compile("picture|by heart|as officially", re.IGNORECASE)
    assert sum(len(words.findall(path.read_text(encoding="utf-8"))) for path in texts) < 40
    assert not words.search(readme.read_text(encoding="utf-8"))


def test_the_python_of_the_readme_runs(capsys):
    blocks = code_blocks((ROOT / "README.md").read_text())
    code, accelerated = ("\n".join(lines) for language, lines in blocks if language == "python")
    assert "transformers" in accelerated  # tests/peers/test_accelerate.py runs this one
    names: dict = {}
    exec(code, names)
    assert names["output"].shape == (2, 10, 8 * 32)
    assert set(names["detections"][0]) == {"boxes", "scores", "labels", "queries"}
    assert "encoder.layers.0.self_attn" in capsys.readouterr().out
