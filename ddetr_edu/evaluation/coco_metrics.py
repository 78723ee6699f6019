"""COCO's average precision of a detector on a data set, by pycocotools."""

import contextlib
import io
import math
from pathlib import Path

import torch
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

from ddetr_edu import distributed
from ddetr_edu.data.coco import coco_ground_truth
from ddetr_edu.data.loading import open_batches
from ddetr_edu.detector import Detector, check_threshold
from ddetr_edu.evaluation.categories import describe_difference
from ddetr_edu.evaluation.report import write_report
from ddetr_edu.models.preprocessing import to_floats
from ddetr_edu.progress import progress

# The twelve numbers of COCO's table, in its order.
AP_METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
METRICS = (*AP_METRICS, "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")
COCO_LIMIT = 100  # detections of an image that COCO's AP counts


def check_dataset(detector: Detector, dataset) -> None:
    """Raise unless the detector can be evaluated on the data set.

    Args:
        detector: The detector.
        dataset: One of `ddetr_edu.data`.

    Raises:
        ValueError: If the data set has no image, or categories that the detector
            does not know.
    """
    if len(dataset) == 0:
        raise ValueError("the data set has no image to evaluate on; choose another split")
    difference = describe_difference(detector.categories, dataset.categories)
    if difference:
        raise ValueError(
            f"{difference}; evaluate on data with those categories, or train a detector on this "
            "data"
        )


@torch.no_grad()
def detect(
    detector: Detector,
    dataset,
    batch_size: int = 8,
    show_progress: bool = True,
    workers: int = 0,
    max_detections: int = COCO_LIMIT,
) -> list[dict]:
    """Run a detector on a data set; the results are in COCO's format.

    The detector is left in the mode it was in. Several processes share the batches, which stay the
    same: how an image is padded depends on its batch, and detections depend slightly on padding.

    Args:
        detector: The detector.
        dataset: One of `ddetr_edu.data`.
        batch_size: Images in a batch.
        show_progress: Show a progress bar.
        workers: Data loading processes.
        max_detections: Keep at most this many detections of each image.

    Returns:
        [{"image_id", "category_id", "bbox" [x, y, w, h] in pixels, "score"}, ...], of all
        processes, each image once.

    Raises:
        ValueError: If batch_size is less than 1, and naming the first tensor of the detector that
            is NaN or infinite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    was_training = detector.training
    detector.eval()
    device = next(detector.model.parameters()).device
    starts = range(0, len(dataset), batch_size)[distributed.rank() :: distributed.world_size()]
    batches = [range(start, min(start + batch_size, len(dataset))) for start in starts]
    results = []
    # What any detector gives; only ours can be asked for more.
    limit = {} if max_detections == COCO_LIMIT else {"top_k": max_detections}
    try:
        with contextlib.closing(open_batches(dataset, batches, workers)) as loaded:
            for images, targets in progress(
                loaded,
                desc="evaluate",
                total=len(batches),
                disable=not show_progress or distributed.rank() > 0,
            ):
                answers = detector([to_floats(image.to(device)) for image in images], **limit)
                for target, detections in zip(targets, answers, strict=True):
                    results += to_coco(detections, target["image_id"])
    finally:
        detector.train(was_training)
    return distributed.all_gather(results)


def to_coco(detections: dict[str, torch.Tensor], image_id: int) -> list[dict]:
    """Detections of an image in COCO's format.

    Args:
        detections: "boxes" (k, 4) xyxy in pixels, "scores" and "labels" (k,).
        image_id: The image.

    Returns:
        One row for each detection, as `detect` returns them.
    """
    boxes = box_convert(detections["boxes"], "xyxy", "xywh").tolist()
    scores, labels = detections["scores"].tolist(), detections["labels"].tolist()
    return [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def evaluate(
    detector: Detector,
    dataset,
    batch_size: int = 8,
    show_progress: bool = True,
    workers: int = 0,
    per_category: bool = False,
    report: Path | None = None,
    threshold: float = 0.5,
    max_detections: int = COCO_LIMIT,
) -> tuple[dict[str, float], str]:
    """COCO's twelve metrics for a detector on a data set.

    `ddetr_edu.evaluation.explain` says in words what they cannot show.

    Args:
        detector: The detector.
        dataset: One of `ddetr_edu.data`, whose labels are category ids.
        batch_size: Images in a batch.
        show_progress: Show a progress bar.
        workers: Data loading processes.
        per_category: Add a table of all categories to the text, from high AP to low.
        report: A folder for the figures and numbers of `write_report`, made if need be.
        threshold: The report analyses detections with at least this score; from 0 to 1.
        max_detections: How many detections of an image count, 10 or more. With another number than
            COCO's 100, "AR100" is the recall of that many.

    Returns:
        {"AP": ..., "AP50": ..., ...}, fractions (-1 where there is nothing to measure), and COCO's
        own table as text.

    Raises:
        ValueError: If the data set has no image, or categories that the detector does not know, for
            a number out of its range, and naming the first tensor of the detector that is NaN or
            infinite.
        OSError: If the report cannot be written.
    """
    check_threshold(threshold)
    check_limit(max_detections)
    check_dataset(detector, dataset)
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)  # an error should come now, not at the end
    results = detect(detector, dataset, batch_size, show_progress, workers, max_detections)
    coco = score(results, dataset, max_detections)
    metrics, text = summarize(coco)
    categories = by_category(coco)
    if per_category:
        text += "\n\n" + category_table(categories, dataset.categories)
    if report is not None:
        numbers = {"metrics": metrics, "sizes": by_size(coco), "categories": categories}
        text += "\n\n" + write_report(report, coco, dataset, numbers, threshold)
    return metrics, text


def check_limit(max_detections: int) -> None:
    """Raise a ValueError for a number of detections of an image that COCO's table cannot show."""
    if max_detections < 10:
        raise ValueError(
            f"max_detections is {max_detections}, but COCO's table holds the recall of 10 "
            "detections; give 10 or more"
        )


def score(results: list[dict], dataset, max_detections: int = COCO_LIMIT) -> COCOeval:
    """pycocotools' comparison of results with the ground truth of a data set.

    Args:
        results: From `detect`.
        dataset: One of `ddetr_edu.data`.
        max_detections: How many detections of an image count, 10 or more.

    Returns:
        After its evaluate() and accumulate().

    Raises:
        ValueError: For a result that is NaN or infinite, and for fewer than 10 detections.
    """
    check_limit(max_detections)
    for result in results:  # pycocotools would count a box of NaN as a match
        if not all(map(math.isfinite, (*result["bbox"], result["score"]))):
            raise ValueError(
                f"a detection of image {result['image_id']} has the box {result['bbox']} and the "
                f"score {result['score']}; only finite numbers can be evaluated"
            )
    ground_truth = dataset.ground_truth()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its timings
        if results:
            found = ground_truth.loadRes(results)
        else:  # which it does not take
            found = coco_ground_truth(ground_truth.dataset["images"], [], dataset.categories)
        coco = COCOeval(ground_truth, found, "bbox")
        coco.params.imgIds = dataset.image_ids
        coco.params.maxDets = [1, 10, max_detections]
        coco.evaluate()
        coco.accumulate()
    return coco


def summarize(coco: COCOeval) -> tuple[dict[str, float], str]:
    """COCO's twelve metrics, and its table.

    Args:
        coco: From `score`.

    Returns:
        As `evaluate`.
    """
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        coco.summarize()
    lines = table.getvalue().rstrip().splitlines()
    metrics = {name: float(value) for name, value in zip(METRICS, coco.stats, strict=True)}
    limit = coco.params.maxDets[-1]
    if limit != COCO_LIMIT:  # pycocotools' first line knows no other limit, and says -1
        metrics["AP"] = by_size(coco)["all"]["AP"]
        lines[0] = f"{lines[0].split('maxDets')[0]}maxDets={limit:>3d} ] = {metrics['AP']:0.3f}"
    return metrics, "\n".join(lines)


def by_category(coco: COCOeval) -> dict[int, dict[str, float]]:
    """The average precision of each category.

    Args:
        coco: From `score`.

    Returns:
        {category id: {"AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"}}, -1 where the category has no
        object.
    """
    # precision of (10 IoU thresholds, 101 recalls, categories, 4 areas, 3 limits on detections)
    precision = coco.eval["precision"][..., -1]
    every = slice(None)
    selections = {
        "AP": (every, 0),
        "AP50": (0, 0),
        "AP75": (5, 0),
        "AP_S": (every, 1),
        "AP_M": (every, 2),
        "AP_L": (every, 3),
    }
    # Precision is -1 throughout for a category of which there is no object of this size.
    return {
        category: {
            name: float(precision[threshold, ..., k, area].mean())
            for name, (threshold, area) in selections.items()
        }
        for k, category in enumerate(coco.params.catIds)
    }


def by_size(coco: COCOeval) -> dict[str, dict[str, float]]:
    """The average precision of small, medium and large objects.

    Args:
        coco: From `score`.

    Returns:
        {"all", "small", "medium", "large": {"AP", "AP50", "AP75", "objects"}}, -1 without an
        object of the size.
    """
    precision = coco.eval["precision"][..., -1]
    areas = [a["area"] for a in coco.cocoGt.anns.values() if not a["iscrowd"]]
    numbers: dict[str, dict[str, float]] = {}
    for index, (name, (min_area, max_area)) in enumerate(
        zip(coco.params.areaRngLbl, coco.params.areaRng, strict=True)
    ):
        values = precision[..., index]
        values = values[..., (values > -1).all(axis=(0, 1))]  # the categories that have an object
        numbers[name] = {
            **{
                metric: float(values[selection].mean()) if values.size else -1.0
                for metric, selection in (("AP", slice(None)), ("AP50", 0), ("AP75", 5))
            },
            "objects": sum(min_area <= area <= max_area for area in areas),
        }
    return numbers


def category_table(numbers: dict[int, dict[str, float]], names: dict[int, str]) -> str:
    """The numbers of `by_category` as text, the category with the highest AP first.

    Args:
        numbers: From `by_category`.
        names: {category id: name}.

    Returns:
        A table with headings, "-" where there is nothing to measure.
    """
    width = max(len("category"), *(len(names[category]) for category in numbers))
    columns = list(next(iter(numbers.values())))
    lines = [f"{'category':{width}s}" + "".join(f"{column:>8s}" for column in columns)]
    for category, row in sorted(numbers.items(), key=lambda item: -item[1]["AP"]):
        cells = (f"{value:8.3f}" if value >= 0 else f"{'-':>8s}" for value in row.values())
        lines.append(f"{names[category]:{width}s}" + "".join(cells))
    return "\n".join(lines)
