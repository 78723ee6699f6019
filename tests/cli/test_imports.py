"""What the commands import: nothing that takes seconds before it is needed.

Times would depend on the machine, so the imported modules are looked at.
"""

import json
import subprocess
import sys

import pytest

from ddetr_edu.cli.main import COMMANDS, GROUPS, WITHOUT_TORCH
from ddetr_edu.data.shapes import write_shapes_set

SLOW = ("torch", "torchvision", "matplotlib")
PROGRAM = """
import json, sys

{before}
from ddetr_edu.cli.main import main

try:
    code = main({arguments})
except SystemExit as end:
    code = end.code or 0
print(json.dumps([code, [name for name in {names} if name in sys.modules]]))
"""


def imported(line: str, before: str = "", folder=None, names=SLOW):
    """Exit code, slow modules, output and errors of a command in a process of its own."""
    program = PROGRAM.format(arguments=line.split(), before=before, names=names)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    *output, last = done.stdout.splitlines()
    code, modules = json.loads(last)
    return code, modules, "\n".join(output), done.stderr


HELP = [
    "--help",
    *(f"{group} --help" for group in GROUPS),
    *(f"{name} --help" for name in COMMANDS),
]
HELP += [f"{group} {name} --help" for group, (_, names) in GROUPS.items() for name in names]


@pytest.mark.parametrize("line", ["--help", "data --help", "train --help", "inspect --help"])
def test_help_imports_nothing_slow(line):
    code, modules, output, errors = imported(line)
    assert (code, modules, errors) == (0, [], "") and "usage: ddetr" in output


def test_no_help_imports_anything_slow():
    """All commands in one process: modules stay imported."""
    calls = (
        "from ddetr_edu.cli.main import main\n"
        f"for line in {HELP}:\n"
        "    try:\n"
        "        main(line.split())\n"
        "    except SystemExit:\n"
        "        pass\n"
    )
    assert imported("--help", before=calls)[:2] == (0, [])


@pytest.mark.parametrize(
    "line",
    [
        "trian",
        "data",
        "data chekc",
        "course cpoy",
        "course grade nowhere",
        "train --stepz 3",
        "train --steps many",
        "train --steps 0",
        "train",
        "predict a.png --threshold high",
        "bench attention --backends gpu",
        "doctor --loud",
    ],
)
def test_an_error_in_the_arguments_imports_nothing_slow(line):
    code, modules, _, errors = imported(line)
    assert (code, modules) == (1, []) and len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "data validate shapes",
        "data convert --from coco shapes --out out",
        "data split shapes --out out --val 0.5",
    ],
)
def test_validating_and_converting_data_imports_no_torch(line, tmp_path):
    write_shapes_set(tmp_path / "shapes", train=1, val=1, seed=0)
    code, modules, output, errors = imported(line, folder=tmp_path)
    assert (code, modules) == (0, []) and "train: 1 images" in output
    assert "importing" not in errors


@pytest.mark.parametrize("line", ["course", "course --json", "course copy mine"])
def test_the_course_is_shown_and_copied_without_torch(line, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    code, modules, output, errors = imported(line, folder=tmp_path, names=(*SLOW, "numpy"))
    assert (code, modules, errors) == (0, [], "") and output


def test_the_commands_without_torch_exist():
    commands = {f"ddetr {name}" for name in COMMANDS}
    commands |= {f"ddetr {group} {name}" for group, (_, names) in GROUPS.items() for name in names}
    assert set(WITHOUT_TORCH) < commands


def test_doctor_imports_torch_and_nothing_else_that_is_slow():
    code, modules, output, errors = imported("doctor", names=(*SLOW, "pycocotools", "scipy"))
    assert (code, modules) == (0, ["torch"]) and "attention" in output
    assert errors == "ddetr doctor: importing torch, which takes some seconds ...\n"


SMALL = """
from ddetr_edu.attention import benchmark
benchmark.LEVELS, benchmark.QUERIES = [(5, 7), (3, 2)], {"encoder": 41, "decoder": 3}
"""


def test_the_attention_benchmark_imports_no_torchvision(tmp_path):
    line = "bench attention --backends grid_sample naive --shapes decoder --locations initial "
    line += f"--rounds 1 --images 1 --out {tmp_path}/speed"
    code, modules, output, _ = imported(line, before=SMALL, names=(*SLOW, "pycocotools", "scipy"))
    assert code == 0 and "torchvision" not in modules and "median ms" in output
    assert not {"pycocotools", "scipy"} & set(modules)


BLOCKED = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ValueError("torch is imported")

sys.meta_path.insert(0, Blocker())
"""


def test_a_command_says_that_it_imports_torch_before_it_does():
    """Even if the import fails, the line is there."""
    code, _, _, errors = imported("eval --checkpoint gone.pt", before=BLOCKED)
    first, second = errors.splitlines()
    assert code == 1 and first.startswith("ddetr eval: importing torch")
    assert second == "ddetr: torch is imported"
