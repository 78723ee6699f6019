"""From boxes to better boxes: matching, losses, the optimiser, the loop, evaluation."""

from ddetr_edu.training.checkpoint import load, save
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.detector import Detector, load_picture
from ddetr_edu.training.evaluate import evaluate
from ddetr_edu.training.files import CheckpointError
from ddetr_edu.training.learner import NonFiniteLoss
from ddetr_edu.training.loop import train
from ddetr_edu.training.losses import detection_losses, layer_losses
from ddetr_edu.training.matching import LossWeights, label_cost, match, matching_cost

__all__ = [
    "CheckpointError",
    "Detector",
    "LossWeights",
    "NonFiniteLoss",
    "TrainConfig",
    "detection_losses",
    "evaluate",
    "label_cost",
    "layer_losses",
    "load",
    "load_picture",
    "match",
    "matching_cost",
    "save",
    "train",
]
