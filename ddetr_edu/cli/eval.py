"""`ddetr eval`."""

from pathlib import Path

from ddetr_edu.cli.common import CHECKPOINT


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
        threshold: The report analyses detections with at least this score.
    """
    from ddetr_edu.checkpoints.io import load
    from ddetr_edu.data.coco import CocoDetection
    from ddetr_edu.data.shapes import held_out_scenes
    from ddetr_edu.evaluation.coco_metrics import evaluate

    detector = load(checkpoint)
    dataset = held_out_scenes(split) if data == "shapes" else CocoDetection(data, split)
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
    )
    print(table)
    print(f"{len(dataset)} images: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}")
