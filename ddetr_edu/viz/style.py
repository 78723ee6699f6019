"""What all pictures of the course share: colours, size, and how a picture becomes an array."""

import io

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart, in order of contrast.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
WEIGHT_MAP = "plasma"  # grows brighter all the way, so it reads in greyscale too


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
