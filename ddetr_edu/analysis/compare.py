"""The attention of DETR next to that of Deformable DETR, for the same object of the same image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ddetr_edu.analysis.trace import trace
from ddetr_edu.detector import Detections, Detector
from ddetr_edu.models.backbone import normalization
from ddetr_edu.models.detr import DETR, attention_maps
from ddetr_edu.models.preprocessing import ImageInput, load_image, make_batch
from ddetr_edu.viz import plot_attention_comparison
from ddetr_edu.viz.style import NotebookFigure


@torch.no_grad()
def compare_attention(
    detr: Detector,
    deformable: Detector,
    image: ImageInput,
    box: Sequence[float] | Tensor | None = None,
) -> tuple[NotebookFigure, dict]:
    """Draw what the two models attend to in each layer, by the queries that detect one object.

        figure, data = compare_attention(detr, deformable, "street.jpg")

    The query of each model is that of its best-scoring detection that overlaps the box with an IoU
    of 0.5 or more; if there is none, that of the detection that overlaps it most. The detectors
    are put into evaluation mode.

    Args:
        detr: A detector with a DETR.
        deformable: A detector with a Deformable DETR.
        image: Anything that `load_image` takes.
        box: (x1, y1, x2, y2) of the object, in pixels of the image; the best detection of
            Deformable DETR if None.

    Returns:
        As `plot_attention_comparison`, with more data for each model: the "query", and the "box"
        (4,), "score" and "label" of its detection and its "iou" with the object's box.

    Raises:
        ValueError: If the first detector holds no DETR or the second one does, and as
            `Detector.predict`.
        TypeError: As `Detector.predict`.
    """
    if not isinstance(detr.model, DETR) or isinstance(deformable.model, DETR):
        raise ValueError(
            f"the detectors hold a {type(detr.model).__name__} and a "
            f"{type(deformable.model).__name__}; give a DETR first and a Deformable DETR second"
        )
    pixels = load_image(image)
    traced = trace(deformable, pixels, layers="decoder*")
    records, detections = traced.records, traced.detections
    box = detections["boxes"][0] if box is None else torch.as_tensor(box, dtype=torch.float32)
    sparse = detection_for(box, detections)
    dense = detection_for(box, detr.predict(pixels, threshold=0.0))
    device = next(detr.model.parameters()).device
    mean, std = normalization(detr.model.backbone)
    batch = make_batch([pixels.to(device)], detr.resize, mean=mean, std=std)
    maps = attention_maps(detr.model, *batch)
    query = sparse["query"]
    titles = [
        f"{model}, query {detection['query']}: {detector.categories[detection['label']]}, "
        f"{detection['score']:.2f}"
        for model, detector, detection in (
            ("DETR", detr, dense),
            ("Deformable DETR", deformable, sparse),
        )
    ]
    figure, data = plot_attention_comparison(
        pixels,
        np.stack([m[0, :, dense["query"]].cpu() for m in maps]),
        dense["box"],
        np.stack([r.locations[0, query].cpu() for r in records]),
        np.stack([r.weights[0, query].cpu() for r in records]),
        sparse["box"],
        title="; ".join(titles),
    )
    return figure, {"dense": data["dense"] | dense, "deformable": data["deformable"] | sparse}


def detection_for(box: Tensor, detections: Detections) -> dict:
    """Choose the detection that stands for an object.

    Args:
        box: (4,) (x1, y1, x2, y2) of the object, in pixels of the image.
        detections: As of `Detector.predict`.

    Returns:
        Its "query", "label", "score" and "box" (4,), and its "iou" with the object's box.
    """
    ious = box_iou(box[None], detections["boxes"])[0]
    near = (ious >= 0.5).nonzero()[:, 0]
    best = int(near[0] if len(near) else ious.argmax())  # detections come best first
    return {
        "query": int(detections["queries"][best]),
        "label": int(detections["labels"][best]),
        "score": float(detections["scores"][best]),
        "box": detections["boxes"][best],
        "iou": float(ious[best]),
    }
