"""The command line: `ddetr --help`, or `python -m ddetr_edu --help`.

A command's module is imported when the command is called, and what takes long to import (torch,
torchvision, matplotlib) inside its `run`: help and errors in arguments are printed at once.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import io
import sys
from collections.abc import Callable, Sequence

import tyro
from tyro.extras import subcommand_cli_from_dict

from ddetr_edu.processor import read_times, share_processor

ABOUT = "Deformable DETR, to be read and run. `ddetr --version` prints the version."
COMMANDS = (
    "doctor",
    "train",
    "eval",
    "predict",
    "inspect",
    "gallery",
    "animate",
    "convert",
    "export",
    "course",
)
# Commands of two words: the first word, what they do, and the second words. If the first word is
# also among the commands above, it is one by itself, too.
GROUPS = {
    "data": (
        "Generate, download, convert, split, validate or count data sets in COCO's layout.",
        ("shapes", "coco", "convert", "split", "validate", "stats"),
    ),
    "course": (
        "Show what you have passed (`ddetr course` alone, or `ddetr course --json`), copy the "
        "lessons to work in, or grade such copies.",
        ("copy", "grade"),
    ),
    "bench": ("Measure the speed of this library on this machine.", ("attention",)),
}
WITHOUT_TORCH = (
    "ddetr data coco",
    "ddetr data convert",
    "ddetr data split",
    "ddetr data validate",
    "ddetr course",
    "ddetr course copy",
    "ddetr course grade",
)
OWN_THREADS = ("ddetr doctor", "ddetr bench attention", "ddetr train")  # they choose themselves


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. An expected error ends in one line, never in a traceback.

    Args:
        arguments: The words after `ddetr`; those of the command line if None.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack a letter of a category's name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    prog, arguments = split(list(sys.argv[1:] if arguments is None else arguments))
    if arguments == ["--version"]:
        print(f"ddetr-edu {importlib.metadata.version('ddetr-edu')}")
        return 0
    start = read_times()
    try:
        call = parse(prog, arguments)
        command = f"{prog} {arguments[0]}"
        if "torch" not in sys.modules and command not in WITHOUT_TORCH:
            message = f"{command}: importing torch, which takes some seconds ..."
            print(message, file=sys.stderr, flush=True)
            if command not in OWN_THREADS and (sentence := share_processor(start)) is not None:
                print(f"{command}: {sentence}", file=sys.stderr, flush=True)
        call()
    except KeyboardInterrupt as interrupt:
        print(f"{prog}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    return 0


def is_expected(error: Exception) -> bool:
    """Whether an error says in one sentence what is wrong; any other is a bug of this library."""
    if isinstance(error, (ValueError, OSError, MemoryError)):
        return True
    return type(error).__name__ in ("BuildError", "OutOfMemoryError")  # without importing torch


def split(arguments: list[str]) -> tuple[str, list[str]]:
    """The words before the command ("ddetr" or, for example, "ddetr data"), and the other words."""
    if not arguments or arguments[0] not in GROUPS:
        return "ddetr", arguments
    first, *others = arguments
    options_only = not others or (others[0].startswith("-") and others[0] not in ("-h", "--help"))
    if first in COMMANDS and options_only:
        return "ddetr", arguments
    return f"ddetr {first}", others


def parse(prog: str, arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to be called.

    Args:
        prog: The words before the command, from `split`.
        arguments: The command and what follows it.

    Returns:
        A function of no arguments.

    Raises:
        SystemExit: After printing help.
        ValueError: In one line, for invalid arguments.
    """
    about, commands = ABOUT, tuple(dict.fromkeys((*COMMANDS, *GROUPS)))
    if prog != "ddetr":
        about, commands = GROUPS[prog.removeprefix("ddetr ")]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            if arguments and arguments[0] in commands:
                prog = f"{prog} {arguments[0]}"
                return tyro.cli(bound(find(prog)), prog=prog, args=arguments[1:])
            return subcommand_cli_from_dict(
                {name: bound(find(f"{prog} {name}")) for name in commands},
                prog=prog,
                description=about,
                args=arguments,
            )
    except SystemExit as end:
        if not end.code:
            raise  # --help
        # tyro draws a frame around its message, with a title above and help below a rule.
        lines = [line.strip("│ ") for line in errors.getvalue().splitlines()[1:]]
        sections = "\n".join("" if set(line) <= set("─-╰╯") else line for line in lines)
        message = sections.strip().split("\n\n")[0].replace("\n", " ")
        raise ValueError(f"{message} (see {prog} --help)") from None


def find(command: str) -> Callable[..., None]:
    """The function of a command.

    Args:
        command: Such as "ddetr predict" or "ddetr data stats". "ddetr data" is in the list of
            commands, too: its function names the second words, since it does nothing by itself.

    Returns:
        A function whose arguments are those of the command.
    """
    words = command.split()[1:]
    if len(words) == 1 and words[0] in GROUPS and words[0] not in COMMANDS:
        about, seconds = GROUPS[words[0]]

        def group() -> None:
            raise ValueError(f"{command} needs a second word: {', '.join(seconds)}")

        group.__doc__ = f"{about} ({', '.join(f'{command} {second}' for second in seconds)})"
        return group
    return importlib.import_module(f"ddetr_edu.cli.{'_'.join(words)}").run


def bound(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function of the same arguments that returns the call instead of making it."""

    @functools.wraps(command)
    def bind(*args, **kwargs):
        return functools.partial(command, *args, **kwargs)

    return bind
