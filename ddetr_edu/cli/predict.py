"""`ddetr predict`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import CHECKPOINT, open_upright, output_path, with_precision, write_figure
from ddetr_edu.models.config import Precision


def run(
    images: Positional[tuple[Path, ...]],
    checkpoint: Path = CHECKPOINT,
    threshold: float = 0.5,
    top: int = 100,
    out: Path | None = None,
    precision: Precision = "fp32",
) -> None:
    """Detect the objects of images; print them, and draw them into PNGs.

    Args:
        images: Any images that Pillow reads.
        checkpoint: A checkpoint of `ddetr train`, an official .pth or a Hugging Face folder.
        threshold: Leave out detections with a lower score; from 0 to 1.
        top: Keep at most this many detections of each image.
        out: The PNG to write, or a folder for PNGs that are named as the images; runs/predict if
            not given. Of two PNGs of the same name in a folder, the second gets a number.
        precision: Precision of the forward pass; boxes are computed in fp32 all the same. bf16 is
            faster on processors that have instructions for it; auto is bf16 there, fp32 elsewhere.
    """
    if not images:
        raise ValueError("predict takes the path of an image, or several")
    several, folder = len(images) > 1, Path("runs/predict")
    drawings = {output_path(out, folder, image, several=several): image for image in images}
    if len(drawings) < len(images):
        raise ValueError("two of the images have the same name; predict them one by one")

    from ddetr_edu.checkpoints.io import load
    from ddetr_edu.detector import check_threshold
    from ddetr_edu.viz.boxes import plot_boxes

    check_threshold(threshold)
    detector = with_precision(load(checkpoint), precision)
    for drawing, image in drawings.items():
        upright = open_upright(image)
        detections = detector.predict(upright, threshold, top)
        if len(images) > 1:
            print(f"{image}:")
        boxes, scores, labels = (detections[name] for name in ("boxes", "scores", "labels"))
        for box, score, label in zip(boxes, scores, labels, strict=True):
            x1, y1, x2, y2 = box.tolist()
            name = detector.categories[int(label)]
            print(f"{name:16s} {score:.2f}   x {x1:6.1f} to {x2:6.1f}   y {y1:6.1f} to {y2:6.1f}")
        summary = f"{len(boxes)} objects at or above {threshold:g}"
        print(summary)
        figure, _ = plot_boxes(
            upright, boxes, labels, scores, detector.categories, title=f"{image.name}: {summary}"
        )
        write_figure(figure, drawing)
