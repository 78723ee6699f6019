"""Lesson 00: five attentions, some of which have a fault in one of the five steps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_edu.attention import AttentionRecord, aggregate
from ddetr_edu.attention.locations import sampling_locations
from ddetr_edu.course.choice import Choice

D = 32  # channels of a head
NUDGE = 0.1  # pixels by which all points are moved, to see whether the output follows

WORDS = {
    "offsets": "each point gets an offset from the reference point",
    "weights": "each point gets an attention weight",
    "locations": "offsets become locations in the image",
    "interpolation": "the feature maps are read at the locations, between pixels too",
    "aggregation": "what was read is multiplied by the weights and summed for each head",
    "nothing": "all five steps are right",
}
broken_steps = Choice(
    "broken_steps",
    {"A": "weights", "B": "interpolation", "C": "nothing", "D": "locations", "E": "offsets"},
    WORDS,
    {
        ("A", "offsets"): "its points are spread out, and exactly as in two other panels",
        ("A", "locations"): "its points are where those of most other attentions are",
        ("A", "interpolation"): "its output follows when the points move",
        ("A", "aggregation"): "its output has as many numbers as that of the others",
        ("A", "nothing"): "compare the colours of its dots with those of the other panels",
        ("B", "offsets"): "its points are spread out, and exactly as in two other panels",
        ("B", "weights"): "its dots have the colours that most others have",
        ("B", "locations"): "its points are where those of most other attentions are",
        ("B", "aggregation"): "its output has as many numbers as that of the others",
        ("B", "nothing"): "one column of the table is different from that of all others",
        ("C", "offsets"): "its points are spread out, and exactly as in two other panels",
        ("C", "weights"): "its dots have the colours that most others have",
        ("C", "locations"): "its points are where those of most other attentions are",
        ("C", "interpolation"): "its output follows when the points move",
        ("C", "aggregation"): "its output has as many numbers as that of the others",
        ("D", "offsets"): "its points are as far from the cross as those of the others, on average",
        ("D", "weights"): "its dots have the colours that most others have",
        ("D", "interpolation"): "its output follows when the points move",
        ("D", "aggregation"): "its output has as many numbers as that of the others",
        ("D", "nothing"): "compare where its points are with the other panels",
        ("E", "weights"): "there may be many dots on top of each other, and their weights differ",
        ("E", "locations"): "a wrong conversion would still leave points apart that were apart",
        ("E", "interpolation"): "its output follows when the points move",
        ("E", "aggregation"): "its output has as many numbers as that of the others",
        ("E", "nothing"): "count the dots that can be seen in its panel",
    },
)


class FiveSteps:
    """The attention of one query, from its recorded offsets and weights, with or without a fault.

    Args:
        record: One attention, recorded.
        query: The query.
        name: Which of the attentions of `broken_steps`.

    Attributes:
        locations: (M, L, P, 2), fractions of the image.
        weights: (M, L, P).
    """

    def __init__(self, record: AttentionRecord, query: int, name: str):
        self.fault, self.shapes = broken_steps.solution[name], record.spatial_shapes
        one = slice(query, query + 1)
        self.reference = record.reference_points[:, one]  # (1, 1, L, 2 or 4)
        self.offsets, weights = record.offsets[:, one], record.weights[:, one]
        if self.fault == "offsets":
            self.offsets = torch.zeros_like(self.offsets)
        if self.fault == "locations":
            self.offsets = self.offsets.flip(-1)  # (dy, dx) taken for (dx, dy)
        if self.fault == "weights":
            weights = torch.full_like(weights, 1 / weights[0, 0, 0].numel())
        locations = sampling_locations(self.reference, self.offsets, self.shapes)
        self.locations, self.weights = locations[0, 0], weights[0, 0]

    def output(self, nudge: float = 0.0) -> Tensor:
        """Read random feature maps, and sum.

        Args:
            nudge: Pixels of the level by which all points are moved to the right.

        Returns:
            (M*D,)
        """
        generator = torch.Generator().manual_seed(0)
        samples = []
        for level, (height, width) in enumerate(self.shapes):
            maps = torch.randn(self.weights.shape[0], D, height, width, generator=generator)
            moved = self.locations[:, None, level] + torch.tensor([nudge / width, 0.0])
            mode = "nearest" if self.fault == "interpolation" else "bilinear"
            read = F.grid_sample(maps, 2 * moved - 1, mode=mode, align_corners=False)
            samples.append(read[:, :, 0].transpose(1, 2))  # (M, D, 1, P) -> (M, P, D)
        stacked = torch.stack(samples, dim=1)  # (M, L, P, D)
        return aggregate(stacked[None, None], self.weights[None, None])[0, 0]

    def symptoms(self) -> dict[str, float]:
        """What can be measured from outside.

        Returns:
            {what was measured: the number}.
        """
        centre = self.reference[0, 0, :, None, :2]
        output = self.output()
        return {
            "mean distance of a point from the cross": (self.locations - centre)
            .norm(dim=-1)
            .mean()
            .item(),
            "highest weight": self.weights.max().item(),
            "sum of a head's weights": self.weights[0].sum().item(),
            "numbers in the output": output.numel(),
            "change of the output when points move by 0.1 pixels": (output - self.output(NUDGE))
            .abs()
            .max()
            .item(),
        }
