"""What the compiler makes of the CUDA kernels, with no GPU: python benchmarks/registers.py

Registers decide how many threads a multiprocessor holds at once; what does not fit into them spills
into memory. Prints a table and writes results/registers.json.
"""

import io
import json
import re
from datetime import date
from pathlib import Path

import torch

from ddetr_edu.attention import cuda

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
CASES = [  # (direction, type, D)
    (direction, dtype, channels)
    for direction in ("forward", "backward")
    for dtype, all_channels in (
        (torch.float32, (16, 32, 64, 7)),
        (torch.float16, (32, 64)),
        (torch.bfloat16, (32, 64)),
        (torch.float64, (32,)),
    )
    for channels in all_channels
]
OUT = Path(__file__).parent / "results" / "registers.json"


def kernel_for(direction: str, dtype: torch.dtype, channels: int) -> cuda.Kernel:
    """The kernel that runs an encoder with D = channels."""
    return cuda.plan(direction, dtype, (2, 19947, 8, channels), 19947, (1, 19947), 4).kernel


def compile_and_count(kernel: cuda.Kernel, arch: str) -> tuple[bytes, dict[str, int]]:
    """The machine code, and ptxas' report on it: registers a thread, bytes of spills and stack."""
    report = io.StringIO()
    code = cuda.compile_cubin(kernel, arch, report)
    counts = {
        name: int(re.search(pattern, report.getvalue())[1])
        for name, pattern in (
            ("registers", r"Used (\d+) registers"),
            ("spilled", r"(\d+) bytes spill stores"),
            ("stack", r"(\d+) bytes stack"),
        )
    }
    return code, counts


def main() -> None:
    kernels = list(dict.fromkeys(kernel_for(*case) for case in CASES))
    rows = []
    print(f"{'kernel':24} {'GPU':7} {'registers':>9} {'spilled':>8} {'stack':>6} {'code':>7} bytes")
    for kernel in kernels:
        for arch in ARCHITECTURES:
            code, counts = compile_and_count(kernel, arch)
            rows.append({"kernel": kernel.name, "arch": arch, **counts, "code": len(code)})
            print(f"{kernel.name:24} {arch:7} {counts['registers']:9} {counts['spilled']:8} "
                  f"{counts['stack']:6} {len(code):7}")  # fmt: skip
    about = {"date": date.today().isoformat(), "nvrtc": ".".join(map(str, cuda.nvrtc_version()))}
    OUT.write_text(json.dumps({**about, "kernels": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
