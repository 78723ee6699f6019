"""A PNG of 256 colours, chosen so that the eye sees no difference: a third of the usual size."""

import io

import numpy as np
import PIL.Image

ROUNDS = 8  # of k-means; more do not bring the colours visibly closer


def small_png(pixels: np.ndarray) -> bytes:
    """Write pixels as a PNG with a palette, chosen by k-means among their colours.

    Args:
        pixels: (H, W, 4) red, green, blue and opacity, 0 to 255.

    Returns:
        The file. The same pixels always give the same file.
    """
    from scipy.spatial import cKDTree  # slow to import, and only notebooks need it

    packed = np.ascontiguousarray(pixels).view(np.uint32).ravel()
    packed, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    share = counts**0.75  # so that small things get colours of their own, too
    colours = _premultiplied(packed)
    palette = colours[_frequent_kinds(packed, share)]
    for _ in range(ROUNDS):
        nearest = cKDTree(palette).query(colours)[1]
        total = np.bincount(nearest, share, len(palette))
        sums = [np.bincount(nearest, share * channel, len(palette)) for channel in colours.T]
        used = total > 0
        palette[used] = (np.stack(sums, axis=-1)[used].T / total[used]).T
    palette[palette[:, 3] < 2] = 0  # what is next to transparent must not veil the whole page
    nearest = cKDTree(palette).query(colours)[1]
    palette[:, :3] *= 255 / np.maximum(palette[:, 3:], 1)
    small = PIL.Image.fromarray(nearest[index].astype(np.uint8).reshape(pixels.shape[:2]))
    small.putpalette(palette.round().clip(0, 255).astype(np.uint8).tobytes(), "RGBA")
    file = io.BytesIO()
    small.save(file, "png", optimize=True)
    return file.getvalue()


def _frequent_kinds(packed: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The indices of at most 256 colours (n,): one of each kind, of the most frequent kinds.

    Two colours are of one kind if the upper four bits of each channel agree.
    """
    kinds, first, kind = np.unique(packed & 0xF0F0F0F0, return_index=True, return_inverse=True)
    total = np.bincount(kind, share, len(kinds))
    return first[np.argsort(-total, kind="stable")[:256]]


def _premultiplied(packed: np.ndarray) -> np.ndarray:
    """(n,) packed colours -> (n, 4), where red, green and blue count as much as they show."""
    colours = packed.view(np.uint8).reshape(-1, 4).astype(np.float64)
    colours[:, :3] *= colours[:, 3:] / 255
    return colours
