"""How fast the implementations of the attention are, side by side, and how exact.

Times depend on where a model looks: neighbours that read the same pixels find them in the cache.
So there are three kinds of places: the star that training starts from, a cloud of two pixels
around the reference point as in a trained model, and places all over the image, which no model
asks for but most published figures are about.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from ddetr_edu.attention import backends, initial_offsets, ms_deform_attn, pixel_centres
from ddetr_edu.attention.build import processor
from ddetr_edu.attention.locations import sampling_locations

LEVELS = [(100, 150), (50, 75), (25, 38), (13, 19)]  # a picture of 800 x 1200, finest level first
HEADS, CHANNELS, POINTS = 8, 32, 4  # M, D, P
QUERIES = {"encoder": sum(height * width for height, width in LEVELS), "decoder": 300}
PLACES = ("initial", "near", "anywhere")
DIRECTIONS = ("forward", "backward", "both")


@dataclass(frozen=True)
class BenchConfig:
    """Time deformable attention: implementations x shapes x places x directions."""

    backends: tuple[str, ...] = ("grid_sample", "cpu")  # the first is what the others are held to
    shapes: tuple[str, ...] = ("encoder", "decoder")  # Lq = S = 19947 queries, or 300
    places: tuple[str, ...] = PLACES  # the initial offsets, 2 px around the reference, anywhere
    rounds: int = 5  # how often each is timed; the implementations take turns
    images: int = 2  # N
    threads: tuple[int, ...] = ()  # one pass for each number; nothing means torch's own choice
    out: Path = Path("benchmarks/results/attention")  # .json and .png are put behind it

    def __post_init__(self):
        for name, known in (("shapes", QUERIES), ("places", PLACES), ("backends", backends())):
            unknown = set(getattr(self, name)) - set(known)
            if unknown:
                raise ValueError(
                    f"--{name} {unknown.pop()} does not exist; there are {', '.join(known)}"
                )
        for name in self.backends:
            if not backends()[name].available:
                raise ValueError(f"the backend {name} does not run here: {backends()[name].note}")
        if self.rounds < 1 or any(n < 1 for n in self.threads):
            raise ValueError("--rounds and --threads must be at least 1")


def bench_attention(config: BenchConfig) -> dict:
    """Run the benchmark; print a table, write config.out .json and .png, return the JSON's content.

    Raises: OSError if the files cannot be written.
    """
    before = torch.get_num_threads()
    results = {"machine": machine(), "cases": []}
    print(HEADINGS)
    try:
        for threads in config.threads or (before,):
            torch.set_num_threads(threads)
            for shape in config.shapes:
                for places in config.places:
                    for case in time_case(config, shape, places):
                        case = {"shape": shape, "places": places, "threads": threads, **case}
                        results["cases"].append(case)
                        print(table_row(case))
    finally:
        torch.set_num_threads(before)
    results["machine"]["load_after"] = load()
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, config.out.with_suffix(".png"))
    return results


def time_case(config: BenchConfig, shape: str, places: str) -> list[dict]:
    """Times of all backends on one input, in milliseconds, and their errors."""
    inputs = make_inputs(config.images, QUERIES[shape], places)
    errors = {name: largest_errors(name, inputs) for name in config.backends}
    times = {name: {d: [] for d in DIRECTIONS} for name in config.backends}
    for turn in range(config.rounds + 1):
        for name in config.backends:
            measured = time_once(name, inputs)
            if turn > 0:  # the first round warms up
                for direction, milliseconds in measured.items():
                    times[name][direction].append(milliseconds)
    medians = {n: {d: statistics.median(t) for d, t in of.items()} for n, of in times.items()}
    return [
        {
            "backend": name,
            "direction": direction,
            "median_ms": round(medians[name][direction], 3),
            "min_ms": round(min(times[name][direction]), 3),
            "max_ms": round(max(times[name][direction]), 3),
            "ratio": round(medians[config.backends[0]][direction] / medians[name][direction], 2),
            "max_error": errors[name]["forward" if direction == "forward" else "backward"],
        }
        for name in config.backends
        for direction in DIRECTIONS
    ]


def make_inputs(n_images: int, n_queries: int, places: str) -> tuple:
    """value, spatial_shapes, locations and weights, float32, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    n_levels = len(LEVELS)
    n_tokens = sum(height * width for height, width in LEVELS)
    per_point = (n_images, n_queries, HEADS, n_levels, POINTS)
    value = torch.randn(n_images, n_tokens, HEADS, CHANNELS, generator=generator)
    weights = torch.randn(per_point, generator=generator).flatten(-2).softmax(-1).view(per_point)
    if places == "anywhere":
        return value, LEVELS, torch.rand(*per_point, 2, generator=generator), weights
    reference = pixel_centres(LEVELS, torch.ones(n_images, n_levels, 2))  # (N, S, L, 2)
    if n_queries != n_tokens:
        reference = torch.rand(n_images, n_queries, 1, 2, generator=generator)
        reference = reference.expand(-1, -1, n_levels, -1)
    if places == "initial":
        offsets = initial_offsets(HEADS, n_levels, POINTS).expand(*per_point, 2)
    else:
        offsets = 2 * torch.randn(*per_point, 2, generator=generator)
    return value, LEVELS, sampling_locations(reference, offsets, LEVELS), weights


def time_once(backend: str, inputs: tuple) -> dict[str, float]:
    """Milliseconds of one forward without gradients, one backward, and one forward + backward."""
    value, levels, locations, weights = inputs
    with torch.no_grad():
        forward, _ = timed(lambda: ms_deform_attn(value, levels, locations, weights, backend))
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    with_graph, output = timed(
        lambda: ms_deform_attn(leaves[0], levels, leaves[1], leaves[2], backend)
    )
    incoming = torch.ones_like(output)
    backward, _ = timed(lambda: torch.autograd.grad(output, leaves, incoming))
    return {"forward": forward, "backward": backward, "both": with_graph + backward}


def timed(function: Callable) -> tuple[float, object]:
    """How many milliseconds a call takes, and its result."""
    started = time.perf_counter()
    result = function()
    return (time.perf_counter() - started) * 1000, result


def largest_errors(backend: str, inputs: tuple) -> dict[str, float]:
    """Largest error against 64 bits, relative to the largest number, of output and gradients.

    On 100 queries spread over all; 64 bits take long. Gradients of places next to a pixel centre's
    row or column are left out: there the slope jumps, and rounding decides on which side one is.
    """
    value, levels, locations, weights = inputs
    step = max(1, locations.shape[1] // 100)
    locations, weights = locations[:, ::step], weights[:, ::step]
    sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
    pixels = locations.double() * sizes - 0.5
    clear = ((pixels - pixels.round()).abs() > 1e-3).all(-1, keepdim=True)
    results = []
    for name, dtype in ((backend, torch.float32), ("grid_sample", torch.float64)):
        leaves = [t.to(dtype).detach().requires_grad_() for t in (value, locations, weights)]
        output = ms_deform_attn(leaves[0], levels, leaves[1], leaves[2], name)
        grads = torch.autograd.grad(output, leaves, torch.ones_like(output))
        results.append([output.detach(), grads[0], grads[1] * clear, grads[2]])
    errors = [relative_error(ours, exact) for ours, exact in zip(*results, strict=True)]
    return {"forward": errors[0], "backward": max(errors[1:])}


def relative_error(ours: Tensor, exact: Tensor) -> float:
    largest = exact.abs().max().clamp_min(1e-30)
    return float(f"{((ours - exact).abs().max() / largest).item():.1e}")


def machine() -> dict:
    """What the figures depend on besides the code."""
    kernel = backends()["cpu"]
    model = next(
        (
            line.split(":")[1].strip()
            for line in processor().splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    return {
        "date": date.today().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "torch": torch.__version__.split("+")[0],
        "kernel": kernel.note,
        "load_before": load(),
    }


def load() -> float | None:
    """How busy the machine has been in the last minute, in cores; figures under load are worse."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


HEADINGS = (
    f"{'shape':8} {'places':9} {'threads':>7} {'backend':12} {'direction':9} "
    f"{'median ms':>10} {'min':>9} {'max':>9} {'ratio':>7} {'max error':>10}"
)


def table_row(case: dict) -> str:
    return (
        f"{case['shape']:8} {case['places']:9} {case['threads']:7} {case['backend']:12} "
        f"{case['direction']:9} {case['median_ms']:10.1f} {case['min_ms']:9.1f} "
        f"{case['max_ms']:9.1f} {case['ratio']:6.1f}x {case['max_error']:10.1e}"
    )


def plot(results: dict, path: Path) -> None:
    """Draw how many times faster each backend is than the first: a panel for each shape."""
    from matplotlib.figure import Figure  # takes a second to import, and only this needs it

    from ddetr_edu.viz.style import COLOURS

    cases = results["cases"]
    baseline = cases[0]["backend"]
    others = list(dict.fromkeys(c["backend"] for c in cases if c["backend"] != baseline))
    panels = list(dict.fromkeys((c["shape"], c["threads"]) for c in cases))
    figure = Figure(figsize=(4.5 * len(panels), 3.4), dpi=80, layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        here = [c for c in cases if (c["shape"], c["threads"]) == panel and c["backend"] in others]
        labels = list(dict.fromkeys((c["places"], c["backend"]) for c in here))
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
        names = [f"{places}\n{backend}" for places, backend in labels]
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
