"""`ddetr train`."""

from typing import Annotated

from tyro.conf import arg

from ddetr_edu.training.config import TrainConfig


def run(config: Annotated[TrainConfig, arg(name="")]) -> None:
    """Train a detector; write checkpoints, metrics.jsonl and curves.png to a folder.

    Try it:  ddetr train --data data/shapes-mini --minutes 3

    Ctrl-C saves a checkpoint, and the same command with --resume continues.

    Several GPUs:  torchrun --nproc-per-node 2 -m ddetr_edu train --steps 9000
    """
    from ddetr_edu.training.loop import train

    train(config)
