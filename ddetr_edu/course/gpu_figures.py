"""What benchmarks/gpu.py has measured on a GPU, as far as lesson 15 computes with it."""

import json
from typing import NamedTuple

from ddetr_edu.files import shipped_path

FILE = "lessons/logs/15_gpu.json"
LOCATIONS = "gaussian"  # 2 pixels around the reference points, as in the README's table


class GpuFigures(NamedTuple):
    """Times of attentions, and what the memory of that GPU can do."""

    machine: dict  # "gpu", "date", "multiprocessors", ...
    ceilings: dict[str, float]  # name, which ends in its unit -> what was measured
    sizes: dict[str, int]  # of the inputs: "N", "M", "D", "points" (L*P), "encoder", "decoder" (Lq)
    microseconds: dict[str, float]  # "encoder fp32 cuda forward" -> the median

    def time(self, shape: str, direction: str, name: str = "cuda", dtype: str = "fp32") -> float:
        """The median of an attention's times, in microseconds.

        Args:
            shape: "encoder" or "decoder".
            direction: "forward", "backward" or "both".
            name: Of the implementation: "cuda" (ours), "official", "grid_sample", ...
            dtype: "fp32", "bf16" or "fp16".

        Raises:
            KeyError: If it was not measured.
        """
        return self.microseconds[f"{shape} {dtype} {name} {direction}"]


def extract(results: dict, sizes: dict[str, int]) -> dict:
    """What the lesson needs of benchmarks/results/gpu.json.

    Args:
        results: All that was measured.
        sizes: Of the inputs.

    Returns:
        The content of the lesson's file.
    """
    return {
        "machine": results["machine"],
        "ceilings": results["ceilings"],
        "sizes": sizes,
        "microseconds": {
            " ".join(case[key] for key in ("shape", "dtype", "implementation", "direction")): case[
                "median_us"
            ]
            for case in results["cases"]
            if case["locations"] == LOCATIONS and case["accurate"]
        },
    }


def read_gpu_figures() -> GpuFigures:
    """The figures that come with the lessons.

    Returns:
        Those of one GPU.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    path = shipped_path(FILE)
    return GpuFigures(**json.loads(path.read_text(encoding="utf-8")))
