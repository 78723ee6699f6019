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
    "reference": "none of the steps: the cross itself is in the wrong position",
    "nothing": "all five steps are right, and the cross, too",
}
broken_steps = Choice(
    "broken_steps",
    {
        "A": "weights",
        "B": "interpolation",
        "C": "nothing",
        "D": "locations",
        "E": "offsets",
        "F": "aggregation",
    },
    WORDS,
    {
        ("A", "offsets"): "row O shows the offset that most others have",
        ("A", "locations"): "its points are where those of most others are",
        ("A", "interpolation"): "its output follows when the points move a little",
        ("A", "aggregation"): "the first outputs all come from head 0, as they do for most others",
        (
            "A",
            "nothing",
        ): "compare its dots with those of the other panels: not where, but how large they are",
        ("B", "offsets"): "row O shows the offset that most others have",
        ("B", "weights"): "in the rows of W it is like most others",
        ("B", "locations"): "its points are where those of most others are",
        ("B", "aggregation"): "the first outputs all come from head 0, as they do for most others",
        ("B", "nothing"): "one of its numbers is unlike that of any other program",
        ("C", "offsets"): "row O shows the offset that most others have",
        ("C", "weights"): "in the rows of W it is like most others",
        ("C", "locations"): "its points are where those of most others are",
        ("C", "interpolation"): "its output follows when the points move a little",
        ("C", "aggregation"): "the first outputs all come from head 0, as they do for most others",
        ("D", "offsets"): "row O shows the offset that most others have",
        ("D", "weights"): "in the rows of W it is like most others",
        ("D", "interpolation"): "its output follows when the points move a little",
        ("D", "aggregation"): "the first outputs all come from head 0, as they do for most others",
        ("D", "nothing"): "compare where its points are with the other panels",
        (
            "E",
            "weights",
        ): "many dots may lie on top of each other; the rows of W say what their weights are",
        (
            "E",
            "locations",
        ): "a step is broken only if what it was given is right: look at the row above",
        ("E", "interpolation"): "its output follows when the points move a little",
        ("E", "aggregation"): "the first outputs all come from head 0, as they do for most others",
        ("E", "nothing"): "count the dots that can be seen in its panel",
        ("F", "offsets"): "row O shows the offset that most others have",
        ("F", "weights"): "in the rows of W it is like most others",
        ("F", "locations"): "its points are where those of most others are",
        ("F", "interpolation"): "its output follows when the points move a little",
        ("F", "nothing"): "its figure is right; go through the table to the last row",
        ("A", "reference"): "its cross is where that of the others is, on the object",
        ("B", "reference"): "its cross is where that of the others is, on the object",
        ("C", "reference"): "its cross is where that of the others is, on the object",
        ("D", "reference"): "its cross is where that of the others is, on the object",
        ("E", "reference"): "its cross is where that of the others is, on the object",
        ("F", "reference"): "its cross is where that of the others is, on the object",
    },
)


class FiveSteps:
    """The attention of one query, from its recorded offsets and weights, with or without a fault.

    Args:
        record: One attention, recorded.
        query: The query.
        name: Which of the attentions of `broken_steps`.

    Attributes:
        offsets: (M, L, P, 2), what step O gives.
        weights: (M, L, P), what step W gives.
        locations: (M, L, P, 2), what step L gives, as fractions of the image.
    """

    def __init__(self, record: AttentionRecord, query: int, name: str):
        self.fault, self.shapes = broken_steps.solution[name], record.spatial_shapes
        one = slice(query, query + 1)
        self.reference = record.reference_points[:, one]  # (1, 1, L, 2 or 4)
        offsets, weights = record.offsets[:, one], record.weights[:, one]
        if self.fault == "offsets":
            offsets = torch.zeros_like(offsets)
        if self.fault == "weights":  # a softmax for each level
            weights = weights / weights.sum(-1, keepdim=True)
        used = offsets.flip(-1) if self.fault == "locations" else offsets  # (dy, dx) for (dx, dy)
        self.locations = sampling_locations(self.reference, used, self.shapes)[0, 0]
        self.offsets, self.weights = offsets[0, 0], weights[0, 0]

    def output(self, nudge: float = 0.0, first_head: float = 1.0) -> Tensor:
        """Read random feature maps, and sum.

        Args:
            nudge: Pixels of the level by which all points are moved to the right.
            first_head: What the maps of head 0 are multiplied by.

        Returns:
            (M*D,)
        """
        generator = torch.Generator().manual_seed(0)
        samples = []
        for level, (height, width) in enumerate(self.shapes):
            maps = torch.randn(self.weights.shape[0], D, height, width, generator=generator)
            maps[0] *= first_head
            moved = self.locations[:, None, level] + torch.tensor([nudge / width, 0.0])
            mode = "nearest" if self.fault == "interpolation" else "bilinear"
            read = F.grid_sample(maps, 2 * moved - 1, mode=mode, align_corners=False)
            samples.append(read[:, :, 0].transpose(1, 2))  # (M, D, 1, P) -> (M, P, D)
        stacked = torch.stack(samples, dim=1)  # (M, L, P, D)
        output = aggregate(stacked[None, None], self.weights[None, None])[0, 0]
        if self.fault == "aggregation":  # channel by channel instead of head by head
            output = output.view(-1, D).T.flatten()
        return output

    def symptoms(self) -> dict[str, float]:
        """What can be measured from outside, in the order of the steps.

        Returns:
            {what was measured, after the letter of the step: the number}.
        """
        output = self.output()
        x, y = self.offsets[0, 0, -1].tolist()
        cross = self.reference[0, 0, 0, :2]
        right, below = (self.locations[0, 0, -1] - cross).tolist()
        moved = (output - self.output(NUDGE)).abs().max().item()
        of_first_head = output[:D] != self.output(first_head=2.0)[:D]
        return {
            "O  offset of one point, to the right": x,
            "O  offset of the same point, down": y,
            "W  highest weight": self.weights.max().item(),
            "W  sum of a head's weights": self.weights[0].sum().item(),
            "L  the same point, right of the cross (% of the image)": 100 * right,
            "L  the same point, below the cross (% of the image)": 100 * below,
            f"I  change of the output when points move by {NUDGE} pixels": moved,
            f"A  of the first {D} outputs, how many read head 0": int(of_first_head.sum()),
        }
