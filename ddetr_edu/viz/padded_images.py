"""Images in the frame of their batch, with the padding hatched, and points and boxes over them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, as_image_array, draw_box, faded

WIDTH = 9.6  # of the figure, in inches
MARKS = "o^sD"
COLOUR_ORDER = (0, 4, 2, 3)  # of COLOURS; the first two differ most


def plot_padded_images(
    images: dict,
    padded_size: tuple[int, int],
    points: dict | None = None,
    boxes: dict | None = None,
    columns: int = 2,
) -> tuple[NotebookFigure, dict[str, list[np.ndarray]]]:
    """Draw images where they lie in their batch, with the padding hatched.

    Convention: points are (x, y), fractions of the padded image, x to the right and y down.

    Args:
        images: The title of each panel -> its image: PIL image, (3, H, W) tensor or (H, W, 3) array
            of the size that it has in the batch.
        padded_size: (H, W) of the batch.
        points: The name of a set -> for each panel its points, (k, 2).
        boxes: The name of a set -> for each panel a box (4,) (x1, y1, x2, y2) in pixels; None where
            there is none.
        columns: At most so many panels in a row.

    Returns:
        The figure, and for each set of points what was drawn in each panel, (k, 2), in pixels.

    Raises:
        ValueError: For an image that is larger than the batch, or a set with another number of
            panels.
    """
    points, boxes = points or {}, boxes or {}
    for name, of_panels in {**points, **boxes}.items():
        if len(of_panels) != len(images):
            raise ValueError(
                f'"{name}" has an entry for {len(of_panels)} panels, but there are {len(images)}'
            )
    height, width = padded_size
    drawn = {
        name: [as_array(of_panel).reshape(-1, 2) * (width, height) for of_panel in of_panels]
        for name, of_panels in points.items()
    }
    rows = -(-len(images) // columns)
    panel_height = (WIDTH / columns - 0.45) * height / width  # the left takes numbers and a gap
    figure = NotebookFigure(WIDTH, rows * (panel_height + 0.6) + 0.35)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[len(images) :]:
        empty.remove()
    for k, (title, image) in enumerate(images.items()):
        _draw_frame(panels[k], as_image_array(image), padded_size)
        panels[k].set_title(title, fontsize=10)
        for index, of_panels in enumerate(drawn.values()):
            panels[k].plot(*of_panels[k].T, lw=0, **_point_style(index))
        for index, of_panels in enumerate(boxes.values()):
            if of_panels[k] is not None:
                draw_box(panels[k], as_array(of_panels[k]), *_box_style(index))
    figure.legend(
        handles=[
            *(Line2D([], [], lw=0, label=name, **_point_style(k)) for k, name in enumerate(points)),
            *(_line(name, *_box_style(k)) for k, name in enumerate(boxes)),
        ],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=10,
    )
    return figure, drawn


def _point_style(index: int) -> dict[str, Any]:
    colour = COLOURS[COLOUR_ORDER[index % len(COLOUR_ORDER)]]
    return dict(
        marker=MARKS[index % len(MARKS)], color=colour, mec="white", mew=0.6, ms=5, zorder=5
    )


def _box_style(index: int) -> tuple[str, float, str]:
    """The colour, width and style of the line."""
    return COLOURS[(2, 3)[index % 2]], 1.8, ("--", "-")[index % 2]


def _line(name: str, colour: str, lw: float, ls: str) -> Line2D:
    return Line2D([], [], label=name, color=colour, lw=lw, ls=ls)


def _draw_frame(axis: Axes, pixels: np.ndarray, padded_size: tuple[int, int]) -> None:
    """Draw an image in the top left corner of the batch, and hatch the rest."""
    (height, width), (image_height, image_width) = padded_size, pixels.shape[:2]
    if image_height > height or image_width > width:
        raise ValueError(
            f"an image of {image_height} x {image_width} px does not fit into a batch of "
            f"{height} x {width} px"
        )
    hatched: dict[str, Any] = dict(facecolor="none", edgecolor="0.5", hatch="///", lw=0)
    axis.add_patch(Rectangle((image_width, 0), width - image_width, height, **hatched))
    axis.add_patch(Rectangle((0, image_height), image_width, height - image_height, **hatched))
    axis.imshow(
        faded(pixels), extent=(0, image_width, image_height, 0), interpolation="nearest", zorder=1
    )
    axis.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="0.5", lw=1.2))
    margin = 0.02 * width
    axis.set(
        xlim=(-margin, width + margin),
        ylim=(height + margin, -margin),
        xticks=(0, image_width, width) if image_width < width else (0, width),
        yticks=(0, image_height, height) if image_height < height else (0, height),
        aspect="equal",
    )
    axis.spines[:].set_visible(False)
