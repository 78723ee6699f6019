"""A figure for a page of any colour: what is black on white becomes ink, with nothing behind it.

A notebook does not know whether its page is white or dark. Black text and lines are therefore drawn
in a grey that reads on both, grey ones in less of it, and white is left out. Colours stay as they
are, and so does everything that lies on an image or a colour bar.
"""

import io

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

INK = 121 / 255  # the grey whose contrast to white and to JupyterLab's dark #111111 is 4.3 each
LEAST_CHROMA = 0.12  # a pixel with more is coloured, and not ink at all


def draw_for_page(figure: Figure, scale: int) -> np.ndarray:
    """Draw a figure for a page of any colour. The figure itself does not change.

    Args:
        figure: Black on white; one on another background, as in `viz.dark`, is drawn as it is.
        scale: How many pixels for each one of the figure's own resolution, across and down.

    Returns:
        (H, W, 4) red, green, blue and opacity, 0 to 255.
    """
    on_white = figure.get_facecolor() == (1, 1, 1, 1)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=scale * figure.dpi, transparent=on_white)
    pixels = np.asarray(PIL.Image.open(file).convert("RGBA"))
    if not on_white:
        return pixels
    inked = (255 * to_ink(pixels / np.float32(255))).round().astype(np.uint8)
    for left, top, right, bottom in _image_areas(figure, scale):
        inked[top:bottom, left:right] = pixels[top:bottom, left:right]
    return inked


def to_ink(pixels: np.ndarray) -> np.ndarray:
    """Replace black by ink, grey by less of it, and white by nothing; colours that show stay.

    Args:
        pixels: (H, W, 4) red, green, blue and opacity in [0, 1].

    Returns:
        (H, W, 4).
    """
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    low, high = colour.min(-1, keepdims=True), colour.max(-1, keepdims=True)
    coloured = opacity * ((high - low) / LEAST_CHROMA).clip(0, 1)
    ink = (opacity - coloured) * np.sqrt(1 - low)  # the root, because grey on grey is hard to see
    lifted = colour + INK * (1 - high) ** 2  # nearly black: most are rims that blend with a colour
    covered = coloured + ink
    mixed = (coloured * lifted + ink * INK) / np.maximum(covered, 1e-6)
    return np.concatenate([mixed, covered], axis=-1)


def _image_areas(figure: Figure, scale: int) -> list[np.ndarray]:
    """(left, top, right, bottom) of each image and colour bar, in pixels of the figure as drawn."""
    height = figure.bbox.height
    areas = []
    for axis in figure.axes:
        bar = [axis.bbox] if axis.get_label() == "<colorbar>" else []
        for box in (*bar, *(image.get_window_extent() for image in axis.images)):
            x0, x1 = np.clip(sorted((box.x0, box.x1)), axis.bbox.x0, axis.bbox.x1)
            y0, y1 = np.clip(sorted((box.y0, box.y1)), axis.bbox.y0, axis.bbox.y1)
            corners = scale * np.array([x0, height - y1, x1, height - y0])
            areas.append(corners.round().astype(int))
    return areas
