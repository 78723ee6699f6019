"""`ddetr animate`."""

from pathlib import Path

from tyro.conf import Positional


def run(
    run: Positional[Path],
    image: Positional[Path],
    out: Path = Path("runs/animate/training.gif"),
    threshold: float = 0.3,
) -> None:
    """Animate how detections and sampling points of one image change from checkpoint to checkpoint.

    For many frames:  ddetr train --keep-checkpoints 20 --save-every 100 --minutes 10

    Args:
        run: The folder of a `ddetr train`.
        image: Any image that Pillow reads.
        out: The animation to write: .gif, .png (animated, full colour) or, with ffmpeg, .mp4.
        threshold: Leave out detections with a lower score; from 0 to 1.
    """
    if out.is_dir():
        out = out / "training.gif"
    from ddetr_edu.analysis.animation import animate_training

    animation, frames = animate_training(run, image, threshold)
    animation.save(out)
    steps = ", ".join(str(frame["step"]) for frame in frames)
    print(f"wrote {out}: {len(frames)} checkpoints, steps {steps}")
