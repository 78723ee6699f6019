"""An animation of a training run: the same image under every checkpoint, oldest first."""

import io
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import (
    COLOURS,
    HEAD_MARKS,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_cross,
    draw_points,
)


@dataclass
class Animation:
    """Images of one size, shown one after the other. A notebook plays it in place."""

    images: list[PIL.Image.Image]
    seconds: float = 0.7  # for each image; the last is shown three times as long

    def save(self, path: str | Path) -> None:
        """Write it as .gif, .png (animated, in full colour) or, where ffmpeg is installed, .mp4.

        Args:
            path: The file; its folder is made if needed.

        Raises:
            ValueError: For another ending, or for .mp4 without ffmpeg.
        """
        path = Path(path)
        if path.suffix not in (".gif", ".png", ".mp4"):
            raise ValueError(
                f"{path} cannot hold an animation; choose a name ending in .gif, .png or .mp4"
            )
        if path.suffix == ".mp4" and not shutil.which("ffmpeg"):
            raise ValueError(f"{path} needs ffmpeg, which is not installed; write a .gif instead")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            self._save_mp4(path)
        else:
            self._write(path, path.suffix[1:])

    def _write(self, file: Path | io.BytesIO, kind: str) -> None:
        milliseconds = [round(1000 * self.seconds)] * len(self.images)
        milliseconds[-1] *= 3
        first, *others = self.images
        first.save(file, kind, save_all=True, append_images=others, duration=milliseconds, loop=0)

    def _save_mp4(self, path: Path) -> None:
        width, height = self.images[0].size
        # H.264 in the usual colours takes even sides only.
        command = [
            *("ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", f"{1 / self.seconds}", "-i", "-"),
            *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", str(path)),
        ]
        last = self.images[-1]
        frames = b"".join(image.tobytes() for image in [*self.images, last, last])
        subprocess.run(command, input=frames, check=True)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self._write(file, "png")
        return file.getvalue()


def training_animation(image, frames: list[dict]) -> Animation:
    """Draw a frame for each checkpoint: all detections, and the sampling points of one object.

    On the left are all detections, and of the followed object the box (black), the reference point
    (cross) and the sampling points, larger and brighter for a higher attention weight. On the right
    are the offsets of the same points from the reference point, with a colour and a mark for each
    head: how the initial star takes the shape of the object. Scales are the same in all frames.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        frames: For each checkpoint a dict of "step", "AP" (or None), "boxes" (n, 4) xyxy in pixels
            and "texts" (n,) of all detections, and of the followed object "box" (4,), "reference"
            (2 or 4,) (x, y) or (cx, cy, w, h), "locations" (M, L, P, 2), both fractions, and
            "weights" (M, L, P).

    Returns:
        The animation.

    Raises:
        ValueError: If there is no frame.
    """
    if not frames:
        raise ValueError("there is no frame to draw; an animation needs one checkpoint or more")
    pixels = as_image_array(image)
    scale = np.array([pixels.shape[1], pixels.shape[0]])
    offsets = [
        (as_array(f["locations"]) - as_array(f["reference"])[:2]) * scale for f in frames
    ]  # (M, L, P, 2), in pixels of the image
    reach = 1.15 * max(1.0, np.quantile(np.abs(np.stack(offsets)), 0.99))
    largest = max(float(as_array(f["weights"]).max()) for f in frames)
    images = []
    for frame, of_frame in zip(frames, offsets, strict=True):
        height = 4.4 * scale[1] / scale[0]
        figure = NotebookFigure(8.2, min(max(height, 3.4), 6.0) + 0.7)
        left, right = figure.subplots(1, 2, width_ratios=(4.4, 3.2))
        _draw_detections(left, pixels, frame, largest)
        _draw_offsets(right, of_frame, as_array(frame["weights"]), reach, largest)
        precision = "" if frame["AP"] is None else f": AP {frame['AP']:.3f}"
        figure.suptitle(f"step {frame['step']}{precision}", fontsize=12)
        file = io.BytesIO()
        figure.savefig(file)
        images.append(PIL.Image.open(file).convert("RGB"))
    return Animation(images)


def _draw_detections(axis: Axes, pixels: np.ndarray, frame: dict, largest: float) -> None:
    """The left side of a frame; largest: the highest attention weight of all frames."""
    height, width = pixels.shape[:2]
    axis.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0), interpolation="nearest")
    for (x1, y1, x2, y2), text in zip(frame["boxes"], frame["texts"], strict=True):
        for colour, line in (("white", 2.6), ("0.25", 1.2)):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=line))
        x, y = min(max(x1, 0), 0.8 * width), max(y1, 0.06 * height)
        axis.text(
            x,
            y,
            text,
            fontsize=7,
            va="bottom",
            bbox=dict(facecolor="white", edgecolor="none", pad=0.8, alpha=0.8),
        )
    x1, y1, x2, y2 = frame["box"]
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="black", lw=2.2))
    weights = as_array(frame["weights"]).reshape(-1)
    points = as_array(frame["locations"]).reshape(-1, 2) * [width, height]
    draw_points(axis, points, weights, largest, sizes=(5, 60))
    draw_cross(axis, as_array(frame["reference"])[:2] * [width, height], size=13)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.set_title("detections, and the sampling points of one query", fontsize=9)


def _draw_offsets(
    axis: Axes, offsets: np.ndarray, weights: np.ndarray, reach: float, largest: float
) -> None:
    """The right side of a frame. offsets (M, L, P, 2) in pixels of the image; weights (M, L, P)"""
    for m, (of_head, head_weights) in enumerate(zip(offsets, weights, strict=True)):
        dx, dy = of_head.reshape(-1, 2).T
        axis.scatter(
            dx,
            dy,
            s=8 + 60 * head_weights.reshape(-1) / largest,
            color=COLOURS[m % len(COLOURS)],
            marker=HEAD_MARKS[m % len(HEAD_MARKS)],
            edgecolors="black",
            linewidths=0.4,
            label=f"head {m}",
            alpha=0.85,
        )
    axis.plot(0, 0, "+", color="black", ms=13, mew=1.8)
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    axis.set_xlabel("offset from the reference point, px", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    legend = axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        assert isinstance(handle, PathCollection)
        handle.set_sizes([30])
