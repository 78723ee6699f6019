"""The repository holds together: pins, README, what may and what may not be in it."""

import json
import re
import subprocess
import sys
import tomllib
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


def test_conda_users_get_the_same_set():
    pins = set(PROJECT["tool"]["uv"]["constraint-dependencies"])
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    *requirements, ourselves = conda["dependencies"][-1]["pip"]
    assert ourselves == "-e ."
    assert set(requirements) == pins
    wanted = f"python{PROJECT['project']['requires-python']}"
    assert wanted in conda["dependencies"]


def test_every_dependency_is_pinned():
    groups = PROJECT["dependency-groups"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(name for group in groups for name in group)]
    pinned = {name_of(pin) for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]}
    assert {name_of(requirement) for requirement in wanted} <= pinned


def test_the_lock_file_is_not_tracked():
    assert ROOT / "uv.lock" not in tracked_files()


def test_the_readme_shows_the_two_commands_and_its_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text()
    assert "pip install uv && uv run jupyter lab lessons/" in readme
    assert "pip install uv && uv run pytest" in readme
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_commands_in_the_readme_parse():
    """Each `ddetr ...` line of the README's code blocks is one the command line accepts."""
    from ddetr_edu.cli import COMMANDS, GROUPS, parse

    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", readme, re.DOTALL)
    lines = [line.split("#")[0].split() for block in blocks for line in block.splitlines()]
    commands = [line[line.index("ddetr") + 1 :] for line in lines if "ddetr" in line]
    assert len(commands) >= 5
    for arguments in commands:
        if arguments[0] in GROUPS:
            parse(GROUPS[arguments[0]][1], "ddetr", "", arguments[1:])
        else:
            parse(COMMANDS, "ddetr", "", arguments)


def test_nothing_large_is_tracked():
    for path in tracked_files():
        most = 8_000_000 if path.suffix == ".safetensors" else 2_000_000
        assert path.stat().st_size < most, path


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


def test_imports_run_one_way():
    """attention <- detector <- training <- course, cli; data and viz know no model."""
    order = {"attention": 0, "detector": 1, "training": 2, "course": 3, "cli": 4}
    for module in (ROOT / "ddetr_edu").rglob("*.py"):
        part = module.relative_to(ROOT / "ddetr_edu").parts[0].removesuffix(".py")
        used = set(
            re.findall(r"^(?:from|import) ddetr_edu\.(\w+)", module.read_text(), re.MULTILINE)
        )
        if part in ("data", "viz"):
            assert used <= {part}, f"{module} imports {used}"
        elif part in order:
            later = {name for name in used if order.get(name, -1) > order[part]}
            assert not later, f"{module} imports {later}"


def test_the_python_of_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["output"].shape == (2, 10, 8 * 32)
    assert set(names["found"][0]) == {"boxes", "scores", "labels", "queries"}
    assert "encoder.layers.0.self_attn" in capsys.readouterr().out
