"""Which query is matched with which object of an image, as training would match them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.detector import Detector
from ddetr_edu.losses.matcher import DETR_WEIGHTS, LossWeights, match, matching_cost
from ddetr_edu.models.preprocessing import ImageInput, load_image
from ddetr_edu.viz import plot_matching, plot_matching_by_layer
from ddetr_edu.viz.style import NotebookFigure

Drawn = tuple[NotebookFigure, dict[str, np.ndarray]]


@dataclass
class MatchingTrace:
    """The matching after each decoder layer, first layer first. Each method returns (figure, data).

    Boxes are (x1, y1, x2, y2) in pixels of the image.
    """

    image: Tensor  # (3, H, W) in [0, 1]
    boxes: Tensor  # (layers, Lq, 4)
    target_boxes: Tensor  # (T, 4)
    cost: Tensor  # (layers, Lq, T)
    queries: Tensor  # (layers, T), the query of each object; -1 for none
    names: list[str]  # (T,) categories of the objects

    def lines(self, layer: int = -1) -> Drawn:
        """Draw lines from queries to their objects after one layer, and the cost of every pair.

        Args:
            layer: The decoder layer, from 0; -1 is the last.

        Returns:
            As `viz.plot_matching`.

        Raises:
            ValueError: If the layer does not exist.
        """
        n_layers = len(self.boxes)
        if not -n_layers <= layer < n_layers:
            raise ValueError(f"layer {layer} does not exist; the decoder has 0 to {n_layers - 1}")
        queries = self.queries[layer]
        objects = (queries >= 0).nonzero()[:, 0]
        return plot_matching(
            self.image,
            self.boxes[layer],
            self.target_boxes,
            self.cost[layer],
            queries[objects],
            objects,
            title=f"matching after decoder layer {layer % n_layers}",
        )

    def by_layer(self) -> Drawn:
        """Draw which query is matched with each object after each layer.

        Returns:
            As `viz.plot_matching_by_layer`.
        """
        return plot_matching_by_layer(
            self.image, self.boxes, self.target_boxes, self.cost, self.queries, self.names
        )


@torch.no_grad()
def trace_matching(
    detector: Detector, image: ImageInput, target: dict[str, Tensor]
) -> MatchingTrace:
    """Match the queries of a detector, of either model, with the objects of an image.

        figure, data = trace_matching(detector, image, target).by_layer()

    Costs are those of training; the image is resized as for detection. The detector is put into
    evaluation mode.

    Args:
        detector: The detector, with a Deformable DETR or a DETR.
        image: Anything that `load_image` takes.
        target: "boxes" (T, 4) xyxy in pixels and "labels" (T,), as in training.

    Returns:
        The matching after each decoder layer.

    Raises:
        ValueError: For an image or a target that cannot be used, or a target without an object.
        TypeError: As `load_image`.
    """
    pixels = load_image(image)
    height, width = pixels.shape[1:]
    device = next(detector.model.parameters()).device
    prepared = detector.prepare_target(target, (height, width))
    prepared = {name: values.to(device) for name, values in prepared.items()}
    if not len(prepared["labels"]):
        raise ValueError("the target has no object, so there is nothing to match")
    detector.eval()
    last = detector.run_model([pixels.to(device)])
    loss_weights = detector.loss_weights or (DETR_WEIGHTS if last.no_object else LossWeights())
    boxes, costs, queries = [], [], []
    scale = torch.tensor([width, height, width, height])
    for layer in (*last.aux, last):
        ((matched, objects),) = match(layer.logits, layer.boxes, [prepared], loss_weights)
        of_object = torch.full((len(prepared["labels"]),), -1)
        of_object[objects.cpu()] = matched.cpu()
        queries.append(of_object)
        boxes.append(box_convert(layer.boxes[0].cpu(), "cxcywh", "xyxy") * scale)
        cost = matching_cost(
            layer.logits[0], layer.boxes[0], prepared["labels"], prepared["boxes"], loss_weights
        )
        costs.append(cost.cpu())
    return MatchingTrace(
        pixels,
        torch.stack(boxes),
        torch.as_tensor(target["boxes"]),
        torch.stack(costs),
        torch.stack(queries),
        [detector.categories[int(label)] for label in target["labels"]],
    )
