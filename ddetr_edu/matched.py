"""Which query answers for which object of a picture, as training would see it: one call each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.detector import make_batch
from ddetr_edu.training.detector import Detector, Picture, load_picture
from ddetr_edu.training.matching import DETR_WEIGHTS, LossWeights, match, matching_cost
from ddetr_edu.viz import plot_matching, plot_matching_by_layer
from ddetr_edu.viz.style import NotebookFigure

Drawn = tuple[NotebookFigure, dict[str, np.ndarray]]


@dataclass
class Matched:
    """The matching after each decoder layer, first layer first. Each method returns (figure, data).

    Boxes are (x1, y1, x2, y2) in pixels of the picture.
    """

    picture: Tensor  # (3, H, W) in [0, 1]
    boxes: Tensor  # (layers, Lq, 4)
    target_boxes: Tensor  # (T, 4)
    cost: Tensor  # (layers, Lq, T)
    queries: Tensor  # (layers, T), the query of each object; -1 for none
    names: list[str]  # of the objects

    def lines(self, layer: int = -1) -> Drawn:
        """Lines from queries to their objects after one layer, and beside it every cost."""
        queries = self.queries[layer]
        objects = (queries >= 0).nonzero()[:, 0]
        return plot_matching(
            self.picture, self.boxes[layer], self.target_boxes, self.cost[layer],
            queries[objects], objects,
            title=f"the matching after decoder layer {layer % len(self.boxes)}",
        )  # fmt: skip

    def by_layer(self) -> Drawn:
        """Which query each object gets after each layer."""
        return plot_matching_by_layer(
            self.picture, self.boxes, self.target_boxes, self.cost, self.queries, self.names
        )


@torch.no_grad()
def look_at_matching(detector: Detector, picture: Picture, target: dict[str, Tensor]) -> Matched:
    """Match the queries of a detector, of either model, with the objects of a picture.

        figure, data = look_at_matching(detector, picture, target).by_layer()

    Costs are those of training; the picture has the size it has when detecting. The detector is
    put into evaluation mode.

    target: "boxes" (T, 4) xyxy in pixels and "labels" (T,), as the detector takes them to train
    Raises: ValueError for a picture or a target that cannot be used, or one without an object.
    """
    image = load_picture(picture)
    height, width = image.shape[1:]
    device = next(detector.model.parameters()).device
    inside = detector.inside(target, (height, width))
    inside = {name: values.to(device) for name, values in inside.items()}
    if not len(inside["labels"]):
        raise ValueError("the target has no object, so there is nothing to match")
    detector.eval()
    last = detector.model(*make_batch([image.to(device)], detector.size))
    weights = detector.loss_weights or (DETR_WEIGHTS if last.no_object else LossWeights())
    boxes, costs, queries = [], [], []
    scale = torch.tensor([width, height, width, height])
    for layer in (*last.aux, last):
        ((chosen, objects),) = match(layer.logits, layer.boxes, [inside], weights)
        of_object = torch.full((len(inside["labels"]),), -1)
        of_object[objects.cpu()] = chosen.cpu()
        queries.append(of_object)
        boxes.append(box_convert(layer.boxes[0].cpu(), "cxcywh", "xyxy") * scale)
        costs.append(
            matching_cost(
                layer.logits[0], layer.boxes[0], inside["labels"], inside["boxes"], weights
            ).cpu()
        )
    return Matched(
        image, torch.stack(boxes), torch.as_tensor(target["boxes"]), torch.stack(costs),
        torch.stack(queries), [detector.categories[int(label)] for label in target["labels"]],
    )  # fmt: skip
