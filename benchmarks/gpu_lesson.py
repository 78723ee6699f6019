"""Copy what lesson 15 computes with from results/gpu.json to lessons/logs/15_gpu.json.

An installed package has the lessons, but not the benchmarks. python benchmarks/gpu_lesson.py
"""

import json
from pathlib import Path

from ddetr_edu.attention import benchmark as bench
from ddetr_edu.course.gpu_figures import FILE, extract
from ddetr_edu.files import atomic_write

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/gpu.json"
SIZES = {
    "N": 2,  # as gpu.py's option --images
    "M": bench.HEADS,
    "D": bench.CHANNELS,
    "points": len(bench.LEVELS) * bench.POINTS,
    **bench.QUERIES,
}


def main() -> None:
    """Write the lesson's file."""
    content = extract(json.loads(RESULTS.read_text(encoding="utf-8")), SIZES)
    atomic_write(ROOT / FILE, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
