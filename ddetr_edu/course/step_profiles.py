"""The profiles of five detectors on one accelerator, for lesson 16: where does the time go?

They are made up, and meant to be like real ones: no two have the same limit.
"""

from dataclasses import dataclass

PEAK = {"fp32": 10_000, "bf16": 20_000}  # GFLOP/s of convolutions and linear layers
BANDWIDTH = 500  # GB/s
CALL = 1e-5  # seconds that it takes to launch a call, however little it computes


@dataclass(frozen=True)
class Kind:
    """All calls of one kind of operation in one step."""

    calls: int
    gflop: float  # billions of FLOPs
    gigabytes: float  # that are read and written
    milliseconds: float  # as measured


@dataclass(frozen=True)
class Profile:
    """What was measured of one forward pass."""

    images: int  # that are computed together
    step: float  # milliseconds from the beginning of one pass to that of the next
    kinds: dict[str, Kind]

    def __str__(self) -> str:
        title = f"{self.images} image{'s' * (self.images > 1)} in {self.step:g} ms"
        lines = [title, f"{'':25} calls    GFLOP       GB       ms"]
        for name, kind in self.kinds.items():
            lines.append(
                f"    {name:20} {kind.calls:6,} {kind.gflop:8,.1f} {kind.gigabytes:8.2f}"
                f" {kind.milliseconds:8.2f}"
            )
        return "\n".join(lines)


PROFILES = {
    "A": Profile(
        images=2,
        step=196.0,
        kinds={
            "convolutions": Kind(58, 314.0, 2.9, 37.5),
            "linear layers": Kind(79, 410.0, 3.1, 46.2),
            "sampling": Kind(12, 7.9, 1.1, 2.9),
            "norms and additions": Kind(240, 1.2, 5.4, 12.3),
        },
    ),
    "B": Profile(
        images=1,
        step=6.4,
        kinds={
            "convolutions": Kind(24, 0.9, 0.03, 0.28),
            "linear layers": Kind(75, 1.4, 0.05, 0.86),
            "sampling": Kind(5, 0.1, 0.01, 0.06),
            "norms and additions": Kind(430, 0.1, 0.12, 5.1),
        },
    ),
    "C": Profile(
        images=1,
        step=158.0,
        kinds={
            "convolutions": Kind(58, 157.0, 1.5, 18.9),
            "linear layers": Kind(79, 205.0, 1.6, 23.4),
            "sampling": Kind(372, 3.9, 46.0, 103.0),
            "norms and additions": Kind(240, 0.6, 2.7, 6.4),
        },
    ),
    "D": Profile(
        images=4,
        step=209.0,
        kinds={
            "convolutions": Kind(58, 627.0, 5.6, 71.4),
            "linear layers": Kind(79, 820.0, 6.0, 94.8),
            "sampling": Kind(12, 15.7, 2.2, 5.1),
            "norms and additions": Kind(240, 2.4, 15.6, 35.9),
        },
    ),
    "E": Profile(
        images=8,
        step=158.0,
        kinds={
            "convolutions": Kind(104, 1980.0, 6.5, 108.0),
            "linear layers": Kind(31, 330.0, 1.4, 18.6),
            "sampling": Kind(4, 10.5, 1.5, 3.6),
            "norms and additions": Kind(120, 1.6, 11.2, 25.8),
        },
    ),
}
