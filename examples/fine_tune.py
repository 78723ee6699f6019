"""Fine-tune the model that comes with the course on other categories.

    uv run python examples/fine_tune.py [FOLDER] [STEPS]

FOLDER is a data set in COCO's layout; `ddetr data convert` makes one from Pascal VOC or YOLO files.
What the old and the new model share is kept: only the class outputs of new categories start anew.
"""

import sys
from pathlib import Path

from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.training.config import OptimConfig, TrainConfig
from ddetr_edu.training.loop import train

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "data/shapes-mini"
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 30

metrics = train(
    TrainConfig(
        data=FOLDER,
        start_from=shipped_checkpoint(),
        steps=STEPS,
        optim=OptimConfig(lr=5e-4),
        out=Path("runs/fine_tune"),
    )
)
print(f"AP {100 * metrics['AP']:.1f}")
