"""Markdown tables of benchmarks/results/gpu.json, for README.md and docs/results.md."""

from collections.abc import Iterable

DIRECTIONS = ("forward", "backward", "both")
NAMES = {
    "cuda": "**ours**",
    "grid_sample": "PyTorch's grid_sample",
    "compiled": "the same, compiled",
    "official": "the official kernel",
    "deformops-cuda": "deformops, CUDA",
    "deformops-triton": "deformops, Triton",
    "deformops-triton-fp32acc": "deformops, Triton, sums in fp32",
    "msda-triton": "msda-triton",
    "mmcv": "mmcv",
}
CEILINGS = {"copy_TB_s": "copying", "gather_TB_s": "gathering", "adds_G_s": "adding"}


def gpu_table(results: dict, shapes: Iterable[str], dtypes: Iterable[str]) -> str:
    """The times of every implementation, each beside how many times our kernel's it is.

    Args:
        results: What gpu.json holds.
        shapes: "encoder", "decoder".
        dtypes: "fp32", "bf16", "fp16".

    Returns:
        The table, with gaussian locations of 2 pixels.
    """
    lines = [
        "| shape | type | implementation | " + " | ".join(DIRECTIONS) + " | memory |",
        "|---|---|---|" + "---:|" * (len(DIRECTIONS) + 1),
    ]
    for shape in shapes:
        for dtype in dtypes:
            for name in NAMES:
                of = timed(results, shape, "gaussian", dtype, name)
                if of:
                    lines.append(gpu_row(shape, dtype, name, of))
    return "\n".join([*lines, "", about(results)])


def short_gpu_table(results: dict) -> str:
    """The times of a forward and a backward pass together, a row for each implementation.

    Args:
        results: What gpu.json holds.

    Returns:
        The table, with gaussian locations of 2 pixels; a case that was not timed is empty.
    """
    columns = [(shape, dtype) for shape in ("encoder", "decoder") for dtype in ("fp32", "bf16")]
    lines = [
        "| forward + backward | " + " | ".join(", ".join(column) for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, label in NAMES.items():
        cells = [""] * len(columns)
        for number, column in enumerate(columns):
            case = timed(results, column[0], "gaussian", column[1], name).get("both")
            if case is not None:
                slower = "" if name == "cuda" else f" ({case['times_ours']:.2g}x)"
                wrong = "" if case["accurate"] else ", inaccurate"
                cells[number] = f"{case['median_us']:.0f} us{slower}{wrong}"
        if any(cells):
            lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join([*lines, "", about(results)])


def gpu_row(shape: str, dtype: str, name: str, of: dict[str, dict]) -> str:
    """One line of `gpu_table`."""
    label = NAMES[name] + " (inaccurate)" * (not of["both"]["accurate"])
    times = [
        f"{of[direction]['median_us']:.0f} us"
        + ("" if name == "cuda" else f" ({of[direction]['times_ours']:.2g}x)")
        for direction in DIRECTIONS
    ]
    cells = [shape, dtype, label, *times, f"{of['both']['peak_MB']:.0f} MB"]
    return "| " + " | ".join(cells) + " |"


def ceilings_table(results: dict) -> str:
    """Our kernel's times, and how close they come to what the GPU's memory can do.

    Args:
        results: What gpu.json holds.

    Returns:
        The table, for every shape, kind of locations and type.
    """
    columns = [(direction, name) for direction in ("forward", "backward") for name in CEILINGS]
    columns.remove(("forward", "adds_G_s"))  # a forward pass adds nothing to memory
    header = [f"{direction}, {CEILINGS[name]}" for direction, name in columns]
    lines = [
        "| shape | locations | type | forward | backward | " + " | ".join(header) + " |",
        "|---|---|---|" + "---:|" * (2 + len(header)),
    ]
    for shape, locations, dtype in dict.fromkeys(
        (case["shape"], case["locations"], case["dtype"]) for case in results["cases"]
    ):
        of = timed(results, shape, locations, dtype, "cuda")
        cells = [shape, locations, dtype]
        cells += [f"{of[direction]['median_us']:.0f} us" for direction in ("forward", "backward")]
        cells += [f"{of[direction]['percent_of_ceiling'][name]} %" for direction, name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def timed(results: dict, shape: str, locations: str, dtype: str, name: str) -> dict[str, dict]:
    """Direction -> the entry of gpu.json; empty if the implementation was not timed."""
    key = (shape, locations, dtype, name)
    return {
        case["direction"]: case
        for case in results["cases"]
        if (case["shape"], case["locations"], case["dtype"], case["implementation"]) == key
    }


def about(results: dict) -> str:
    """What was measured, where, and how to do it again."""
    machine = results["machine"]
    return (
        f"Two images of 800 x 1200, gaussian locations of 2 px, medians; {machine['gpu']}, torch "
        f"{machine['torch'].split('+')[0]}, {machine['date']}. Run it yourself: "
        "`python benchmarks/gpu.py`."
    )
