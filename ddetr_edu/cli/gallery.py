"""`ddetr gallery`."""

import functools
from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import CHECKPOINT


def run(
    images: Positional[tuple[Path, ...]] = (),
    checkpoint: Path = CHECKPOINT,
    threshold: float = 0.5,
    out: Path = Path("runs/gallery"),
) -> None:
    """Draw every visualisation of a detector: PNGs in a folder, and a page that explains them.

    Args:
        images: The first one is traced in detail, and statistics are of all. If none is given, 24
            generated scenes that no training uses are taken, and the one with the most detections
            is traced.
        checkpoint: A checkpoint of a Deformable DETR, of any kind that `ddetr convert` takes.
        threshold: Leave out detections with a lower score; from 0 to 1.
        out: The folder to write; the page is written next to it, as OUT.md.
    """
    from ddetr_edu.analysis.gallery import write_gallery
    from ddetr_edu.analysis.trace import DetectionTrace, trace
    from ddetr_edu.checkpoints.io import load
    from ddetr_edu.data.shapes import held_out_scenes
    from ddetr_edu.detector import check_threshold
    from ddetr_edu.evaluation.categories import describe_difference

    check_threshold(threshold)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give the name of a folder")
    detector = load(checkpoint)
    trace_decoder = functools.partial(trace, detector, threshold=threshold, layers="decoder*")
    if images:
        # The image that is traced in detail comes first: a mistake in its path is found at once.
        traced, what = trace(detector, images[0], threshold), images[0].name
        others = [trace_decoder(image) for image in images[1:]]
    else:

        def detections(scene: DetectionTrace) -> int:
            return int((scene.detections["scores"] >= threshold).sum())

        scenes = []
        dataset = held_out_scenes().first(24)
        difference = describe_difference(detector.categories, dataset.categories)
        if difference:
            print(f"{difference}; the figures of the matching are left out")
        for n in range(len(dataset)):
            scene, target = dataset[n]
            scenes.append(trace_decoder(scene))
            scenes[-1].target = None if difference else target
        best = max(scenes, key=detections)
        others = [scene for scene in scenes if scene is not best]
        traced, what = trace(detector, best.image, threshold), "a held-out generated scene"
        traced.target = best.target
    config = traced.model.config
    about = (
        f"Every figure shows the model `{checkpoint.name}` at work on {what}. It has "
        f"{config.n_encoder_layers} encoder and {config.n_decoder_layers} decoder layers, "
        f"{config.n_heads} heads, {config.n_levels} levels, and {config.n_points} points for each "
        "head and level."
    )
    for file in write_gallery(out, traced, others, about):
        print(f"wrote {file}")
