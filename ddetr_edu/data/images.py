"""Converting images of any mode to RGB."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB.

    Grey values of more than 8 bits are scaled to 8; Pillow alone would clip them.

    Args:
        image: An image in any mode that Pillow knows.

    Returns:
        An image of the same size in mode RGB.
    """
    if image.mode[0] in "IF":
        image = Image.fromarray(_to_8_bits(np.asarray(image), image.mode))
    elif image.mode == "La":
        image = image.convert("LA")  # Pillow converts it to nothing else
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise Pillow warns, for each image
    return image.convert("RGB")


def _to_8_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    """Grey values as uint8. The range of modes I and F is not known: the values have to tell."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0, neginf=0).clip(0)
    brightest = values.max(initial=0)
    ranges = (
        (65535,) if mode.startswith("I;16") else (1, 255, 65535) if mode == "F" else (255, 65535)
    )
    white = next((end for end in ranges if brightest <= end), brightest)
    return (values * 255 / white).astype(np.uint8)
