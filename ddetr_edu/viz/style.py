"""What all pictures of the course share: colours, size, and how a picture becomes an array."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

# Okabe and Ito's colours, which colour-blind readers can tell apart, in order of contrast.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
WEIGHT_MAP = "plasma"  # grows brighter all the way, so it reads in greyscale too
LEVEL_MARKS = "os^DvP*X"  # finest level first; shapes tell levels apart where colour tells weights


def as_array(values) -> np.ndarray:
    """A tensor, list or array as a numpy array, wherever it lives and whatever needs its grad."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


def as_picture(picture) -> np.ndarray:
    """A picture as floats (H, W, 3) in [0, 1].

    picture: PIL image, (3, H, W) tensor, or (H, W, 3) array; bytes or floats in [0, 1]
    Raises: ValueError for anything else.
    """
    if hasattr(picture, "convert"):  # a PIL image: palettes and transparency become colours
        picture = picture.convert("RGB")
    pixels = as_array(picture)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and hasattr(picture, "detach"):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(
            f"a picture of shape {pixels.shape} cannot be drawn; give a PIL image, a (3, H, W) "
            "tensor or an (H, W, 3) array"
        )
    return pixels / 255.0 if pixels.dtype == np.uint8 else pixels.clip(0, 1)


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows as it stands, without pyplot's global state."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(round(width, 1), round(height, 1)), dpi=80, layout="constrained")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


@contextmanager
def dark() -> Iterator[None]:
    """Inside this block, figures are made for a dark page: `with viz.dark(): ...`"""
    paper, ink = "#16181d", "#e6e6e6"
    with rc_context({
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor",
                         "xtick.color", "ytick.color"), ink),
    }):  # fmt: skip
        yield


def ink() -> str:
    """The colour of text and lines beside a picture: black, or what `dark` makes of it."""
    return rcParams["text.color"]


def faded(pixels: np.ndarray) -> np.ndarray:
    """A picture paler and greyer, so that marks of any colour stand out from it."""
    grey = pixels.mean(axis=-1, keepdims=True)
    return 0.35 + 0.65 * (0.6 * pixels + 0.4 * grey)


def in_pixels(boxes, picture: np.ndarray) -> np.ndarray:
    """Points (..., 2) (x, y) or boxes (..., 4) (cx, cy, w, h), in [0, 1], in pixels of a picture.

    Returns: (..., 2) (x, y), or (..., 4) (x1, y1, x2, y2)
    """
    boxes = as_array(boxes)
    size = np.array(picture.shape[1::-1])  # (W, H)
    centre = boxes[..., :2] * size
    if boxes.shape[-1] == 2:
        return centre
    half = boxes[..., 2:] * size / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def show_picture(axis: Axes, pixels: np.ndarray, **how) -> None:
    """Put a picture into a panel, in its own pixels, (0, 0) at its corner, with a thin frame."""
    height, width = pixels.shape[:2]
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", **how)
    axis.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color="0.5", lw=0.8)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)


def draw_box(axis: Axes, box: np.ndarray, colour: str = "black", lw: float = 1.6, ls="-") -> None:
    """Draw (x1, y1, x2, y2), or a cross at (x, y), with a rim that shows on any picture."""
    rim = [withStroke(linewidth=lw + 1.8, foreground="black" if colour == "white" else "white")]
    style = dict(color=colour, path_effects=rim, solid_joinstyle="miter", zorder=4)
    if len(box) == 2:
        axis.plot(*box, "+", ms=13, mew=lw, **style)
        return
    x1, y1, x2, y2 = box
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], lw=lw, ls=ls, **style)


def corners_of(boxes: list[np.ndarray | None]) -> list[np.ndarray]:
    """The corners (x, y) of boxes (x1, y1, x2, y2), and points (x, y) as they are."""
    return [corner for box in boxes if box is not None for corner in box.reshape(-1, 2)]


def frame_around(points: list[np.ndarray], picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of a picture worth showing: around the points, at least a quarter of its long side.

    It ends a tenth of the picture beyond its border, however far outside the points lie.

    points: of (x, y) in pixels;  picture: (H, W, 3)
    Returns: the upper left and the lower right corner, (x, y) each.
    """
    size = np.array(picture.shape[1::-1])  # (W, H)
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    margin = 0.06 * (high - low).max()
    low, high = low - margin, high + margin
    grow = np.maximum(size.max() / 4 - (high - low), 0) / 2
    # What is grown for the sake of size alone stays inside the picture.
    low = np.maximum(low - grow, np.minimum(low, 0))
    high = np.minimum(high + grow, np.maximum(high, size))
    return np.maximum(low, -0.1 * size), np.minimum(high, 1.1 * size)


def row_of_panels(
    count: int,
    aspect: float,
    width: float = 3.0,
    columns: int = 4,
    header: float = 0.3,
    beside: float = 1.0,
    around: float = 0.8,
) -> tuple[NotebookFigure, list[Axes]]:
    """A figure of equal panels, in rows, and room for what else there is. All sizes in inches.

    aspect: height of a panel over its width;  header: of each panel's title
    beside: what a colour bar takes at the right;  around: title and legend, above and below
    Returns: the figure and its panels, in order.
    """
    rows = -(-count // columns)
    columns = -(-count // rows)  # six panels make two rows of three, not four and two
    figure = NotebookFigure(width * columns + beside, rows * (width * aspect + header) + around)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]
