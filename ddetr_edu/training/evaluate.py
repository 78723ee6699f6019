"""COCO's average precision of a detector on a data set, by pycocotools."""

import contextlib
import io

import torch
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert
from tqdm.auto import tqdm

from ddetr_edu.detector import to_floats
from ddetr_edu.training.detector import Detector

# The twelve numbers of COCO's table, in its order.
METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L",
           "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")  # fmt: skip


def check_dataset(detector: Detector, dataset) -> None:
    """Raise ValueError, in one sentence, unless the detector can be evaluated on the data set."""
    if len(dataset) == 0:
        raise ValueError("the data set has no picture to evaluate on; choose another split")
    missing = sorted(set(dataset.categories.items()) - set(detector.categories.items()))
    if missing:
        label, name = missing[0]
        raise ValueError(
            f"the data set has the category {label} ({name}), which this detector was not trained "
            f"for; it knows {len(detector.categories)}: "
            f"{', '.join(list(detector.categories.values())[:10])}"
            f"{', ...' if len(detector.categories) > 10 else ''}; evaluate on data with those "
            "categories, or train a detector on this data"
        )


@torch.no_grad()
def detect(detector: Detector, dataset, batch: int = 8, progress: bool = True) -> list[dict]:
    """Run a detector over a data set; the results in COCO's format, 100 per picture.

    The detector is left in the mode it was in.

    Returns: [{"image_id", "category_id", "bbox" [x, y, w, h] in pixels, "score"}, ...]
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; at least 1 picture at a time is needed")
    was_training = detector.training
    detector.eval()
    device = next(detector.model.parameters()).device
    results = []
    try:
        for start in tqdm(range(0, len(dataset), batch), desc="evaluate", disable=not progress):
            samples = [dataset[i] for i in range(start, min(start + batch, len(dataset)))]
            found = detector([to_floats(image).to(device) for image, _ in samples])
            for (_, target), detections in zip(samples, found, strict=True):
                boxes = box_convert(detections["boxes"], "xyxy", "xywh").tolist()
                rows = zip(
                    boxes,
                    detections["scores"].tolist(),
                    detections["labels"].tolist(),
                    strict=True,
                )
                results += [
                    {"image_id": target["image_id"], "category_id": label, "bbox": box,
                     "score": score}
                    for box, score, label in rows
                ]  # fmt: skip
    finally:
        detector.train(was_training)
    return results


def evaluate(
    detector: Detector, dataset, batch: int = 8, progress: bool = True
) -> tuple[dict[str, float], str]:
    """COCO's twelve numbers for a detector on a data set.

    dataset: one of `ddetr_edu.data`, whose labels are category ids
    Returns: {"AP": ..., "AP50": ..., ...}, fractions (-1 where there is nothing to measure), and
        COCO's own table as text.
    Raises: ValueError if the data set has no picture, or categories the detector does not know.
    """
    check_dataset(detector, dataset)
    results = detect(detector, dataset, batch, progress)
    truth = dataset.ground_truth()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its timings
        found = truth.loadRes(results)
        coco = COCOeval(truth, found, "bbox")
        coco.params.imgIds = dataset.image_ids
        coco.evaluate()
        coco.accumulate()
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        coco.summarize()
    metrics = {name: float(value) for name, value in zip(METRICS, coco.stats, strict=True)}
    return metrics, table.getvalue().rstrip()
