"""`ddetr eval`."""

from pathlib import Path

from ddetr_edu.cli.common import CHECKPOINT, with_precision
from ddetr_edu.models.config import Precision


def run(
    checkpoint: Path = CHECKPOINT,
    data: str = "data/shapes-mini",
    split: str = "val",
    first: int | None = None,
    batch_size: int = 8,
    workers: int = 1,
    per_category: bool = False,
    report: Path | None = None,
    threshold: float = 0.5,
    max_detections: int = 100,
    strict: bool = False,
    precision: Precision = "fp32",
) -> None:
    """Print the COCO metrics of a checkpoint; with --report, also analyse and draw its errors.

    Try it:  ddetr eval --data shapes --report runs/eval

    Args:
        checkpoint: A checkpoint of `ddetr train`, an official .pth or a Hugging Face folder.
        data: A folder in COCO's layout, or "shapes" for generated scenes that no training uses.
        split: The split, such as val or train2017; of shapes, val (200 scenes) or test (500).
        first: Evaluate only the first so many images that have an object, the same as
            `ddetr train --overfit` uses.
        batch_size: Images in a batch.
        workers: Data loading processes.
        per_category: Also print the metrics of each category.
        report: A folder for precision-recall curves, AP by size, a confusion matrix, a gallery of
            the worst errors, and all their numbers as JSON.
        threshold: The report analyses detections with at least this score; from 0 to 1.
        max_detections: How many detections of an image count. COCO's AP stops at 100, so more
            objects than that cannot all be found.
        strict: Refuse a data set with a fault, instead of leaving out what is faulty.
        precision: Precision of the forward pass; boxes are computed in fp32 all the same. bf16 is
            faster on processors that have instructions for it; auto is bf16 there, fp32 elsewhere.
    """
    from ddetr_edu.checkpoints.io import load
    from ddetr_edu.data.coco import CocoDetection
    from ddetr_edu.data.shapes import held_out_scenes
    from ddetr_edu.detector import check_threshold
    from ddetr_edu.evaluation.coco_metrics import check_limit, evaluate
    from ddetr_edu.evaluation.explain import describe_ap, explain

    check_threshold(threshold)
    check_limit(max_detections)
    if strict and data == "shapes":
        raise ValueError("--strict has no effect on generated scenes, which have no faults")
    detector = with_precision(load(checkpoint), precision)
    generated = data == "shapes"
    dataset = held_out_scenes(split) if generated else CocoDetection(data, split, strict=strict)
    if first is not None:
        dataset = dataset.first(first)
    metrics, table = evaluate(
        detector,
        dataset,
        batch_size,
        workers=workers,
        per_category=per_category,
        report=report,
        threshold=threshold,
        max_detections=max_detections,
    )
    print(table)
    for sentence in explain(metrics, dataset, max_detections):
        print(sentence)
    print(f"{len(dataset)} images: {describe_ap(metrics)}")
