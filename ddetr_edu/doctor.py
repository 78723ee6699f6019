"""`ddetr doctor`: what runs on this machine, what does not, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import platform

import torch

from ddetr_edu.attention import MSDeformAttn, backends, cuda, native
from ddetr_edu.attention.build import BuildError

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pycocotools", "matplotlib")
FOR_LESSONS = ("jupyterlab", "ipykernel", "ipywidgets")


def examine() -> str:
    """A report of a few lines: Python, libraries, lessons, processor, GPU, attention backends."""
    lines = [
        f"ddetr-edu    {version('ddetr-edu')}",
        f"python       {platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries    " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        f"lessons      {lessons()}",
        f"processor    {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
        f"gpu          {gpu()}",
        f"attention    {attention()}",
    ]
    lines += [f"  {name:12s} {backend}" for name, backend in backends().items()]
    problem = native.why_not()
    if problem is not None:
        lines.append(
            "to get the fast kernel, install a C++ compiler (Debian: apt install g++; macOS: "
            "xcode-select --install); until then everything runs on grid_sample, only slower"
        )
        lines += said(problem)
    problem = cuda.why_not()
    if problem is not None and torch.cuda.is_available():
        lines.append("until that is mended, attention on the GPU runs on grid_sample, only slower")
        lines += said(problem)
    return "\n".join(lines)


def said(problem: BuildError) -> list[str]:
    """The compiler's own words, where it spoke."""
    if not problem.output:
        return []
    return ["the compiler said:", *(f"  {line}" for line in problem.output.splitlines())]


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING"


def lessons() -> str:
    missing = [name for name in FOR_LESSONS if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed; run: uv sync"
    return "ready; run: uv run jupyter lab lessons/"


def gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use; everything runs on the CPU, only slower"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def attention() -> str:
    """Run the module once, forwards and backwards, on the smallest useful input."""
    try:
        module = MSDeformAttn(d_model=8, n_heads=2, n_levels=2, n_points=3)
        value = torch.rand(1, 3 * 5 + 2 * 3, 8, requires_grad=True)
        output = module(torch.rand(1, 4, 8), torch.rand(1, 4, 2, 2), value, [(3, 5), (2, 3)])
        output.sum().backward()
    except (ValueError, RuntimeError) as error:
        return f"FAILS: {error}"
    works = torch.isfinite(output).all() and torch.isfinite(value.grad).all()
    return "works, forwards and backwards" if works else "gives numbers that are not finite"
