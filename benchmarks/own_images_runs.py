"""The runs of own_images.py: what determines one, and a table of what they found."""

import re
import statistics
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

EVERYTHING = "all categories"


@dataclass(frozen=True)
class Run:
    """What determines a run: two with the same fields are one and the same."""

    data: str  # the name of the data set, not its path
    categories: str  # EVERYTHING, or their names
    preset: str
    weights: str | None  # the name of the file that the backbone starts from
    minutes: float
    flags: str  # further ones of `ddetr train`
    seed: int

    def __str__(self) -> str:
        what = f"{self.data}, {self.categories}: {self.kind()}"
        return f"{what}, {self.minutes:g} minutes, seed {self.seed}"

    def group(self) -> tuple:
        """All but the seed."""
        return tuple(asdict(self).values())[:-1]

    def kind(self) -> str:
        """The preset and what its parameters start from."""
        return f"{self.preset}, " + (
            f"backbone from {self.weights}" if self.weights else "from scratch"
        )

    def subject(self) -> str:
        """Data set and categories, as part of a file name."""
        return re.sub(r"\W+", "-", f"{self.data}-{self.categories}".lower())

    def folder(self, out: Path) -> Path:
        """Where the run writes to."""
        start = "pretrained" if self.weights else "scratch"
        code = zlib.crc32(repr(self.group()).encode())  # runs of other flags stay as they are
        return out / self.subject() / f"{self.preset}-{start}-{self.seed}-{code:08x}"


def run_of(row: dict) -> Run:
    """The run that a row of the results is of."""
    return Run(**{name: row[name] for name in Run.__dataclass_fields__})


def grouped(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows by all that determines a run but its seed."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(run_of(row).group(), []).append(row)
    return groups


def median_row(rows: list[dict]) -> dict:
    """Of several seeds, the run with the median AP; of an even number, the lower one."""
    return sorted(rows, key=lambda row: row["val"]["AP"])[(len(rows) - 1) // 2]


def table(rows: list[dict]) -> str:
    """A row for each run, and for each kind of run the medians over its seeds."""
    names = ("AP", "AP50", "AP75")
    header = f"{'':10}{'steps':>7}" + "".join(f"{name:>7}" for name in names)
    lines = []
    for runs in grouped(rows).values():
        first = run_of(runs[0])
        lines += [f"\n{str(first).rpartition(',')[0]}, {first.flags}", f"{header}   AP of train"]
        cells = [
            [row["steps"], *(100 * row["val"][name] for name in names), 100 * row["train"]["AP"]]
            for row in runs
        ]
        labels = [f"seed {row['seed']}" for row in runs]
        if len(runs) > 1:
            labels.append("median")
            cells.append([statistics.median(column) for column in zip(*cells, strict=True)])
        for label, (steps, *values) in zip(labels, cells, strict=True):
            numbers = "".join(f"{value:7.1f}" for value in values[:-1])
            lines.append(f"{label:10}{steps:7.0f}{numbers}{values[-1]:14.1f}")
    return "\n".join(lines).strip()
