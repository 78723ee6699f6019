"""Record what the CUDA kernel's lanes do to memory, for readers of lesson 15 without a compiler.

python benchmarks/warp_trace.py
"""

import json
from pathlib import Path

from ddetr_edu.course.traced_example import RECORDING, traced_now
from ddetr_edu.files import atomic_write

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write lessons/logs/15_warp.json."""
    recorded = traced_now()._asdict()
    del recorded["source"]
    recorded["additions"] = recorded["additions"].tolist()
    atomic_write(ROOT / RECORDING, (json.dumps(recorded) + "\n").encode())


if __name__ == "__main__":
    main()
