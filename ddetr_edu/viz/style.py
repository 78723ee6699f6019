"""What all figures share: colours, sizes, and how an image becomes an array."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ddetr_edu.viz.fonts import prepare_text
from ddetr_edu.viz.page_ink import draw_for_page
from ddetr_edu.viz.small_png import small_png

# Okabe and Ito's colours, which colour-blind readers can tell apart, in order of contrast.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
WEIGHT_MAP = "plasma"  # grows brighter all the way, so it reads in greyscale too
LEVEL_MARKS = "os^DvP*X"  # finest level first; shapes tell levels apart where colour tells weights
HEAD_MARKS = "osDhPX*d"  # colours alone look alike in greyscale; none of these points anywhere


def as_array(values) -> np.ndarray:
    """Convert a tensor, list or array to a numpy array.

    Args:
        values: Also a tensor on another device, or one that requires a gradient.

    Returns:
        The array.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


def as_image_array(image) -> np.ndarray:
    """Convert an image to floats (H, W, 3) in [0, 1].

    Args:
        image: PIL image, (3, H, W) tensor, or (H, W, 3) array; bytes or floats in [0, 1].

    Returns:
        (H, W, 3).

    Raises:
        ValueError: For anything else.
    """
    if hasattr(image, "convert"):  # a PIL image: palettes and transparency become colours
        image = image.convert("RGB")
    pixels = as_array(image)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and hasattr(image, "detach"):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(
            f"an image of shape {pixels.shape} cannot be drawn; give a PIL image, a (3, H, W) "
            "tensor or an (H, W, 3) array"
        )
    return pixels / 255.0 if pixels.dtype == np.uint8 else pixels.clip(0, 1)


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows by itself, without pyplot's global state.

    Args:
        width: In inches.
        height: In inches.
    """

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(round(width, 1), round(height, 1)), dpi=80, layout="constrained")

    def draw(self, renderer) -> None:
        """Draw the figure, as Matplotlib does to save or to show it, with texts of any script."""
        prepare_text(self)
        super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """What a notebook shows: sharp on today's screens, and at home on a page of any colour."""
        return small_png(draw_for_page(self, scale=2)), {"width": round(self.bbox.width)}

    def _ipython_display_(self) -> None:
        """Show the figure. IPython asks this first; widgets load another way to show figures."""
        from IPython.display import display

        data, metadata = self._repr_png_()
        bundle = {"image/png": data, "text/plain": repr(self)}
        display(bundle, metadata={"image/png": metadata}, raw=True)


@contextmanager
def dark() -> Iterator[None]:
    """Make figures for a dark page inside a block: `with viz.dark(): ...`"""
    background, text = "#16181d", "#e6e6e6"
    with rc_context(
        {
            **dict.fromkeys(
                ("figure.facecolor", "axes.facecolor", "savefig.facecolor"), background
            ),
            **dict.fromkeys(
                (
                    "text.color",
                    "axes.labelcolor",
                    "axes.edgecolor",
                    "axes.titlecolor",
                    "xtick.color",
                    "ytick.color",
                ),
                text,
            ),
        }
    ):
        yield


def text_colour() -> str:
    """The colour of text and of lines on the page: black, or that of `dark`."""
    return rcParams["text.color"]


def faded(pixels: np.ndarray) -> np.ndarray:
    """Make an image paler and greyer, so that marks of any colour stand out from it.

    Args:
        pixels: (H, W, 3) in [0, 1].

    Returns:
        (H, W, 3) in [0, 1].
    """
    grey = pixels.mean(axis=-1, keepdims=True)
    return 0.35 + 0.65 * (0.6 * pixels + 0.4 * grey)


def in_pixels(boxes, image: np.ndarray) -> np.ndarray:
    """Convert points or boxes from fractions of an image to its pixels.

    Args:
        boxes: Points (..., 2) (x, y) or boxes (..., 4) (cx, cy, w, h), in [0, 1].
        image: (H, W, 3).

    Returns:
        (..., 2) (x, y), or (..., 4) (x1, y1, x2, y2), in pixels.
    """
    boxes = as_array(boxes)
    size = np.array(image.shape[1::-1])  # (W, H)
    centre = boxes[..., :2] * size
    if boxes.shape[-1] == 2:
        return centre
    half = boxes[..., 2:] * size / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def show_image(axis: Axes, pixels: np.ndarray, **kwargs) -> None:
    """Show an image in a panel, in its own pixels, with (0, 0) at its corner and a thin frame.

    Args:
        axis: The panel.
        pixels: (H, W, 3) in [0, 1].
        kwargs: Further arguments of `Axes.imshow`.
    """
    height, width = pixels.shape[:2]
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", **kwargs)
    axis.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color="0.5", lw=0.8)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)


def draw_box(
    axis: Axes, box: np.ndarray, colour: str = "black", lw: float = 1.6, ls: Any = "-"
) -> None:
    """Draw a box, or a point as a cross, with a rim that shows on any image.

    Args:
        axis: The panel.
        box: (4,) (x1, y1, x2, y2) or (2,) (x, y), in pixels.
        colour: Of the line.
        lw: Its width, in points.
        ls: Its style, as matplotlib takes it.
    """
    rim = [withStroke(linewidth=lw + 1.8, foreground="black" if colour == "white" else "white")]
    style: dict[str, Any] = dict(color=colour, path_effects=rim, solid_joinstyle="miter", zorder=4)
    if len(box) == 2:
        axis.plot(*box, "+", ms=13, mew=lw, **style)
        return
    x1, y1, x2, y2 = box
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], lw=lw, ls=ls, **style)


def draw_points(
    axis: Axes,
    points: np.ndarray,
    weights: np.ndarray,
    largest: float,
    sizes: tuple[float, float] = (8, 60),
    **kwargs,
) -> PathCollection:
    """Draw sampling points, the larger and the brighter the more they count, heavy ones on top.

    Args:
        axis: The panel.
        points: (n, 2) (x, y), in pixels.
        weights: (n,).
        largest: The weight that is drawn largest and brightest.
        sizes: The area of a dot without weight, and what the largest weight adds, in points².
        kwargs: Further arguments of `Axes.scatter`.

    Returns:
        The dots, from which a colour bar can be made.
    """
    order = np.argsort(weights, kind="stable")
    return axis.scatter(
        points[order, 0],
        points[order, 1],
        s=sizes[0] + sizes[1] * weights[order] / largest,
        c=weights[order],
        cmap=WEIGHT_MAP,
        vmin=0,
        vmax=largest,
        edgecolors="black",
        linewidths=0.5,
        zorder=3,
        **kwargs,
    )


def draw_cross(axis: Axes, point: np.ndarray, size: float = 15) -> None:
    """Draw a reference point as a black cross with a white rim, above all points.

    Args:
        axis: The panel.
        point: (x, y), in pixels.
        size: Of the cross, in points.
    """
    axis.plot(*point, marker="+", ms=size + 1, mew=4, color="white", zorder=4)
    axis.plot(*point, marker="+", ms=size, mew=1.8, color="black", zorder=5)


def corners_of(boxes: list[np.ndarray | None]) -> list[np.ndarray]:
    """Collect the corners of boxes.

    Args:
        boxes: Boxes (4,) (x1, y1, x2, y2), points (2,) (x, y), and None, which is skipped.

    Returns:
        Two opposite corners (x, y) of each box, and each point as it is.
    """
    return [corner for box in boxes if box is not None for corner in box.reshape(-1, 2)]


def frame_around(points: list[np.ndarray], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose the part of an image to show: around some points, a quarter of its long side or more.

    It ends a tenth of the image beyond its border, however far outside the points lie.

    Args:
        points: (x, y) in pixels each.
        image: (H, W, 3).

    Returns:
        The upper left and the lower right corner, (x, y) each.
    """
    size = np.array(image.shape[1::-1])  # (W, H)
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    margin = 0.06 * (high - low).max()
    low, high = low - margin, high + margin
    grow = np.maximum(size.max() / 4 - (high - low), 0) / 2
    # What is added only to reach the least size stays inside the image.
    low = np.maximum(low - grow, np.minimum(low, 0))
    high = np.minimum(high + grow, np.maximum(high, size))
    return np.maximum(low, -0.1 * size), np.minimum(high, 1.1 * size)


def panel_grid(
    count: int,
    aspect: float,
    width: float = 3.0,
    columns: int = 4,
    title_height: float = 0.3,
    colour_bar: float = 1.0,
    margin: float = 0.8,
) -> tuple[NotebookFigure, list[Axes]]:
    """Make a figure of equal panels, in rows. All sizes are in inches.

    Args:
        count: The number of panels.
        aspect: The height of a panel over its width.
        width: Of a panel.
        columns: At most so many panels in a row.
        title_height: What the title of a panel takes.
        colour_bar: What a colour bar takes on the right.
        margin: What title and legend take above and below.

    Returns:
        The figure and its panels, in order.
    """
    rows = -(-count // columns)
    columns = -(-count // rows)  # six panels make two rows of three, not four and two
    figure = NotebookFigure(
        width * columns + colour_bar, rows * (width * aspect + title_height) + margin
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]
