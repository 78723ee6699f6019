"""A training as a film: the same picture under every checkpoint, oldest first."""

import io
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, WEIGHT_MAP, NotebookFigure, as_array, as_picture

MARKS = "os^Dv<>p"  # of heads, which in greyscale their colours do not tell apart


@dataclass
class Film:
    """Pictures of one size, shown one after the other; a notebook plays it in place."""

    pictures: list[PIL.Image.Image]
    seconds: float = 0.7  # of each picture; the last stays three times as long

    def save(self, path: str | Path) -> None:
        """Write it as .gif, .png (animated, in full colour) or, where ffmpeg is installed, .mp4.

        Raises: ValueError for another ending, or for .mp4 without ffmpeg.
        """
        path = Path(path)
        if path.suffix not in (".gif", ".png", ".mp4"):
            raise ValueError(
                f"{path} cannot hold a film; choose a name ending in .gif, .png or .mp4"
            )
        if path.suffix == ".mp4" and not shutil.which("ffmpeg"):
            raise ValueError(f"{path} needs ffmpeg, which is not installed; write a .gif instead")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            self._save_mp4(path)
        else:
            self._write(path, path.suffix[1:])

    def _write(self, file, kind: str) -> None:
        milliseconds = [round(1000 * self.seconds)] * len(self.pictures)
        milliseconds[-1] *= 3
        first, *others = self.pictures
        first.save(file, kind, save_all=True, append_images=others, duration=milliseconds, loop=0)

    def _save_mp4(self, path: Path) -> None:
        width, height = self.pictures[0].size
        # H.264 in the usual colours takes even sides only.
        command = [
            *("ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", f"{1 / self.seconds}", "-i", "-"),
            *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", str(path)),
        ]
        last = self.pictures[-1]
        frames = b"".join(picture.tobytes() for picture in [*self.pictures, last, last])
        subprocess.run(command, input=frames, check=True)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self._write(file, "png")
        return file.getvalue()


def film_of_training(picture, frames: list[dict]) -> Film:
    """Draw a frame for each checkpoint: boxes and one object's points, and its steps beside them.

    On the left all detections, and of the followed object the box (black), the reference point
    (cross) and the sampling points, larger and brighter for more weight. On the right the steps
    from the reference point to the same points, a colour and a mark for each head: how a star
    becomes a shape. Scales are the same in all frames.

    picture: PIL image, (3, H, W) tensor or (H, W, 3) array
    frames: for each checkpoint a dict of "step", "AP" (or None), "boxes" (n, 4) xyxy in pixels and
        "texts" (n,) of all detections, and of the followed object "box" (4,), "reference" (2 or 4,)
        (x, y) or (cx, cy, w, h), "locations" (M, L, P, 2), both fractions, and "weights" (M, L, P)
    Returns: the film.
    Raises: ValueError if there is no frame.
    """
    if not frames:
        raise ValueError("there is no frame to draw; a film needs one checkpoint or more")
    pixels = as_picture(picture)
    scale = np.array([pixels.shape[1], pixels.shape[0]])
    steps = [
        (as_array(f["locations"]) - as_array(f["reference"])[:2]) * scale for f in frames
    ]  # (M, L, P, 2), in pixels of the picture
    reach = 1.15 * max(1.0, np.quantile(np.abs(np.stack(steps)), 0.99))
    largest = max(float(as_array(f["weights"]).max()) for f in frames)
    pictures = []
    for frame, step in zip(frames, steps, strict=True):
        height = 4.4 * scale[1] / scale[0]
        figure = NotebookFigure(8.2, min(max(height, 3.4), 6.0) + 0.7)
        left, right = figure.subplots(1, 2, width_ratios=(4.4, 3.2))
        draw_detections(left, pixels, frame, largest)
        draw_steps(right, step, as_array(frame["weights"]), reach, largest)
        precision = "" if frame["AP"] is None else f": AP {frame['AP']:.3f}"
        figure.suptitle(f"step {frame['step']}{precision}", fontsize=12)
        pictures.append(PIL.Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))
    return Film(pictures)


def draw_detections(axis, pixels: np.ndarray, frame: dict, largest: float) -> None:
    """The left side of a frame."""
    height, width = pixels.shape[:2]
    axis.imshow(0.35 + 0.65 * pixels, extent=(0, width, height, 0), interpolation="nearest")
    for (x1, y1, x2, y2), text in zip(frame["boxes"], frame["texts"], strict=True):
        for colour, line in (("white", 2.6), ("0.25", 1.2)):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=line))
        x, y = min(max(x1, 0), 0.8 * width), max(y1, 0.06 * height)
        axis.text(
            x, y, text, fontsize=7, va="bottom",
            bbox=dict(facecolor="white", edgecolor="none", pad=0.8, alpha=0.8),
        )  # fmt: skip
    x1, y1, x2, y2 = frame["box"]
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="black", lw=2.2))
    weights = as_array(frame["weights"]).reshape(-1)
    places = as_array(frame["locations"]).reshape(-1, 2) * [width, height]
    order = np.argsort(weights)  # heavy points on top
    axis.scatter(
        *places[order].T, s=5 + 60 * weights[order] / largest, c=weights[order], cmap=WEIGHT_MAP,
        vmin=0, vmax=largest, edgecolors="black", linewidths=0.5, zorder=3,
    )  # fmt: skip
    x, y = as_array(frame["reference"])[:2] * [width, height]
    axis.plot(x, y, "+", ms=14, mew=4, color="white", zorder=4)
    axis.plot(x, y, "+", ms=13, mew=1.8, color="black", zorder=5)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.set_title("detections, and where one query looks", fontsize=9)


def draw_steps(axis, steps, weights, reach: float, largest: float) -> None:
    """The right side of a frame. steps (M, L, P, 2) in pixels of the picture; weights (M, L, P)"""
    for m, (places, counts) in enumerate(zip(steps, weights, strict=True)):
        axis.scatter(
            *places.reshape(-1, 2).T, s=8 + 60 * counts.reshape(-1) / largest,
            color=COLOURS[m % len(COLOURS)], marker=MARKS[m % len(MARKS)], edgecolors="black",
            linewidths=0.4, label=f"head {m}", alpha=0.85,
        )  # fmt: skip
    axis.plot(0, 0, "+", color="black", ms=13, mew=1.8)
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    axis.set_xlabel("steps from the reference point, px", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    for handle in axis.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8
    ).legend_handles:
        handle.set_sizes([30])
