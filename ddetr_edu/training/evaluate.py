"""COCO's average precision of a detector on a data set, by pycocotools."""

import contextlib
import io
from pathlib import Path

import torch
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert
from tqdm.auto import tqdm

from ddetr_edu.detector import to_floats
from ddetr_edu.training import distributed
from ddetr_edu.training.batches import open_batches
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.evaluation_pictures import write_pictures

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
def detect(
    detector: Detector, dataset, batch: int = 8, progress: bool = True, workers: int = 0
) -> list[dict]:
    """Run a detector over a data set; the results in COCO's format, 100 per picture.

    The detector is left in the mode it was in. Several processes share the batches among them, as
    they are: what a picture is padded to depends on its batch, and the answer on the padding.

    workers: processes that read pictures ahead
    Returns: [{"image_id", "category_id", "bbox" [x, y, w, h] in pixels, "score"}, ...], of all
        processes, each picture once.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; at least 1 picture at a time is needed")
    was_training = detector.training
    detector.eval()
    device = next(detector.model.parameters()).device
    starts = range(0, len(dataset), batch)[distributed.rank() :: distributed.world_size()]
    batches = [range(start, min(start + batch, len(dataset))) for start in starts]
    results = []
    try:
        for images, targets in tqdm(
            open_batches(dataset, batches, workers), "evaluate", len(batches),
            disable=not progress or distributed.rank() > 0,
        ):  # fmt: skip
            found = detector([to_floats(image.to(device)) for image in images])
            for target, detections in zip(targets, found, strict=True):
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
    return distributed.gathered(results)


def evaluate(
    detector: Detector,
    dataset,
    batch: int = 8,
    progress: bool = True,
    workers: int = 0,
    per_category: bool = False,
    pictures: Path | None = None,
    threshold: float = 0.5,
) -> tuple[dict[str, float], str]:
    """COCO's twelve numbers for a detector on a data set.

    dataset: one of `ddetr_edu.data`, whose labels are category ids
    workers: processes that read pictures ahead
    per_category: add a table of all categories, from high AP to low
    pictures: a folder to write, see `write_pictures`: precision-recall curves, AP by size, what was
        taken for what, the worst errors, and their numbers
    threshold: the score from which a detection counts as an answer there
    Returns: {"AP": ..., "AP50": ..., ...}, fractions (-1 where there is nothing to measure), and
        COCO's own table as text.
    Raises: ValueError if the data set has no picture, or categories the detector does not know.
    """
    check_dataset(detector, dataset)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)  # if it cannot be, better now than at the end
    coco = score(detect(detector, dataset, batch, progress, workers), dataset)
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        coco.summarize()
    metrics = {name: float(value) for name, value in zip(METRICS, coco.stats, strict=True)}
    text = table.getvalue().rstrip()
    categories = by_category(coco)
    if per_category:
        text += "\n\n" + category_table(categories, dataset.categories)
    if pictures is not None:
        numbers = {"metrics": metrics, "sizes": by_size(coco), "categories": categories}
        text += "\n\n" + write_pictures(pictures, coco, dataset, numbers, threshold)
    return metrics, text


def score(results: list[dict], dataset) -> COCOeval:
    """pycocotools' comparison of results, in COCO's format, with what the data set holds."""
    truth = dataset.ground_truth()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its timings
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        coco.params.imgIds = dataset.image_ids
        coco.evaluate()
        coco.accumulate()
    return coco


def by_category(coco: COCOeval) -> dict[int, dict[str, float]]:
    """{category id: {"AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"}}, -1 where it has no object."""
    # precision of (10 IoU thresholds, 101 recalls, categories, 4 areas, 3 limits on detections)
    precision = coco.eval["precision"][..., -1]
    every = slice(None)
    cuts = {"AP": (every, 0), "AP50": (0, 0), "AP75": (5, 0),
            "AP_S": (every, 1), "AP_M": (every, 2), "AP_L": (every, 3)}  # fmt: skip
    numbers = {}
    for place, category in enumerate(coco.params.catIds):
        numbers[category] = {}
        for name, (threshold, area) in cuts.items():
            values = precision[threshold, ..., place, area]
            # It is -1 throughout for a category of which there is no object of this size.
            numbers[category][name] = float(values.mean())
    return numbers


def by_size(coco: COCOeval) -> dict[str, dict[str, float]]:
    """{"all", "small", "medium", "large": {"AP", "AP50", "AP75", "objects"}}, -1 without object."""
    precision = coco.eval["precision"][..., -1]
    areas = [a["area"] for a in coco.cocoGt.anns.values() if not a["iscrowd"]]
    numbers = {}
    for place, (name, (least, most)) in enumerate(
        zip(coco.params.areaRngLbl, coco.params.areaRng, strict=True)
    ):
        values = precision[..., place]
        values = values[..., (values > -1).all(axis=(0, 1))]  # the categories that have an object
        numbers[name] = {
            **{
                metric: float(values[cut].mean()) if values.size else -1.0
                for metric, cut in (("AP", slice(None)), ("AP50", 0), ("AP75", 5))
            },
            "objects": sum(least <= area <= most for area in areas),
        }
    return numbers


def category_table(numbers: dict[int, dict[str, float]], names: dict[int, str]) -> str:
    """The numbers of `by_category` as text, the best category first, "-" where there is none."""
    width = max(len("category"), *(len(names[category]) for category in numbers))
    columns = list(next(iter(numbers.values())))
    lines = [f"{'category':{width}s}" + "".join(f"{column:>8s}" for column in columns)]
    for category, row in sorted(numbers.items(), key=lambda item: -item[1]["AP"]):
        cells = (f"{value:8.3f}" if value >= 0 else f"{'-':>8s}" for value in row.values())
        lines.append(f"{names[category]:{width}s}" + "".join(cells))
    return "\n".join(lines)
