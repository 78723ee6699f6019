"""What a run logs of its matching: the queries of some objects, and how many have changed."""

import torch
from torch import Tensor

from ddetr_edu.detector import Detector
from ddetr_edu.losses.instability import instability, queries_of_objects
from ddetr_edu.losses.matcher import DETR_WEIGHTS, LossWeights, match
from ddetr_edu.models.capture import capture
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.preprocessing import to_floats

N_IMAGES = 16  # of the validation set, whose objects are matched


def match_entry(detector: Detector, dataset, earlier: list[dict]) -> dict:
    """Match the queries with the objects of the first images of a data set, for the log of a run.

    Args:
        detector: The detector in training; its mode stays as it is.
        dataset: One of `ddetr_edu.data`, whose images are not augmented.
        earlier: The entries of the log so far.

    Returns:
        "matched_queries", as of `matched_queries` for the objects of all these images, and
        "match_changes", the share of them that have changed since the last such entry, if there is
        one.
    """
    samples = [dataset[i] for i in range(min(N_IMAGES, len(dataset)))]
    now = torch.cat([matched_queries(detector, image, target) for image, target in samples])
    entry: dict = {"matched_queries": now.tolist()}
    before = [line["matched_queries"] for line in earlier if "matched_queries" in line]
    if before and len(before[-1]) == len(now) > 0:
        entry["match_changes"] = instability(torch.tensor([before[-1], now.tolist()])).item()
    return entry


@torch.no_grad()
def matched_queries(detector: Detector, image: Tensor, target: dict[str, Tensor]) -> Tensor:
    """The query of each object of an image after the last decoder layer, as training matches them.

    In two stages a query is only a rank among the proposals, which other objects of the image can
    change. There the token that it starts from stands for it.

    Args:
        detector: The detector; its mode stays as it is.
        image: uint8 (3, H, W), as data sets give it.
        target: "boxes" (T, 4) xyxy in pixels and "labels" (T,).

    Returns:
        (T,), the number of a query or of a token, -1 for an object without a query.
    """
    was_training, model = detector.training, detector.model
    device = next(model.parameters()).device
    plain = {name: target[name].as_subclass(Tensor).to(device) for name in ("boxes", "labels")}
    prepared = detector.prepare_target(plain, (image.shape[1], image.shape[2]))
    detector.eval()
    try:
        if isinstance(model, DeformableDETR):
            with capture(model, "decoder*", queries=[0]) as records:  # only for the proposals
                predictions = detector.run_model([to_floats(image.to(device))])
            proposals = records.proposals
        else:
            predictions, proposals = detector.run_model([to_floats(image.to(device))]), []
    finally:
        detector.train(was_training)
    weights = detector.loss_weights or (DETR_WEIGHTS if predictions.no_object else LossWeights())
    indices = match(predictions.logits, predictions.boxes, [prepared], weights)
    queries = queries_of_objects(indices, [len(prepared["labels"])])
    if proposals:
        tokens = proposals[0].topk_indices[0].cpu()  # (Lq,)
        queries = torch.where(queries >= 0, tokens[queries], -1)
    return queries
