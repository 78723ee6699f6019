"""`ddetr bench attention`: time the implementations of the attention, and plot the speed-ups."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

BACKENDS = ("naive", "grid_sample", "cpu", "cuda")
SHAPES = ("encoder", "decoder")
LOCATIONS = ("initial", "gaussian", "uniform")


@dataclass(frozen=True)
class BenchConfig:
    """The settings of `ddetr bench attention`."""

    backends: tuple[str, ...] = ("grid_sample", "cpu")  # the first is the baseline
    shapes: tuple[str, ...] = SHAPES  # encoder has Lq = S = 19947 queries, decoder 300
    locations: tuple[str, ...] = LOCATIONS  # initial offsets, or random: near or anywhere
    rounds: int = 5  # how often each is timed, in turns
    images: int = 2  # the batch size N
    threads: tuple[int, ...] = ()  # numbers of threads to try; torch's default if empty
    out: Path = Path("runs/bench/attention")  # the files to write, without .json and .png

    def __post_init__(self):
        for name, known in (("backends", BACKENDS), ("shapes", SHAPES), ("locations", LOCATIONS)):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(
                        f"--{name} {value} does not exist; there are {', '.join(known)}"
                    )
        if self.rounds < 1 or self.images < 1 or any(n < 1 for n in self.threads):
            raise ValueError("--rounds, --images and --threads must be at least 1")


def run(config: Annotated[BenchConfig, arg(name="")]) -> None:
    """Time the implementations of deformable attention side by side; write a PNG and a JSON.

    Try it:  ddetr bench attention --shapes decoder --locations gaussian
    """
    bench_attention(config)


def bench_attention(config: BenchConfig) -> dict:
    """Run the benchmark; print a table, and write config.out with .json and .png.

    Args:
        config: The settings.

    Returns:
        The content of the JSON.

    Raises:
        ValueError: For a backend that does not run here.
        OSError: If the files cannot be written.
    """
    import torch

    from ddetr_edu.attention import backends
    from ddetr_edu.attention.benchmark import load_average, machine, time_case

    for name in config.backends:
        if not backends()[name].available:
            raise ValueError(f"the backend {name} does not run here: {backends()[name].note}")
    before = torch.get_num_threads()
    about, cases = machine(), []
    print(HEADINGS)
    try:
        for threads in config.threads or (before,):
            torch.set_num_threads(threads)
            for shape in config.shapes:
                for locations in config.locations:
                    for case in time_case(
                        config.backends, shape, locations, config.images, config.rounds
                    ):
                        case = {"shape": shape, "locations": locations, "threads": threads, **case}
                        cases.append(case)
                        print(table_row(case), flush=True)
    finally:
        torch.set_num_threads(before)
    about["load_after"] = load_average()
    results = {"machine": about, "cases": cases}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, config.out.with_suffix(".png"))
    return results


HEADINGS = (
    f"{'shape':8} {'locations':9} {'threads':>7} {'backend':12} {'direction':9} "
    f"{'median ms':>10} {'min':>9} {'max':>9} {'ratio':>7} {'max error':>10}"
)


def table_row(case: dict) -> str:
    """A line of the table below HEADINGS."""
    return (
        f"{case['shape']:8} {case['locations']:9} {case['threads']:7} {case['backend']:12} "
        f"{case['direction']:9} {case['median_ms']:10.1f} {case['min_ms']:9.1f} "
        f"{case['max_ms']:9.1f} {case['ratio']:6.1f}x {case['max_error']:10.1e}"
    )


def plot(results: dict, path: Path) -> None:
    """Plot how many times faster each backend is than the first, in a panel for each shape.

    Args:
        results: From `bench_attention`.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    from ddetr_edu.attention.benchmark import DIRECTIONS
    from ddetr_edu.viz.style import COLOURS

    cases = results["cases"]
    baseline = cases[0]["backend"]
    others = list(dict.fromkeys(c["backend"] for c in cases if c["backend"] != baseline))
    panels = list(dict.fromkeys((c["shape"], c["threads"]) for c in cases))
    figure = Figure(figsize=(4.5 * len(panels), 3.4), dpi=80, layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        here = [c for c in cases if (c["shape"], c["threads"]) == panel and c["backend"] in others]
        labels = list(dict.fromkeys((c["locations"], c["backend"]) for c in here))
        for i, (colour, direction) in enumerate(zip(COLOURS, DIRECTIONS, strict=False)):
            ratios = [c["ratio"] for c in here if c["direction"] == direction]
            bars = axis.bar(
                [x + (i - 1) * 0.27 for x in range(len(labels))],
                ratios,
                0.25,
                color=colour,
                label=direction,
            )
            axis.bar_label(bars, fmt="%.0f", fontsize=8)
        names = [f"{locations}\n{backend}" for locations, backend in labels]
        axis.set_xticks(range(len(labels)), names, fontsize=8)
        axis.set(
            title=f"{panel[0]}, {panel[1]} thread{'s' * (panel[1] > 1)}",
            ylabel=f"times faster than {baseline}",
        )
        axis.margins(y=0.25)  # room for the legend above the bars
        axis.legend(fontsize=8, ncols=3, loc="upper center", frameon=False)
    about = results["machine"]
    figure.suptitle(f"{about['processor']}, torch {about['torch']}, {about['date']}", fontsize=9)
    figure.savefig(path)
