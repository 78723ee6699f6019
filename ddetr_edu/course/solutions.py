"""The reference solutions by the names of their exercises, as in `solutions.initial_offsets`."""

from ddetr_edu.course import checks


def __getattr__(name: str):
    if name not in checks.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(checks, name).solution


def __dir__() -> list[str]:
    return sorted(checks.__all__)
