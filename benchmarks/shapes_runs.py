"""The runs of shapes.py: the command that each was trained by."""


def command_of(row: dict) -> str:
    """The words of `ddetr train` that are the same for all seeds.

    Args:
        row: Of the results. Its "minutes" are None if its "steps" were chosen, not its minutes.

    Returns:
        Such as "--preset tiny --minutes 10 --precision bf16".
    """
    minutes = row["minutes"]
    length = f"--steps {row['steps']}" if minutes is None else f"--minutes {minutes:g}"
    return f"--preset {row['preset']} {length} {row['flags']}"


def grouped_runs(results: dict) -> dict[str, list[dict]]:
    """{words of the command line: the runs of its seeds}, from the results of shapes.py."""
    groups: dict[str, list[dict]] = {}
    for run in results["runs"]:
        groups.setdefault(command_of(run), []).append(run)
    return groups
