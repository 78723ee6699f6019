"""What was wrong with a data set, and what was done about it, counted and told in a sentence."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# refused: nobody can know what was meant. Everything else is used without the fault, and counted.
Action = Literal["refused", "left out", "clipped", "recalculated", "kept"]
MAX_NAMES = 3  # faulty files that a sentence names


class DataError(ValueError):
    """A data set that cannot be used as it is: says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set."""

    action: Action  # what is done about it
    kind: str  # what it is, in the plural, such as "boxes of no width or height"
    message: str  # where it is, and what to do
    name: str = ""  # of the file, if it is one


OnFault = Callable[[Fault], None]


class FaultCounter:
    """Counts the faults of a split by kind; those that cannot be used are raised.

    Args:
        strict: Raise every fault.

    Attributes:
        example: The message of the first fault that was counted.
    """

    def __init__(self, strict: bool = False):
        self.strict, self.example = strict, ""
        self._counts: dict[tuple[Action, str], int] = defaultdict(int)
        self._names: dict[str, list[str]] = defaultdict(list)

    def __call__(self, fault: Fault) -> None:
        """Count one fault.

        Args:
            fault: The fault.

        Raises:
            DataError: If it is refused, or strict.
        """
        if self.strict or fault.action == "refused":
            raise DataError(fault.message)
        self.example = self.example or fault.message
        self._counts[fault.action, fault.kind] += 1
        if fault.name:
            self._names[fault.kind].append(fault.name)

    def sentence(self) -> str:
        """What was done, such as "left out 1 box of no width or height"; empty without a fault."""
        parts = defaultdict(list)
        for (action, kind), count in self._counts.items():
            parts[action].append(counted(count, kind) + self._list_names(kind))
        text = "; ".join(f"{action} {', '.join(kinds)}" for action, kinds in parts.items())
        return printable(text)

    def _list_names(self, kind: str) -> str:
        names = self._names[kind]
        rest = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
        return f" ({', '.join([*names[:MAX_NAMES], *rest])})" if names else ""


def counted(count: int, kind: str) -> str:
    """A number and a noun phrase, such as "1 box outside the image".

    Args:
        count: The number.
        kind: In the plural, beginning with "boxes", "images" or another such noun.

    Returns:
        Both, in the singular if there is one.
    """
    noun, _, rest = kind.partition(" ")
    if count == 1:
        noun = "box" if noun == "boxes" else noun.removesuffix("s")
    return f"{count} {noun} {rest}"


def printable(text: str) -> str:
    """A text without what no terminal or file can encode.

    JSON and the names of files may hold single surrogates, which are no characters.

    Args:
        text: Any text.

    Returns:
        The text, with an escape sequence for each surrogate.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
