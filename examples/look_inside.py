"""See where a detector looks for the object that it is most certain of.

    uv run python examples/look_inside.py [IMAGE] [FIGURE]

Saves the sampling points of that query in each decoder layer as a figure.
"""

import sys
from pathlib import Path

import ddetr_edu as dd
from ddetr_edu.checkpoints.shipped import shipped_checkpoint

IMAGE = sys.argv[1] if len(sys.argv) > 1 else "data/shapes-mini/val/000002.png"
FIGURE = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/look_inside.png")

trace = dd.trace(dd.load(shipped_checkpoint()), IMAGE)
figure, drawn = trace.layers()
FIGURE.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(FIGURE, dpi=150)
print(f"saved {FIGURE}")
