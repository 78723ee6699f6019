"""An early warning, from the evaluations of a run, that nothing has been learned so far.

It needs no forward pass of its own, and it never stops a run.
"""

from dataclasses import replace
from itertools import pairwise

import torch
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.training.config import FilledOptimConfig, OptimConfig, TrainConfig
from ddetr_edu.training.prepare import pick_optim

MIN_STEPS = 200  # before them, no model has learned much
FEW_STEPS = 1000  # for a model from scratch
MAX_AP50 = 0.05  # above it, something has been learned
BEST = 10  # detections of an image that are compared with all of another
SAME_BOX = 0.01  # how far its edges may be apart, as a share of the image's width or height
SAME_SCORE = 0.01
CAUSES = 3  # to name


class LearningWatch:
    """Looks at each evaluation of a run, and warns once if nothing seems to be learned.

    That is, AP50 is almost 0, and all images get the same boxes, or the best score of every image
    is what it was at least MIN_STEPS before.

    Args:
        config: The settings of the run.
        optim: Its optimiser's settings.
    """

    def __init__(self, config: TrainConfig, optim: FilledOptimConfig):
        self.config, self.optim = config, optim
        self._has_warned = False
        self._step = 0  # of the evaluation to compare with
        self._scores: dict[int, float] = {}  # in it, {image id: the best score}

    def check(self, step: int, metrics: dict[str, float], coco: COCOeval) -> str | None:
        """Call this after each evaluation.

        Args:
            step: The number of steps so far.
            metrics: Of the evaluation.
            coco: From `ddetr_edu.evaluation.coco_metrics.score`.

        Returns:
            A sentence for the log, usually None.
        """
        boxes, scores = boxes_and_scores(coco)
        before, step_before = self._scores, self._step
        if step >= step_before + MIN_STEPS:  # the last evaluation may come right after another
            self._scores, self._step = scores, step
        else:
            before = {}
        if self._has_warned or step < MIN_STEPS or not 0 <= metrics["AP50"] < MAX_AP50:
            return None
        if are_same_boxes(boxes):
            symptom = f"all {len(boxes)} images get the same boxes, whatever they show"
        elif before and all(abs(s - before.get(i, 0.0)) < SAME_SCORE for i, s in scores.items()):
            symptom = f"the best score of every image is still what it was at step {step_before}"
        else:
            return None
        self._has_warned = True
        causes = likely_causes(self.config, self.optim, step)
        listed = "; ".join(f"({n}) {cause}" for n, cause in enumerate(causes, start=1))
        return f"warning  {symptom}: nothing seems to be learned; the likeliest causes are {listed}"


def boxes_and_scores(coco: COCOeval) -> tuple[list[Tensor], dict[int, float]]:
    """What was detected in each image that has a detection.

    Args:
        coco: From `score`.

    Returns:
        For each image the boxes (k, 4) xyxy as shares of its width and height, best first; and
        {image id: the best score}.
    """
    boxes, scores = [], {}
    for image_id, image in coco.cocoGt.imgs.items():
        detections = coco.cocoDt.imgToAnns.get(image_id, [])
        if detections:
            rows = sorted(detections, key=lambda row: -row["score"])
            size = torch.tensor([image["width"], image["height"]] * 2)
            xywh = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32)
            boxes.append(box_convert(xywh, "xywh", "xyxy") / size)
            scores[image_id] = rows[0]["score"]
    return boxes, scores


def are_same_boxes(images: list[Tensor]) -> bool:
    """Whether each image has the boxes of the image before it.

    Args:
        images: From `boxes_and_scores`.

    Returns:
        True if nearly each of the best boxes is among those of the image before; False for a single
        image.
    """
    distances = [
        torch.cdist(boxes[:BEST], before, p=float("inf")).amin(1)
        for before, boxes in pairwise(images)
    ]
    if not distances:
        return False
    return bool(torch.cat(distances).quantile(0.9) < SAME_BOX)


def likely_causes(config: TrainConfig, optim: FilledOptimConfig, step: int) -> list[str]:
    """Why a run may learn nothing, the likeliest cause first.

    Args:
        config: The settings of the run.
        optim: Its optimiser's settings.
        step: The number of steps so far.

    Returns:
        A few phrases.
    """
    usual = pick_optim(replace(config, recipe="auto", optim=OptimConfig())).lr
    lrs = f"--optim.lr is {optim.lr:g}, and usual for this model is {usual:g}"
    file = config.backbone_weights
    causes = {
        f"too high a learning rate ({lrs})": optim.lr > usual,
        f"too low a learning rate ({lrs})": optim.lr < usual,
        f"too few steps so far ({step})": step < FEW_STEPS and config.start_from is None,
        "a backbone that does not suit these images (--freeze)": step <= config.frozen_steps,
        f"another normalisation of images than that of {file} (--backbone-weights)": file,
        f"a learning rate that is too high here (--optim.lr is {optim.lr:g})": optim.lr == usual,
        "boxes in another format than [x, y, width, height] in pixels, such as the centre and the "
        "size": config.data != "shapes",
    }
    return [cause for cause, applies in causes.items() if applies][:CAUSES]
