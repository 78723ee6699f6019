"""DETR's attention beside Deformable DETR's, on the same picture and the same object: one call."""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ddetr_edu.attention import capture
from ddetr_edu.detector import DETR, attention_maps, make_batch
from ddetr_edu.training.detector import Detector, Picture, load_picture
from ddetr_edu.viz import plot_attentions
from ddetr_edu.viz.style import NotebookFigure


def look_at_attentions(
    detr: Detector, deformable: Detector, picture: Picture, box=None
) -> tuple[NotebookFigure, dict]:
    """Draw where the two models look, in each layer, with the query that finds the same object.

        figure, data = look_at_attentions(detr, deformable, "street.jpg")

    Of each model the query of the surest detection that overlaps the box by an IoU of 0.5 or more
    is taken, and if there is none, of the one that overlaps it most. The detectors are put into
    evaluation mode.

    box: (x1, y1, x2, y2) in pixels of the picture; Deformable DETR's best detection if not given
    Returns: as `plot_attentions`, and for each model "query", and its "box" (4,), "score", "label"
        and "iou" with the object's box.
    Raises: ValueError if the first detector holds no DETR or the second one does, and as
        `Detector.predict` does.
    """
    if not isinstance(detr.model, DETR) or isinstance(deformable.model, DETR):
        raise ValueError(
            f"the detectors hold a {type(detr.model).__name__} and a "
            f"{type(deformable.model).__name__}; give a DETR first and a Deformable DETR second"
        )
    image = load_picture(picture)
    with capture(deformable.model.decoder) as records:
        found = deformable.predict(image, threshold=0.0)
    box = found["boxes"][0] if box is None else torch.as_tensor(box, dtype=torch.float32)
    sparse = answer_for(box, found)
    dense = answer_for(box, detr.predict(image, threshold=0.0))
    device = next(detr.model.parameters()).device
    maps = attention_maps(detr.model, *make_batch([image.to(device)], detr.size))
    query = sparse["query"]
    names = {
        kind: f"{detector.categories[answer['label']]} {answer['score']:.2f}"
        for kind, detector, answer in (("dense", detr, dense), ("deformable", deformable, sparse))
    }
    figure, data = plot_attentions(
        image,
        np.stack([m[0, :, dense["query"]].cpu() for m in maps]),
        dense["box"],
        np.stack([r.locations[0, query].cpu() for r in records]),
        np.stack([r.weights[0, query].cpu() for r in records]),
        sparse["box"],
        title=f"DETR's query {dense['query']} says {names['dense']}, Deformable DETR's query "
        f"{query} says {names['deformable']}",
    )
    return figure, {"dense": data["dense"] | dense, "deformable": data["deformable"] | sparse}


def answer_for(box: Tensor, found: dict[str, Tensor]) -> dict:
    """The detection that stands for an object at a box, out of those of `Detector.predict`."""
    overlaps = box_iou(box[None], found["boxes"])[0]
    near = (overlaps >= 0.5).nonzero()[:, 0]
    best = int(near[0] if len(near) else overlaps.argmax())  # detections come best first
    return {
        "query": int(found["queries"][best]),
        "label": int(found["labels"][best]),
        "score": float(found["scores"][best]),
        "box": found["boxes"][best],
        "iou": float(overlaps[best]),
    }
