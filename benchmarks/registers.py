"""Registers and spills of the compiled CUDA kernels: python benchmarks/registers.py

Needs no GPU. The number of registers per thread limits how many threads a multiprocessor holds at
once, and so does the shared memory of a block; values that do not fit into registers are spilled to
memory. Prints a table; writes benchmarks/results/registers.json.
"""

import argparse
import io
import json
import re
from datetime import date
from pathlib import Path

import torch

from ddetr_edu.attention.kernels import cuda_build, cuda_plan

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
CASES = [  # (direction, type, D, queries are tokens)
    (direction, dtype, channels, queries_are_tokens)
    for direction in ("forward", "backward")
    for queries_are_tokens in (True, False)
    for dtype, all_channels in (
        (torch.float32, (16, 32, 64, 7)),
        (torch.float16, (32, 64)),
        (torch.bfloat16, (32, 64)),
        (torch.float64, (32,)),
    )
    for channels in all_channels
]
OUT = Path(__file__).parent / "results" / "registers.json"


def kernel_for(
    direction: str, dtype: torch.dtype, channels: int, queries_are_tokens: bool = True
) -> cuda_plan.Kernel:
    """The kernel that an encoder, or else a decoder, with 8 heads of D = channels uses."""
    return cuda_plan.choose_kernel(direction, dtype, 8, channels, queries_are_tokens)


def compile_and_count(kernel: cuda_plan.Kernel, arch: str) -> tuple[bytes, dict[str, int]]:
    """Compile a kernel, and read the report of ptxas, NVIDIA's assembler.

    Args:
        kernel: The kernel.
        arch: The GPU to compile for, such as "sm_90".

    Returns:
        The machine code, and {"registers" per thread, "spilled" and "stack" in bytes, "shared"
        memory of a block in bytes}.
    """
    report = io.StringIO()
    code = cuda_build.compile_cubin(kernel, arch, report)
    counts = {}
    for name, pattern in (
        ("registers", r"Used (\d+) registers"),
        ("spilled", r"(\d+) bytes spill stores"),
        ("stack", r"(\d+) bytes stack"),
        ("shared", r"(\d+) bytes smem"),  # left out if there is none
    ):
        found = re.search(pattern, report.getvalue())
        counts[name] = int(found[1]) if found else 0
    return code, counts


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    kernels = list(dict.fromkeys(kernel_for(*case) for case in CASES))
    rows = []
    print(
        f"{'kernel':32} {'GPU':7} {'registers':>9} {'spilled':>8} {'stack':>6} {'shared':>7} bytes"
    )
    for kernel in kernels:
        for arch in ARCHITECTURES:
            code, counts = compile_and_count(kernel, arch)
            block = {"threads": kernel.threads, "blocks": kernel.blocks}
            rows.append({"kernel": kernel.name, "arch": arch, **block, **counts, "code": len(code)})
            print(
                f"{kernel.name:32} {arch:7} {counts['registers']:9} {counts['spilled']:8} "
                f"{counts['stack']:6} {counts['shared']:7}"
            )
    about = {
        "date": date.today().isoformat(),
        "nvrtc": ".".join(map(str, cuda_build.nvrtc_version())),
    }
    OUT.write_text(json.dumps({**about, "kernels": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
