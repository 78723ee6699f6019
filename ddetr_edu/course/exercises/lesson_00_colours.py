"""Lesson 00: an attention that reads colours, so that each of its five steps can be seen."""

from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn, encoder_reference_points
from ddetr_edu.attention.capture import capture
from ddetr_edu.attention.interpolation import bilinear_sample


class ColourSteps(NamedTuple):
    """What the five steps gave for one query; the arguments of `viz.plot_five_steps`."""

    value: Tensor  # (H, W, 3), the map that is read: red, green, blue
    reference_point: Tensor  # (2,), (x, y) as fractions of the map
    offsets: Tensor  # (M, P, 2), in pixels of the map
    weights: Tensor  # (M, P)
    locations: Tensor  # (M, P, 2), as fractions of the map
    samples: Tensor  # (M, P, 3)
    output: Tensor  # (M, 3)


@torch.no_grad()
def attend_to_colours(
    image: PIL.Image.Image, shape: tuple[int, int], row: int, column: int, seed: int
) -> ColourSteps:
    """Let one pixel of a reduced image attend to the others, with 2 heads of 2 points.

    A token is the colour of its pixel, once for each head, and the two projections change nothing:
    what is read, and what comes out, are colours. The layers that make offsets and weights have
    random parameters.

    Args:
        image: A PIL image in RGB.
        shape: (H, W) that it is reduced to.
        row: Of the pixel that is the query.
        column: Likewise.
        seed: Of the random parameters.

    Returns:
        What each step gave.
    """
    height, width = shape
    small = np.asarray(image.resize((width, height), PIL.Image.Resampling.BOX))
    value = torch.from_numpy(small / np.float32(255))  # (H, W, 3)
    tokens = value.flatten(0, 1).repeat(1, 2)[None]  # (1, S, C), C = 2 heads of 3 channels
    attention = MSDeformAttn(d_model=6, n_heads=2, n_levels=1, n_points=2, backend="naive")
    for projection in (attention.value_proj, attention.output_proj):
        nn.init.eye_(projection.weight)
    generator = torch.Generator().manual_seed(seed)
    for layer in (attention.sampling_offsets, attention.attention_weights):
        nn.init.normal_(layer.weight, generator=generator)

    token = row * width + column
    reference = encoder_reference_points([shape], torch.ones(1, 1, 2))[:, token : token + 1]
    with capture(attention) as records:
        output = attention(tokens[:, token : token + 1], reference, tokens, [shape])
    (record,) = records
    locations = record.locations[0, 0, :, 0]  # (M, P, 2)
    samples = [[bilinear_sample(value, *location) for location in head] for head in locations]
    return ColourSteps(
        value,
        reference[0, 0, 0],
        record.offsets[0, 0, :, 0],
        record.weights[0, 0, :, 0],
        locations,
        torch.stack([torch.stack(head) for head in samples]),
        output[0, 0].view(2, 3),
    )
