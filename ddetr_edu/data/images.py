"""Converting images of any mode to RGB."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB.

    16-bit grey values are scaled to 8 bits; Pillow alone would clip them.

    Args:
        image: An image in any mode that Pillow knows.

    Returns:
        An image of the same size in mode RGB.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
