"""`ddetr doctor`: what runs on this machine, what does not, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ddetr_edu.files import find_shipped
from ddetr_edu.processor import NOTABLE, ProcessorTimes, measure_use, read_times

if TYPE_CHECKING:
    from ddetr_edu.attention.kernels.build import BuildError

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pycocotools", "matplotlib")
FOR_LESSONS = ("jupyterlab", "ipykernel", "ipywidgets")


def run() -> None:
    """Report what runs on this machine, what does not, and what to do about it."""
    for line in examine():
        print(line, flush=True)


def examine() -> Iterator[str]:
    """Examine Python, libraries, lessons, processor, GPU and attention backends.

    Yields:
        The lines of a report, those before the import of torch at once.
    """
    start = read_times()
    yield f"ddetr-edu    {version('ddetr-edu')}"
    yield f"python       {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "libraries    " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    yield f"lessons      {lessons()}"

    import torch

    from ddetr_edu.attention import backends
    from ddetr_edu.attention.kernels import cpu, cuda
    from ddetr_edu.models.autocast import is_fast

    threads = torch.get_num_threads()
    yield (
        f"processor    {os.cpu_count()} cores, torch uses {threads} thread{'s' * (threads > 1)}, "
        f"{'with' if is_fast('bf16', torch.device('cpu')) else 'no'} fast bf16"
    )
    busy = neighbours(start)
    if busy is not None:
        yield f"             {busy}"
    yield f"gpu          {gpu()}"
    yield f"attention    {attention()}"
    for name, backend in backends().items():
        yield f"  {name:12s} {backend}"
    problem = cpu.unavailable_reason()
    if problem is not None:
        yield (
            "to get the fast kernel, install a C++ compiler (Debian: apt install g++; macOS: "
            "xcode-select --install); until then everything runs on grid_sample, only slower"
        )
        yield from compiler_output(problem)
    problem = cuda.unavailable_reason()
    if problem is not None and torch.cuda.is_available():
        yield "until that is fixed, attention on the GPU runs on grid_sample, only slower"
        yield from compiler_output(problem)


def neighbours(start: ProcessorTimes | None) -> str | None:
    """Whether other programs use much of the processor now.

    Args:
        start: The times at the beginning of the report, if the system tells any.

    Returns:
        A sentence, or None if they do not or the system does not tell.
    """
    slower = "training, lessons and tests are slower until those end"
    if start is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        if load - 1 < NOTABLE * (os.cpu_count() or 1):  # 1 is this program
            return None
        return f"in use by other programs, too (load average {load:.1f}): {slower}"
    use = measure_use(start)
    if use is None or not use.is_contended:
        return None
    return f"other programs use {use.others:.1f} of the {use.cores} cores now: {slower}"


def compiler_output(problem: "BuildError") -> list[str]:
    """What the compiler printed, if it printed anything."""
    if not problem.output:
        return []
    return ["the output of the compiler:", *(f"  {line}" for line in problem.output.splitlines())]


def version(name: str) -> str:
    """The version of an installed package, or "MISSING"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING"


def lessons() -> str:
    """Whether the lessons can be run, and how: in a checkout, or where a wheel was installed."""
    missing = [name for name in FOR_LESSONS if importlib.util.find_spec(name) is None]
    folder = find_shipped("lessons")
    is_checkout = folder is not None and (folder.parent / "pyproject.toml").exists()
    if missing:
        install = "uv sync" if is_checkout else f"pip install {' '.join(missing)}"
        return f"{', '.join(missing)} not installed; run: {install}"
    if is_checkout:
        return "ready; run: uv run jupyter lab lessons/"
    return "ready; run: ddetr course copy my-course, and then: jupyter lab my-course"


def gpu() -> str:
    """The names of the GPUs that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use; everything runs on the CPU, only slower"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def attention() -> str:
    """Whether the attention module runs, forwards and backwards, on a very small input."""
    import torch

    from ddetr_edu.attention import MSDeformAttn

    try:
        module = MSDeformAttn(d_model=8, n_heads=2, n_levels=2, n_points=3)
        value = torch.rand(1, 3 * 5 + 2 * 3, 8, requires_grad=True)
        output = module(torch.rand(1, 4, 8), torch.rand(1, 4, 2, 2), value, [(3, 5), (2, 3)])
        (grad,) = torch.autograd.grad(output.sum(), value)
    except (ValueError, RuntimeError) as error:
        return f"FAILS: {error}"
    works = torch.isfinite(output).all() and torch.isfinite(grad).all()
    return "works, forwards and backwards" if works else "gives numbers that are not finite"
