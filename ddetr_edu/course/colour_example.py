"""An attention whose values are colours, so that each of its tensors can be looked at."""

from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from ddetr_edu.attention import bilinear_sample, initial_offsets, ms_deform_attn, sampling_locations
from ddetr_edu.data.scenes import draw_scene

SCENES = (2, 5)  # of `draw_scene(0, ...)`, each with three objects that are large enough
SHAPES = [(18, 14), (9, 7)]  # (H, W) of each level
HEADS, QUERIES, POINTS = 2, 3, 4


class ColourExample(NamedTuple):
    """The tensors of one attention, in the order in which they arise."""

    value: Tensor  # (N, S, M, 3), the three channels are red, green and blue
    spatial_shapes: list[tuple[int, int]]
    locations: Tensor  # (N, Lq, M, L, P, 2)
    weights: Tensor  # (N, Lq, M, L, P)
    samples: Tensor  # (N, Lq, M, L, P, 3)
    output: Tensor  # (N, Lq, M*3)


def colour_example() -> ColourExample:
    """Two drawn scenes, on which each query samples around one object.

    The tokens are the pixels of the reduced scenes. Head 0 has their colours as its values, and
    head 1 the inverted colours, which is a linear projection, too. The offsets are half the initial
    ones, so one head samples to the right of the centre and the other to the left.

    Returns:
        All tensors of the example.
    """
    values, centres = [], []
    for index in SCENES:
        scene = draw_scene(0, index)
        reduced = [scene.image.resize((w, h), Resampling.BOX) for h, w in SHAPES]
        tokens = np.concatenate([np.asarray(image).reshape(-1, 3) / 255 for image in reduced])
        values.append(np.stack([tokens, 1 - tokens], axis=1))  # (S, M, 3)
        x1, y1, x2, y2 = scene.boxes.T.astype(float)
        largest = np.argsort(-(x2 - x1) * (y2 - y1))[:QUERIES]
        centre = np.stack([x1 + x2, y1 + y2], axis=1) / 2 / scene.image.size
        centres.append(centre[largest])
    value = torch.tensor(np.stack(values))
    per_point = (len(SCENES), QUERIES, HEADS, len(SHAPES), POINTS)
    reference = torch.tensor(np.stack(centres))[:, :, None].expand(-1, -1, len(SHAPES), -1)
    offsets = initial_offsets(HEADS, len(SHAPES), POINTS).double() / 2
    locations = sampling_locations(reference, offsets.expand(*per_point, 2), SHAPES)
    weights = torch.full(per_point, 1 / (len(SHAPES) * POINTS), dtype=torch.float64)
    samples = torch.zeros(*per_point, 3, dtype=torch.float64)
    for n, q, m, level, p in np.ndindex(*per_point):
        start, (height, width) = sum(h * w for h, w in SHAPES[:level]), SHAPES[level]
        feature_map = value[n, start : start + height * width, m].view(height, width, 3)
        samples[n, q, m, level, p] = bilinear_sample(feature_map, *locations[n, q, m, level, p])
    output = ms_deform_attn(value, SHAPES, locations, weights, backend="grid_sample")
    return ColourExample(value, SHAPES, locations, weights, samples, output)
