"""The queries that mean the same object, and what each layer of the decoder makes of them."""

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ddetr_edu.analysis.recording import record
from ddetr_edu.detector import Detector
from ddetr_edu.models.preprocessing import ImageInput

MIN_IOU = 0.5  # of a final box and the object


def rival_scores(detector: Detector, image: ImageInput, box: Tensor, label: int) -> Tensor:
    """The scores of all queries whose final box overlaps one object by half or more.

    Args:
        detector: Of two stages.
        image: Anything that `load_image` takes.
        box: (4,) xyxy in pixels of the image, the object's.
        label: Of the object.

    Returns:
        (1 + layers, n): the score of each of n queries for the object's class, as a proposal and
        after each decoder layer; the queries are in the order of their proposals.
    """
    recording = record(detector, image, layers="decoder*")
    (decoder,), (proposals,) = recording.records.decoder, recording.records.proposals
    height, width = recording.image.shape[1:]
    boxes = decoder.boxes[-1][0] * torch.tensor([width, height, width, height])
    overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), box[None])[:, 0]  # (Lq,)
    rivals = (overlap >= MIN_IOU).nonzero()[:, 0]
    tokens, output = proposals.topk_indices[0, rivals], detector.labels.index(label)
    layers = [proposals.logits[0, tokens, output]]
    layers += [logits[0, rivals, output] for logits in decoder.logits]
    return torch.stack(layers).sigmoid()
