"""Lesson 00: eight programs that take the five steps, most of them with a fault in one step."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_edu.attention import MSDeformAttn, aggregate
from ddetr_edu.attention.attention_weights import attention_weights
from ddetr_edu.attention.capture import choose_attentions
from ddetr_edu.attention.locations import SpatialShapes, sampling_locations
from ddetr_edu.course.choice import Choice
from ddetr_edu.detector import Detector
from ddetr_edu.models.preprocessing import ImageInput

WORDS = {
    "offsets": "the query becomes offsets, in pixels of each level",
    "weights": "the query becomes attention weights",
    "locations": "reference point and offsets become locations",
    "interpolation": "the maps are read at the locations",
    "aggregation": "what was read is weighted and summed",
    "several": "more than one of the steps is broken",
    "nothing": "all five steps are right",
}
SOLUTION = {
    "A": "weights",
    "B": "interpolation",
    "C": "nothing",
    "D": "locations",
    "E": "offsets",
    "F": "aggregation",
    "G": "locations",
    "H": "nothing",
}
# What speaks against a word: an experiment in which the step does what it should.
IN_ORDER = {
    "offsets": "two queries get different offsets, and each point of a query its own",
    "weights": "over all points of a head, its numbers add up to 1",
    "locations": "a step of one pixel, right or down, arrives as one pixel on each level",
    "interpolation": "a small movement changes what it reads a little, and the middle of a pixel "
    "gives that pixel",
    "aggregation": "what head 0 has read fills the first D of its outputs, and no others",
    "several": "try the five steps one by one, each with inputs that you know to be right",
}
BROKEN = "one of its steps fails an experiment; try those that you have not tried alone"


def _against() -> dict[tuple[str, str], str]:
    """What speaks against each wrong word."""
    pairs = {(name, word): text for name in SOLUTION for word, text in IN_ORDER.items()}
    pairs |= {(name, "nothing"): BROKEN for name in SOLUTION}
    return {(name, word): text for (name, word), text in pairs.items() if SOLUTION[name] != word}


broken_steps = Choice("broken_steps", SOLUTION, WORDS, _against())


class FiveSteps:
    """The five steps of one query, one method each, with or without a fault.

    Args:
        attention: The layers that make offsets and weights.
        spatial_shapes: [(H, W), ...] of each level.
        name: Which of the programs of `broken_steps`.
    """

    def __init__(self, attention: MSDeformAttn, spatial_shapes: SpatialShapes, name: str):
        self._attention, self._shapes, self._name = attention, spatial_shapes, name
        self._per_point = (attention.n_heads, attention.n_levels, attention.n_points)

    @torch.no_grad()
    def offsets(self, query: Tensor) -> Tensor:
        """(C,) -> (M, L, P, 2), (x, y) in pixels of the level"""
        used = torch.zeros_like(query) if self._name == "E" else query
        return self._attention.sampling_offsets(used).view(*self._per_point, 2)

    @torch.no_grad()
    def weights(self, query: Tensor) -> Tensor:
        """(C,) -> (M, L, P)"""
        scores = self._attention.attention_weights(query).view(self._per_point)
        return scores.softmax(-1) if self._name == "A" else attention_weights(scores)

    def locations(self, reference: Tensor, offsets: Tensor) -> Tensor:
        """(2,) and (M, L, P, 2) -> (M, L, P, 2), (x, y) as fractions of the image"""
        shapes = self._shapes
        if self._name == "D":
            shapes = [(width, height) for height, width in shapes]
        if self._name == "G":
            shapes = shapes[:1] * len(shapes)
        everywhere = reference.expand(1, 1, len(shapes), 2)
        return sampling_locations(everywhere, offsets[None, None], shapes)[0, 0]

    def interpolation(self, maps: list[Tensor], locations: Tensor) -> Tensor:
        """L maps (M, D, H, W) and (M, L, P, 2) -> (M, L, P, D)"""
        mode = "nearest" if self._name == "B" else "bilinear"
        samples = [
            F.grid_sample(of_level, 2 * locations[:, None, level] - 1, mode, align_corners=False)
            for level, of_level in enumerate(maps)
        ]  # L x (M, D, 1, P)
        return torch.stack([read[:, :, 0].transpose(1, 2) for read in samples], dim=1)

    def aggregation(self, samples: Tensor, weights: Tensor) -> Tensor:
        """(M, L, P, D) and (M, L, P) -> (M*D,)"""
        output = aggregate(samples[None, None], weights[None, None])[0, 0]
        if self._name == "F":
            return output.view(len(samples), -1).T.flatten()  # channel by channel
        return output


class GivenToAttention(NamedTuple):
    """What one attention is given for one query."""

    attention: MSDeformAttn
    query: Tensor  # (C,)
    reference: Tensor  # (2,), (x, y) as fractions of the image
    maps: list[Tensor]  # L x (M, D, H, W), the values of each level

    @property
    def spatial_shapes(self) -> SpatialShapes:
        """[(H, W), ...] of each level."""
        return [(of_level.shape[2], of_level.shape[3]) for of_level in self.maps]


@torch.no_grad()
def encoder_query(detector: Detector, image: ImageInput, x: float, y: float) -> GivenToAttention:
    """Record what the encoder's first attention is given for one token of the finest level.

    Args:
        detector: The detector, whose model is a Deformable DETR.
        image: Anything that `load_image` takes.
        x: The token is the one whose pixel covers (x, y), as fractions of the image.
        y: Likewise.

    Returns:
        The attention and its input.
    """
    (_, attention), *_ = choose_attentions(detector.model, "encoder*")
    received: list[tuple] = []
    hook = attention.register_forward_pre_hook(lambda _, given: received.append(given))
    try:
        detector.predict(image)
    finally:
        hook.remove()
    ((queries, references, value, spatial_shapes, _),) = received
    height, width = spatial_shapes[0]
    token = int(y * height) * width + int(x * width)
    value = attention.value_proj(value[0]).unflatten(-1, (attention.n_heads, -1))  # (S, M, D)
    of_levels = value.split([rows * columns for rows, columns in spatial_shapes])
    maps = [
        of_level.permute(1, 2, 0).unflatten(-1, shape)
        for of_level, shape in zip(of_levels, spatial_shapes, strict=True)
    ]
    return GivenToAttention(attention, queries[0, token], references[0, token, 0], maps)
